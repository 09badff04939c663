"""Lock a fleet's folder for one hub."""

import fcntl
from pathlib import Path
from typing import IO

from schemas.errors import Code, Refused


def locked(directory: Path, name: str = "hub") -> IO[str]:
    """Lock the folder for one hub: two would sign against each other. A process with another name has other roles, and a lock of its own.

    Raises:
        Refused: another one runs.
    """
    path = directory / f"{name}.lock"
    try:
        lock = path.open("w")
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{directory} is no fleet's folder that can be written to: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Refused(Code.SETTINGS_INVALID, f"another {name} runs in {directory}") from None
    return lock

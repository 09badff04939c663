"""Lock a fleet's folder for one hub."""

import fcntl
from pathlib import Path
from typing import IO

from schemas.errors import Code, Refused

LOCK_NAME = "hub.lock"


def locked(directory: Path) -> IO[str]:
    """Lock the folder for one hub: two would sign against each other.

    Raises:
        Refused: another one runs.
    """
    path = directory / LOCK_NAME
    try:
        lock = path.open("w")
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{directory} is no fleet's folder that can be written to: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Refused(Code.SETTINGS_INVALID, f"another hub runs in {directory}") from None
    return lock

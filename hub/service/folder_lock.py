"""Lock a fleet's folder for one hub."""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import IO, Final

from schemas.errors import Code, Refused

PID_CHARACTERS_MAX: Final = 20
PAUSES_SECONDS: Final = (0.05, 0.2)  # A command that asks whether a hub runs holds the lock for a moment (hub/operations/opening.py).


def locked(directory: Path, name: str = "hub") -> IO[str]:
    """Lock the folder for one hub: two would sign against each other. A process with another name has other roles, and a lock of its own.

    Raises:
        Refused: another one runs.
    """
    path = directory / f"{name}.lock"
    try:
        lock = path.open("a+")
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{directory} is no fleet's folder that can be written to: {error.strerror}") from None
    if not _taken(lock):
        with lock:
            lock.seek(0)
            holder = lock.read(PID_CHARACTERS_MAX).strip()
        which = f" (process {holder})" if holder.isdigit() else ""
        mend = f"use it, or end it first{f': kill {holder}' if holder.isdigit() else ''}"
        raise Refused(Code.HUB_RUNNING, f"another {name} runs in {directory}{which}: {mend}; with systemd, stop its unit") from None
    with contextlib.suppress(OSError):  # Without room on the disk nobody learns its process, and it runs all the same.
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
    return lock


def _taken(lock: IO[str]) -> bool:
    for pause in (*PAUSES_SECONDS, None):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if pause is not None:
                time.sleep(pause)
        else:
            return True
    return False

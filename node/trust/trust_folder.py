"""Open, read and work in a node's trust folder, also when its disk is full or cannot be written."""

import contextlib
import tempfile
from pathlib import Path
from typing import BinaryIO

from fleetcast import disk_room
from schemas.limits import TRUST_ROLE_BYTES_MAX

SCRATCH = "scratch-"
SCRATCH_BYTES = 2 * TRUST_ROLE_BYTES_MAX  # python-tuf keeps a few roles there, and seldom one as large as it may be


def scratch_in(directory: Path, stack: contextlib.ExitStack) -> Path:
    """Return a folder for python-tuf to work in: where its own disk has no room, in another place, for nothing of it is kept."""
    for place in (directory, Path(tempfile.gettempdir()), disk_room.MEMORY_DISK):
        with contextlib.suppress(OSError):
            if disk_room.has_room(place, SCRATCH_BYTES):
                return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place)))
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=directory)))


def opened_lock(lock: Path) -> BinaryIO:
    """Open the lock file, to write where that is possible."""
    try:
        return lock.open("ab")
    except OSError as error:
        if error.errno not in disk_room.NOT_WRITABLE or not lock.exists():
            with room_in(lock):
                raise
        return lock.open("rb")  # The disk cannot be written; a lock is no writing.


def room_in(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn a full disk, or one that cannot be written, into a refusal."""
    return disk_room.refusing(f"no room on the disk for {path}", errnos=disk_room.NOT_WRITABLE)


def read_bounded(path: Path, bytes_max: int) -> bytes | None:
    """Return a file's bytes, at most one more than its bound; None when there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except FileNotFoundError:
        return None

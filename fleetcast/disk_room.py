"""Tell a disk without room apart from what else goes wrong with files, and look whether there is room before it is needed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from schemas.errors import Code, Refused

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # no space, over a user's quota, over a process's limit
FULL_OR_READ_ONLY: Final = FULL | {errno.EROFS}  # a worn-out flash disk turns read-only: it has no room either
NOT_WRITABLE: Final = FULL_OR_READ_ONLY | {errno.EACCES, errno.EPERM}  # or it belongs to another user: it may be readable all the same
TAKES_NOTHING: Final = FULL_OR_READ_ONLY | {errno.EIO}  # and before that it answers with errors
MEMORY_DISK: Final = Path("/dev/shm")  # noqa: S108  # for what a disk does not take: in a folder of its own, which nobody else may enter


def has_room(folder: Path, size_bytes: int) -> bool:
    """Return whether the disk of a folder has room for `size_bytes` more.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize >= size_bytes


def code_of(error: OSError, otherwise: Code, *, errnos: frozenset[int] = FULL) -> Code:
    """Return DISK_FULL for an error that says so, and `otherwise` for all others."""
    return Code.DISK_FULL if error.errno in errnos else otherwise


@contextlib.contextmanager
def refusing(sentence: str, *, errnos: frozenset[int] = FULL) -> Iterator[None]:
    """Turn errors that say that the disk has no room into a refusal that begins with `sentence`; all others pass.

    Raises:
        Refused: DISK_FULL.
    """
    try:
        yield
    except OSError as error:
        if error.errno in errnos:
            raise Refused(Code.DISK_FULL, f"{sentence}: {os.strerror(error.errno or 0)}") from error
        raise

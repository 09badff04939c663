"""Write files durable before visible: a reader, and the next start after a power cut, finds the old content or the new, never a part."""

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_PART: Final = re.compile(r"\.\S+\.(?:pem|uri|pub|key|crt|crl)\.(?:[a-z0-9_]{8}|[0-9]+\.partial)")  # As both functions below name one.
_NO_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})  # file systems that cannot sync a folder


@contextlib.contextmanager
def replacing(path: Path, *, mode: int | None = None, synced: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends well; otherwise `path` stays as it is, and no trace is left.

    Without `mode`, the process decides on the permissions, as it does for every new file. `synced=False` is for a file that means nothing
    after a power cut: it is whole for every reader, but may then be empty or old.
    """
    # The process's own name: two processes never write one file, and what a power cut leaves behind is soon written over.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            _remove_part(partial, waits=True)
        except OSError:  # It is not there, is a link, or lies on a file system without locks.
            partial.unlink(missing_ok=True)
        with os.fdopen(_opened(partial, 0o666 if mode is None else mode), "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # whatever the umask took from it
            if synced:
                os.fsync(file.fileno())
            partial.replace(path)  # while the file is open, and so locked
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if synced:
        sync(path.parent)


def write(path: Path, data: bytes, *, mode: int | None = None, synced: bool = True) -> None:
    """Write a whole file, as `replacing` does."""
    with replacing(path, mode=mode, synced=synced) as file:
        file.write(data)


def create(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read, and never over an existing one.

    Raises:
        FileExistsError: there is one; of two processes that create it at once, one gets this. It is durable then, too.
    """
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    while not _owned(descriptor, Path(partial)):  # Another process took it for abandoned in the moment before.
        os.close(descriptor)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.link(partial, path)  # fails if the name is taken, which a rename would not
    except FileExistsError:
        sync(path.parent)
        raise
    finally:
        Path(partial).unlink(missing_ok=True)  # `clear_parts` may do so from the moment that it is closed.
    sync(path.parent)


def clear_parts(directory: Path) -> None:
    """Remove what a crash or a power cut has left in a folder of keys and certificates of files that were being written.

    A running process holds a lock on each file that it writes, so that none of these is touched.
    """
    for path in directory.iterdir() if directory.is_dir() else ():
        if _PART.fullmatch(path.name) is None:
            continue
        with contextlib.suppress(OSError):  # It is written now, or belongs to somebody else, or is gone.
            _remove_part(path, waits=False)


def _remove_part(path: Path, *, waits: bool) -> None:
    """Remove a part under its lock, so that none is removed that somebody writes. `waits`: until it is let go.

    Raises:
        OSError: it is not there, is a link, or is locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):  # Else its writer has done, and the name is another part's.
            path.unlink()
    finally:
        os.close(descriptor)


def _opened(path: Path, mode: int) -> int:
    """Return a new file that this process alone writes."""
    while True:
        # O_EXCL: in a folder that others can write to, nobody can have put a link to another file here.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        if _owned(descriptor, path):
            return descriptor
        os.close(descriptor)


def _owned(descriptor: int, path: Path) -> bool:
    """Lock a new file against `clear_parts` until it is closed; return whether it is still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # A file system without locks: there no part can be locked to be removed, either.
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def path_of(directory: Path, digest: bytes) -> Path:
    """Return the path of a file that is named by its digest, in one of 256 folders."""
    name = digest.hex()
    return directory / name[:2] / name


def rename(source: Path, target: Path) -> None:
    """Move a durable file or folder within its file system, and make the move durable."""
    source.rename(target)
    sync(target.parent)


def make_folder(path: Path, *, mode: int = 0o777, parents: bool = False) -> None:
    """Make a folder where there is none, and its name durable: what is synced within a folder is lost with the folder's own name.

    Raises:
        FileNotFoundError: the folder above is missing, and `parents` is not set.
        FileExistsError: something else has its name.
    """
    if path.is_dir():
        return
    if parents:
        make_folder(path.parent, parents=True)
    path.mkdir(mode=mode, exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file or the names in a folder durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)

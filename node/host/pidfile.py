"""Find out whether an agent runs on a data folder: the lock that one holder may have, and the status that the agent leaves for commands to
read.

The lock is the kernel's (flock): it ends with the process, however that ends, and no stale file has to be judged. Knows no agent.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fleetcast import durable
from fleetcast.disk_room import FULL_OR_READ_ONLY, MEMORY_DISK, NOT_WRITABLE
from fleetcast.private_files import close_to_others, make_private_folder
from node.core.doctor.agent_health import AgentStatus, superseded
from schemas.errors import Code, Refused

LOCK_NAME: Final = "running.lock"
STATUS_NAME: Final = "status.json"
STATUS_BYTES_MAX: Final = 1024 * 1024  # a status with every slot and parameter that there can be is well below
READS_MAX: Final = 3
STATUS_BLOCK_BYTES: Final = 4096  # a status is filled up to whole blocks: written over, it takes no more room
LOOK_SECONDS: Final = 0.5  # a process that only looks holds the lock for a moment: it is asked for again


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one on a folder for as long as this lasts.

    Raises:
        Refused: NODE_RUNNING, naming who is there; SETTINGS_INVALID when the folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        make_private_folder(folder)  # keys, and counts of what models were asked
        descriptor = _opened(path)
    except OSError as error:
        code = Code.DISK_FULL if error.errno in FULL_OR_READ_ONLY else Code.SETTINGS_INVALID
        raise Refused(code, f"data folder {folder}: {error.strerror}") from None
    try:
        if not _locked(descriptor):
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "another one"
            raise Refused(Code.NODE_RUNNING, f"process {holder} runs on the data folder {folder} already: one folder is one node")
        with contextlib.suppress(OSError):  # a full disk: who is there is for people to read, and the lock holds without it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        close_to_others(folder.rglob("*"))  # an earlier version let others read them, where the folder let them in
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether somebody runs on the folder right now. Looks for a moment at the lock itself, and never at a process id.

    Raises:
        PermissionError: the lock is not ours to look at.
    """
    try:
        path = folder / LOCK_NAME
        descriptor = os.open(path if path.exists() else folder, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        # The disk cannot be written; a lock is no writing. Where nobody has run yet, as on a copied disk, the folder itself is locked.
        return os.open(path if path.exists() else path.parent, os.O_RDONLY | os.O_CLOEXEC)


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS / 10)
        else:
            return True


def write_status(folder: Path, status: AgentStatus) -> None:
    """Leave a status: whole or not at all. Not synced, since after a power cut it says nothing that is still so.

    On a full disk it is written over the last one, which takes no room, and of which a reader may see a part. Where the disk cannot be
    written, it is left in memory.
    """
    data = status.model_dump_json(exclude_none=True).encode()
    data += b" " * (-len(data) % STATUS_BLOCK_BYTES)
    path = folder / STATUS_NAME
    try:
        durable.write(path, data, synced=False)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        try:
            _write_over(path, data, error)
        except OSError:
            spare = _spare(folder)
            spare.parent.mkdir(mode=0o700, exist_ok=True)
            if spare.parent.lstat().st_uid != os.geteuid():
                raise error from None
            durable.write(spare, data, synced=False)
            return
    _spare(folder).unlink(missing_ok=True)


def _write_over(path: Path, data: bytes, error: OSError) -> None:
    if not path.exists() or path.stat().st_size < len(data):
        raise error
    with path.open("r+b") as file:
        file.write(data + b" " * (path.stat().st_size - len(data)))


def _spare(folder: Path) -> Path:
    """Return where a status is left whose folder cannot be written."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return MEMORY_DISK / f"fleetcast-{name}" / STATUS_NAME


def read_status(folder: Path) -> AgentStatus | None:
    """Return the last status that was left here; None when there is none, or another version of fleetcast wrote it."""
    found = [one for one in (_read(folder / STATUS_NAME), _read_spare(folder)) if one is not None]
    return max(found, key=lambda one: one.written_at, default=None)


def _read_spare(folder: Path) -> AgentStatus | None:
    """Return a status that was left in memory, if the folder's own user left it: anybody may write there."""
    spare = _spare(folder)
    try:
        is_own = spare.parent.lstat().st_uid in {folder.stat().st_uid, os.geteuid()}
    except OSError:
        return None
    return _read(spare) if is_own else None


def _read(path: Path) -> AgentStatus | None:
    for _ in range(READS_MAX):
        try:
            with path.open("rb") as file:
                return AgentStatus.model_validate_json(file.read(STATUS_BYTES_MAX))
        except ValidationError:  # perhaps it is just being written
            time.sleep(LOOK_SECONDS / 10)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return None


def supersede_status(folder: Path) -> None:
    """Mark the status that an agent before this one left, so that no command takes it for the status of the agent that now begins."""
    left = read_status(folder)
    if left is not None:
        with contextlib.suppress(OSError):  # the agent's own first status will report the disk
            write_status(folder, superseded(left))

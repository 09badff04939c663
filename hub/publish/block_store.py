"""Payloads on the hub's disk, named by their digest: verified when written and when read, whole or not there, all of a release or none.

Knows no manifest and no model. Layout: `<first two hex digits>/<digest>`; `.batch-*` are payloads that are not yet part of the store.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fleetcast import disk_room, durable
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256

_NAME = re.compile(r"[0-9a-f]{64}")
_BATCH = ".batch-"


class Batch:
    """Payloads on their way in: on disk and durable, but in no one's sight before the batch ends well."""

    def __init__(self, store: "BlockStore", folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._bytes_by_digest: dict[bytes, int] = {}

    @property
    def added_bytes(self) -> int:
        """How much the store grows by this batch; what it had already is not counted."""
        return sum(self._bytes_by_digest.values())

    def put(self, digest: bytes, data: bytes) -> None:
        """Add a payload; the same one twice, or one that the store holds undamaged, is nothing.

        Raises:
            Refused: the bytes are not those that the digest names, are more than a payload may have, or the disk has no room.
            Unreachable: the disk does not answer.
        """
        if len(data) > PAYLOAD_BYTES_MAX:
            raise Refused(Code.BLOCK_TOO_LARGE, f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
        found = sha256(data)
        if found != digest:
            raise mismatch(Code.BLOCK_DIGEST, "payload to store", expected=digest.hex(), actual=found.hex())
        if digest in self._bytes_by_digest or self._store.intact(digest):
            return
        with _disk(self._store.directory), (self._folder / digest.hex()).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._bytes_by_digest[digest] = len(data)

    def commit(self) -> None:
        """Give every payload its place. Should the disk fail here, what has its place already is whole, and stays."""
        with _disk(self._store.directory):
            places = {self._folder / digest.hex(): self._store.path(digest) for digest in self._bytes_by_digest}
            shards = {place.parent for place in places.values()}
            for shard in shards:  # all folders first: they are what a full disk would refuse
                shard.mkdir(exist_ok=True)
            for staged, place in places.items():
                staged.replace(place)
            for folder in (*shards, self._store.directory, self._store.directory.parent):
                durable.sync(folder)


class BlockStore:
    """A folder of payloads that any number of processes read and add to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def has(self, digest: bytes) -> bool:
        """Whether a payload is here; `read` says whether it is undamaged."""
        return self.path(digest).is_file()

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep a payload; it is durable on return, and the same one twice is nothing.

        Raises:
            Refused: the bytes are not those that the digest names, or the disk has no room; nothing is left behind.
            Unreachable: the disk does not answer.
        """
        with self.batch() as batch:
            batch.put(digest, data)

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Put many payloads: all are durable and visible when the block ends, none when it is left by an exception.

        Raises:
            Refused: as `put`.
            Unreachable: as `put`.
        """
        with _disk(self.directory):
            folder, lock = self._stage()
        try:
            batch = Batch(self, folder)
            yield batch
            batch.commit()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def read(self, digest: bytes) -> bytes:
        """A payload, verified again; there is no None: who asks has it from a manifest, and its absence is an error.

        Raises:
            Refused: RELEASE_UNKNOWN, it is not here; BLOCK_DIGEST, the disk has changed it.
            Unreachable: the disk does not answer.
        """
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(PAYLOAD_BYTES_MAX + 1)  # more is damage, and is not taken into memory
        except FileNotFoundError:
            raise Refused(Code.RELEASE_UNKNOWN, f"payload {digest.hex()} is not in {self.directory}") from None
        except OSError as error:
            raise Unreachable(f"payload {digest.hex()} in {self.directory} cannot be read: {error.strerror}") from error
        found = sha256(data)
        if found != digest:
            raise mismatch(Code.BLOCK_DIGEST, f"stored payload in {self.directory}", expected=digest.hex(), actual=found.hex())
        return data

    def digests(self) -> Iterator[bytes]:
        """Every payload's digest, in no order."""
        for path in self.directory.glob("??/*"):
            if _NAME.fullmatch(path.name):
                yield bytes.fromhex(path.name)

    def path(self, digest: bytes) -> Path:
        """Where a payload stands, or would."""
        name = digest.hex()
        return self.directory / name[:2] / name

    def intact(self, digest: bytes) -> bool:
        """Whether a payload is here and undamaged; a damaged one is written again by the next `put`."""
        try:
            self.read(digest)
        except (Refused, Unreachable):
            return False
        return True

    def _stage(self) -> tuple[Path, int]:
        """A folder for a new batch and the lock that says it is in use; those whose process died are cleared away."""
        self.directory.mkdir(parents=True, exist_ok=True)
        store = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(store, fcntl.LOCK_EX)  # a batch is made and locked in one, or another process would take it for a dead one's
            for left in self.directory.glob(_BATCH + "*"):
                _clear(left)
            folder = Path(tempfile.mkdtemp(prefix=_BATCH, dir=self.directory))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(store)
        return folder, lock


def _clear(folder: Path) -> None:
    with suppress(FileNotFoundError):  # its owner was just done with it
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    """The disk's errors as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in disk_room.FULL:
            raise Refused(Code.DISK_FULL, f"no room for payloads in {directory}: {error.strerror}") from error
        raise Unreachable(f"{directory} cannot be written: {error.strerror}") from error

"""Store payloads on the hub's disk by their digest: each is verified on write and on read, and a release is stored whole or not at all.

Knows no manifest and no model. Layout: `<first two hex digits>/<digest>`; `.batch-*` are payloads that are not yet part of the store.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fleetcast import disk_room, durable
from hub.publish.readable import Readable
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256

_NAME = re.compile(r"[0-9a-f]{64}")
_BATCH = ".batch-"
_LOCK = ".lock"  # Held by those who add releases, and by one who removes some.


class Batch:
    """Hold payloads that are being written: they are on disk and durable, but not visible before the batch ends well."""

    def __init__(self, store: "BlockStore", folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._bytes_by_digest: dict[bytes, int] = {}
        self._known: set[bytes] = set()  # Payloads of the batch that the store had before.

    @property
    def added_bytes(self) -> int:
        """Return how many bytes the store grows by with this batch; payloads that it had already do not count."""
        return sum(self._bytes_by_digest.values())

    def put(self, digest: bytes, data: bytes) -> None:
        """Add a payload. Do nothing if it was added before or the store holds it undamaged.

        Raises:
            Refused: the bytes are not those that the digest names, are more than a payload may have, or the disk has no room.
            Unreachable: the disk does not answer.
        """
        if len(data) > PAYLOAD_BYTES_MAX:
            raise Refused(Code.BLOCK_TOO_LARGE, f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
        found = sha256(data)
        if found != digest:
            raise mismatch(Code.BLOCK_DIGEST, "payload to store", expected=digest.hex(), actual=found.hex())
        if digest in self._bytes_by_digest:
            return
        if self._store.intact(digest):
            self._known.add(digest)
            return
        with _disk(self._store.directory), (self._folder / digest.hex()).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._bytes_by_digest[digest] = len(data)

    def commit(self) -> None:
        """Move every payload to its place. If the disk fails halfway, the payloads that were moved are whole and stay."""
        self._store.upload(self._folder, self._bytes_by_digest.keys(), self._known)
        self._store.committing()
        with _disk(self._store.directory):
            places = {self._folder / digest.hex(): self._store.path(digest) for digest in self._bytes_by_digest}
            shards = {place.parent for place in places.values()}
            for shard in shards:  # Make all folders first: a full disk refuses these before it refuses a move.
                shard.mkdir(exist_ok=True)
            for staged, place in places.items():
                staged.replace(place)
            for folder in (*shards, self._store.directory, self._store.directory.parent):
                durable.sync(folder)


class BlockStore:
    """Read and add payloads in one folder, which any number of processes may share."""

    def __init__(self, directory: Path, *, committing: Callable[[], object] = lambda: None) -> None:
        """Open a folder; `committing` is called before a batch becomes visible."""
        self.directory, self.committing = directory, committing

    @property
    def local(self) -> Readable:
        """Return what of it is read without a network: all of it."""
        return self

    def has(self, digest: bytes) -> bool:
        """Return whether a payload is here; `read` checks whether it is undamaged."""
        return self.path(digest).is_file()

    def put(self, digest: bytes, data: bytes) -> None:
        """Store a payload. It is durable on return; storing it twice does nothing.

        Raises:
            Refused: the bytes are not those that the digest names, or the disk has no room; nothing is left behind.
            Unreachable: the disk does not answer.
        """
        with self.batch() as batch:
            batch.put(digest, data)

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Store many payloads: all are durable and visible when the block ends, none when an exception leaves it.

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
        """Return a payload, verified again. A payload that is missing is an error, because the caller has its digest from a manifest.

        Raises:
            Refused: RELEASE_UNKNOWN, it is not here; BLOCK_DIGEST, the disk has changed it.
            Unreachable: the disk does not answer.
        """
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(PAYLOAD_BYTES_MAX + 1)  # A longer file is damaged and is not read into memory.
        except FileNotFoundError:
            raise Refused(Code.RELEASE_UNKNOWN, f"payload {digest.hex()} is not in {self.directory}") from None
        except OSError as error:
            raise Unreachable(f"payload {digest.hex()} in {self.directory} cannot be read: {error.strerror}") from error
        found = sha256(data)
        if found != digest:
            raise mismatch(Code.BLOCK_DIGEST, f"stored payload in {self.directory}", expected=digest.hex(), actual=found.hex())
        return data

    def upload(self, staged: Path, new: Collection[bytes], known: Collection[bytes]) -> None:
        """Bring a batch to where others read it, before it becomes visible here: nowhere, for a folder."""

    def size(self, digest: bytes) -> int:
        """Return the bytes of a payload; 0 if it is not here."""
        with suppress(FileNotFoundError):
            return self.path(digest).stat().st_size
        return 0

    def remove(self, digest: bytes) -> int:
        """Remove a payload that no release needs, and return how many bytes that freed. It is called within `removing`.

        Raises:
            Unreachable: the disk does not answer.
        """
        freed = self.size(digest)
        with _disk(self.directory):
            self.path(digest).unlink(missing_ok=True)
        return freed

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Keep payloads from being removed until the release that needs them is signed: it may use some that were here before.

        Raises:
            Refused: the disk has no room.
            Unreachable: the disk does not answer.
        """
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Keep others from adding releases while payloads are removed.

        Raises:
            Refused: RELEASE_CONFLICT while a release is being published; DISK_FULL.
            Unreachable: the disk does not answer.
        """
        with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with _disk(self.directory):
            durable.make_folder(self.directory, parents=True)
            lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, how)
            except BlockingIOError:
                reason = "a release is being published now, which may need blocks of this one: try again when it is done"
                raise Refused(Code.RELEASE_CONFLICT, reason) from None
            yield
        finally:
            os.close(lock)

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all payloads, in no particular order."""
        for path in self.directory.glob("??/*"):
            if _NAME.fullmatch(path.name):
                yield bytes.fromhex(path.name)

    def path(self, digest: bytes) -> Path:
        """Return the path of a payload, whether or not it exists."""
        return durable.path_of(self.directory, digest)

    def intact(self, digest: bytes) -> bool:
        """Return whether a payload is here and undamaged; the next `put` replaces a damaged one."""
        try:
            self.read(digest)
        except (Refused, Unreachable):
            return False
        return True

    def _stage(self) -> tuple[Path, int]:
        """Make a folder for a new batch and hold the lock that marks it as in use; remove the folders of processes that died."""
        durable.make_folder(self.directory, parents=True)
        store = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # A batch is made and locked in one step; else another process would take it for that of a dead process.
            fcntl.flock(store, fcntl.LOCK_EX)
            for left in self.directory.glob(_BATCH + "*"):
                _clear(left)
            folder = Path(tempfile.mkdtemp(prefix=_BATCH, dir=self.directory))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(store)
        return folder, lock


def _clear(folder: Path) -> None:
    with suppress(FileNotFoundError):  # The owner has just removed it.
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    """Turn the disk's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in disk_room.FULL:
            raise Refused(Code.DISK_FULL, f"no room for payloads in {directory}: {error.strerror}") from error
        raise Unreachable(f"{directory} cannot be written: {error.strerror}") from error

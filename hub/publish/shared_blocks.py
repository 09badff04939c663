"""Keep payloads in an object store that several machines share, with a folder in front of it that holds what was used last.

A publisher's payloads are in the object store before its release is signed. What the folder lacks, or has damaged, is read from the object
store, verified, and kept. The folder may be emptied at any time. What its disk does not take is kept in memory for a while.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path

from fleetcast import durable
from hub.publish.block_store import BlockStore
from hub.publish.object_store import ObjectStore
from schemas.errors import Refused, Unreachable

UPLOADS = 8  # Requests under way; their payloads are in memory. One, after the store was too slow for them.
TELL_SECONDS = 1.0  # Between two reports of how far an upload is, at the most.
HELD_BYTES_MAX = 32 * 2**20  # In memory, where the folder's disk takes nothing: what is wanted now is served all the same.
TRIMMED_SHARE = 0.9  # A folder over its bound is brought to this share of it.


class _Held:
    """Keep payloads in memory, up to a number of bytes: the oldest leave first."""

    def __init__(self) -> None:
        self._lock, self._payloads, self._bytes = threading.Lock(), OrderedDict[bytes, bytes](), 0

    def get(self, digest: bytes) -> bytes | None:
        """Return a payload, if it is here."""
        with self._lock:
            return self._payloads.get(digest)

    def keep(self, digest: bytes, data: bytes) -> None:
        """Keep one."""
        with self._lock:
            if digest in self._payloads:
                return
            self._payloads[digest] = data
            self._bytes += len(data)
            while self._bytes > HELD_BYTES_MAX:
                self._bytes -= len(self._payloads.popitem(last=False)[1])


class Elsewhere(Exception):
    """Signal that a payload is not in the folder, and would have to be fetched."""

    def __init__(self, digest: bytes) -> None:
        """Name the payload."""
        super().__init__(digest.hex())
        self.digest = digest


class SharedBlocks(BlockStore):
    """Read and add payloads in an object store, through a folder that any number of processes of this machine may share."""

    def __init__(
        self,
        directory: Path,
        objects: ObjectStore,
        *,
        committing: Callable[[], object] = lambda: None,
        tell: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        """Open the folder and the object store behind it; `tell` is called during an upload: what, how many are done, of how many."""
        super().__init__(directory, committing=committing)
        self.objects, self.tell = objects, tell
        self._held = _Held()
        self.not_kept = ""  # Why the folder did not take the last payload that was fetched; empty where it did.

    def has(self, digest: bytes) -> bool:
        """Return whether a payload is here or in the object store.

        Raises:
            Unreachable: the object store does not answer.
        """
        return self.is_local(digest) or self.objects.has(digest)

    @property
    def local(self) -> "LocalView":
        """Return a view of the folder alone."""
        return LocalView(self)

    def is_local(self, digest: bytes) -> bool:
        """Return whether a payload is in the folder, or held in its place."""
        return super().has(digest) or self._held.get(digest) is not None

    def read(self, digest: bytes) -> bytes:
        """Return a payload, verified, from the folder or else from the object store.

        Raises:
            Refused: RELEASE_UNKNOWN, neither has it; BLOCK_DIGEST, the object store has other bytes under its name.
            Unreachable: neither the disk nor the object store answers.
        """
        try:
            return self.read_local(digest)
        except (Refused, Unreachable):
            return self.fetch(digest)

    def read_local(self, digest: bytes) -> bytes:
        """Return a payload from the folder, verified, and note that it was used; or one that is held in its place.

        Raises:
            Refused: it is not here, or the disk has changed it.
            Unreachable: the disk does not answer.
        """
        held = self._held.get(digest)
        if held is not None:
            return held
        data = super().read(digest)
        with suppress(OSError):
            os.utime(self.path(digest))
        return data

    def fetch(self, digest: bytes, *, stall_seconds: float | None = None) -> bytes:
        """Return a payload from the object store, verified, and keep it: in the folder, or in memory if the disk does not take it.

        Raises:
            Refused: RELEASE_UNKNOWN, it is not there; BLOCK_DIGEST, the object store has other bytes under its name.
            Unreachable: the object store does not answer.
        """
        data = self.objects.read(digest, stall_seconds=stall_seconds)
        try:
            durable.make_folder(self.path(digest).parent, parents=True)
            durable.write(self.path(digest), data, synced=False)  # what a power cut tears is found by its digest, and read again
        except OSError as error:
            self._held.keep(digest, data)
            self.not_kept = f"{self.directory}: {error.strerror}"
        else:
            self.not_kept = ""
        return data

    def intact(self, digest: bytes) -> bool:
        """Return whether a payload is in the folder and undamaged, or held in its place."""
        try:
            self.read_local(digest)
        except (Refused, Unreachable):
            return False
        return True

    def share(self) -> int:
        """Bring to the object store what only the folder has, and return how many payloads that were.

        A fleet that had its blocks in the folder before has all of them there.

        Raises:
            Unreachable: the object store or the disk does not answer.
        """
        there = set(self.objects.digests())
        missing = [digest for digest in super().digests() if digest not in there]
        return sum(self._share(digest) for digest in missing)

    def _share(self, digest: bytes) -> bool:
        data = self._undamaged(digest)
        if data is not None:
            self.objects.put(digest, data)
        return data is not None

    def upload(self, staged: Path, new: Collection[bytes], known: Collection[bytes]) -> None:
        """Bring all payloads of a batch to the object store: those in its folder, and those that were in ours and may be missing there."""
        waiting = deque([*sorted(new), *sorted(known)])
        total, at_once, failed = len(waiting), UPLOADS, set[bytes]()
        running: dict[Future[None], bytes] = {}
        try:
            while waiting or running:
                self.tell(f"blocks to {self.objects.url}", total - len(waiting) - len(running), total)
                while waiting and len(running) < at_once:
                    digest = waiting.popleft()
                    read = (staged / digest.hex()).read_bytes if digest in new else partial(self._undamaged, digest)
                    running[self.objects.bring(digest, read, is_new=digest in new)] = digest
                for one in wait(running, timeout=TELL_SECONDS, return_when=FIRST_COMPLETED).done:
                    digest = running.pop(one)
                    try:
                        one.result()
                    except Unreachable:
                        if digest in failed:
                            raise
                        failed.add(digest)
                        waiting.append(digest)
                        at_once = 1  # A slow line has to carry one at a time.
        finally:
            for one in running:
                one.cancel()

    def _undamaged(self, digest: bytes) -> bytes | None:
        try:
            return super().read(digest)
        except Refused:  # damaged, or removed meanwhile: nobody is to get these bytes
            return None

    def size(self, digest: bytes) -> int:
        """Return the bytes of a payload; 0 if nobody has it.

        Raises:
            Unreachable: the object store does not answer.
        """
        return super().size(digest) or self.objects.sizes.get(digest, 0)

    def remove(self, digest: bytes) -> int:
        """Remove a payload from both, and return how many bytes that freed.

        Raises:
            Unreachable: the object store or the disk does not answer.
        """
        size = self.size(digest)
        self.objects.remove(digest)
        super().remove(digest)
        return size

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all payloads of the object store, in no particular order.

        Raises:
            Unreachable: the object store does not answer.
        """
        return self.objects.digests()

    def trim(self, bytes_max: int) -> int:
        """Remove the payloads from the folder that were not used for longest, if it holds more than this; return the bytes removed.

        What the object store lacks is brought there first.

        Raises:
            Unreachable: the object store or the disk does not answer.
        """
        found: list[tuple[float, int, bytes]] = []
        for digest in super().digests():
            with suppress(OSError):
                status = self.path(digest).stat()
                found.append((status.st_mtime, status.st_size, digest))
        excess = sum(size for _, size, _ in found) - bytes_max
        if excess <= 0:
            return 0
        excess += int(bytes_max * (1 - TRIMMED_SHARE))
        removed = 0
        for _, size, digest in sorted(found):
            if removed >= excess:
                break
            if not self.objects.has(digest):
                self._share(digest)
            removed += size
            super().remove(digest)
        return removed


class LocalView:
    """Read payloads of the folder alone, for the hub's loop, which waits for no network."""

    def __init__(self, blocks: SharedBlocks) -> None:
        """Look at the folder of these."""
        self._blocks = blocks

    def read(self, digest: bytes) -> bytes:
        """Return a payload, verified.

        Raises:
            Elsewhere: it is not in the folder, or damaged there.
        """
        try:
            return self._blocks.read_local(digest)
        except (Refused, Unreachable):
            raise Elsewhere(digest) from None

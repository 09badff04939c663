"""Keep payloads on a relay's disk, by digest, within a bound of bytes: what was used least lately goes."""

import contextlib
import os
import re
from collections import OrderedDict
from pathlib import Path

from fleetcast import disk_room, durable
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256

_NAME = re.compile("[0-9a-f]{64}")


class Cache:
    """Keep a folder of files named by their own digest: what a power cut damages is found when it is read, and fetched again."""

    def __init__(self, directory: Path, *, bytes_max: int) -> None:
        self.directory, self._bytes_max = directory, bytes_max
        self._sizes: OrderedDict[bytes, int] = OrderedDict()  # least lately used first
        self.bytes = 0
        directory.mkdir(parents=True, exist_ok=True)
        found: list[tuple[float, bytes, int]] = []
        for path in directory.glob("??/*"):
            if _NAME.fullmatch(path.name):
                stat = path.stat()
                found.append((stat.st_mtime, bytes.fromhex(path.name), stat.st_size))
            else:
                path.unlink(missing_ok=True)  # half-written when the process ended
        for _, digest, size in sorted(found):
            self._sizes[digest] = size
            self.bytes += size
        self._make_room(0)

    def __contains__(self, digest: object) -> bool:
        return digest in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep a payload that was verified.

        Raises:
            Refused: DISK_FULL, the disk has no room even for what the bound allows.
        """
        if digest in self._sizes:
            return
        self._make_room(len(data))
        path = self._path(digest)
        with disk_room.refusing(f"no room in {self.directory}"):
            path.parent.mkdir(exist_ok=True)
            durable.write(path, data, synced=False)  # a payload that a power cut damaged is found by its digest, and asked for again
        self._sizes[digest] = len(data)
        self.bytes += len(data)

    def read(self, digest: bytes) -> bytes | None:
        """Return a payload, verified again; None when it is not here, or was damaged, and is now gone."""
        if digest not in self._sizes:
            return None
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(PAYLOAD_BYTES_MAX + 1)
        except OSError:
            data = b""
        if sha256(data) != digest:
            self._drop(digest)
            return None
        self._sizes.move_to_end(digest)
        with contextlib.suppress(OSError):
            os.utime(self._path(digest))  # so that the order survives a restart
        return data

    def _make_room(self, size_bytes: int) -> None:
        while self._sizes and self.bytes + size_bytes > self._bytes_max:
            self._drop(next(iter(self._sizes)))

    def _drop(self, digest: bytes) -> None:
        self.bytes -= self._sizes.pop(digest)
        with contextlib.suppress(OSError):
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        return durable.path_of(self.directory, digest)

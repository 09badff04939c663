"""Payloads on the hub's disk, named by their digest: written once, verified when written and when read."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import Code, Refused, mismatch
from schemas.names import sha256


class BlockStore:
    """A folder of payloads: `<first two hex digits>/<digest>`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, digest: bytes) -> bool:
        """Whether a payload is here."""
        return self._path(digest).exists()

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep a payload; the same one twice is nothing.

        Raises:
            Refused: the bytes are not those that the digest names, or the disk has no room; nothing is left behind.
        """
        if sha256(data) != digest:
            raise mismatch(Code.BLOCK_DIGEST, "payload to store", expected=digest.hex(), actual=sha256(data).hex())
        path = self._path(digest)
        if path.exists():
            return
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise Refused(Code.DISK_FULL, f"no room for payloads in {self._directory}: {os.strerror(error.errno)}") from error
            raise

    def sync(self) -> None:
        """Make the names durable too; called once after many `put`s."""
        for folder in [self._directory, *self._directory.glob("??")]:
            if folder.is_dir():
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def read(self, digest: bytes) -> bytes:
        """A payload, verified again.

        Raises:
            Refused: it is not here, or the disk has changed it.
        """
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise Refused(Code.RELEASE_UNKNOWN, f"payload {digest.hex()[:16]} is not in {self._directory}") from None
        if sha256(data) != digest:
            raise mismatch(Code.BLOCK_DIGEST, "stored payload", expected=digest.hex(), actual=sha256(data).hex())
        return data

    def digests(self) -> Iterator[bytes]:
        """Every payload's digest."""
        for path in self._directory.glob("??/*"):
            if len(path.name) == 64:
                yield bytes.fromhex(path.name)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._directory / name[:2] / name

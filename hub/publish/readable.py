"""Describe what only reads payloads needs of a store: `BlockStore`, or a view of one."""

from typing import Protocol


class Readable(Protocol):
    """Read payloads by their digest."""

    def read(self, digest: bytes) -> bytes:
        """Return a payload, verified."""

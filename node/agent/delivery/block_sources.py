"""Make blocks without the road: from blocks on this disk, verified again before use, and payloads that were carried here."""

from collections.abc import Iterable

from node.storage.artifacts import Artifacts
from node.storage.sideload import Sideload
from node.storage.store import NodeStore
from schemas.encoding import decode_payload
from schemas.errors import Refused
from schemas.manifest import Block


class BlockSources:
    """Look for blocks, and forget what has changed on disk."""

    def __init__(self, store: NodeStore, artifacts: Artifacts, carried: Sideload) -> None:
        self._store, self._artifacts, self._sideload = store, artifacts, carried

    def records(self, digest: bytes) -> bool:
        """Return whether the block is recorded; only `read` says whether it still stands there."""
        return self._store.holds(digest)

    def read(self, digest: bytes, *, places: set[tuple[str, int]] | None = None) -> bytes | None:
        """Return the block, from any place where it stands; with `places`, all such places are looked at and named there."""
        data: bytes | None = None
        for stored in self._store.stored_blocks([digest]).get(digest, []):
            found = self._artifacts.holds(stored.path, stored.offset, digest, stored.bytes)
            if found is None:
                self._store.drop_block(stored.path, stored.offset)
                continue
            data = found
            if places is None:
                break
            places.add((stored.path, stored.offset))
        return data

    def join(self, parents: Iterable[bytes]) -> bytes | None:
        """Return the parents of a delta, joined in order; None when one is not here any more."""
        parts: list[bytes] = []
        for digest in parents:
            data = self.read(digest)
            if data is None:
                return None
            parts.append(data)
        return b"".join(parts)

    def unpack(self, block: Block) -> bytes | None:
        """Return the block, from a payload that was carried here."""
        for payload in block.choices:
            data = self._sideload.read(payload.digest)
            parent = self.join(payload.parents or ()) if data is not None else None
            if data is None or parent is None:
                continue
            try:
                return decode_payload(payload, block, data, parent)
            except Refused:  # a damaged stick is no fault of the release: its block comes over the road, or by another stick
                continue
        return None

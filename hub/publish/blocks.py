"""Open the payloads of a fleet: a folder, or an object store behind it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hub.publish.block_store import BlockStore

if TYPE_CHECKING:
    from hub.settings import HubSettings


class Blocks(Protocol):
    """Keep payloads by their digest: `BlockStore`, `ObjectStore`, and `SharedBlocks`, which is the one in front of the other."""

    def has(self, digest: bytes) -> bool:
        """Return whether a payload is here."""

    def read(self, digest: bytes) -> bytes:
        """Return a payload, verified."""

    def put(self, digest: bytes, data: bytes) -> None:
        """Store a payload; it is durable on return."""

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all payloads."""


def open_blocks(
    directory: Path,
    settings: "HubSettings",
    *,
    committing: Callable[[], object] = lambda: None,
    tell: Callable[[str, int, int], object] = lambda *_: None,
) -> BlockStore:
    """Return the payloads of the fleet in this folder; `committing` is called before a release's are visible, `tell` while they are sent.

    Raises:
        Refused: SETTINGS_INVALID: `blocks_url` names no object store, or obstore is not installed.
    """
    if not settings.blocks_url:
        return BlockStore(directory / "blocks", committing=committing)
    from hub.publish.object_store import ObjectStore  # noqa: PLC0415  # with an extra
    from hub.publish.shared_blocks import SharedBlocks  # noqa: PLC0415

    objects = ObjectStore(settings.blocks_url, settings.fleet, endpoint_url=settings.blocks_endpoint_url)
    return SharedBlocks(directory / "blocks", objects, committing=committing, tell=tell)

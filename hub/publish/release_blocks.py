"""Find the payloads that only one release needs, and remove them from the store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hub.publish.block_store import BlockStore
from schemas.errors import FleetcastError, Refused
from schemas.manifest import Block, File, Manifest, blocks_of


@dataclass(frozen=True, slots=True)
class Payloads:
    """Hold the payloads of a release by digest: of its files, and of the block lists by which those are found."""

    files: frozenset[bytes]
    lists: frozenset[bytes]

    @classmethod
    def of(cls, manifest: Manifest, store: BlockStore) -> "Payloads":
        """Return what the hub serves of a release.

        Raises:
            Refused: the store has lost a part of a block list.
            Unreachable: the disk does not answer.
        """
        files = {file.digest: file for variant in manifest.variants for file in manifest.files_of(variant.name)}.values()
        blocks = {
            digest for file in files for block in blocks_of(file, lambda part: store.read(part.digest)) for digest in _payloads(block)
        }
        return cls(frozenset(blocks), frozenset(digest for file in files for part in file.index for digest in _payloads(part)))

    @classmethod
    def left_of(cls, manifest: Manifest, store: BlockStore) -> "Payloads":
        """Return the same of a release that is being removed: the files whose block lists are gone already were removed before them."""
        found, lists = set[bytes](), set[bytes]()
        for variant in manifest.variants:
            for file in manifest.files_of(variant.name):
                lists |= {digest for part in file.index for digest in _payloads(part)}
                found |= set(_readable(file, store))
        return cls(frozenset(found), frozenset(lists))

    @property
    def all(self) -> frozenset[bytes]:
        """Return all of them."""
        return self.files | self.lists


def own(release: Payloads, others: Iterable[Payloads]) -> Payloads:
    """Return the payloads of a release that none of the others needs."""
    needed = frozenset[bytes]().union(*(one.all for one in others))
    return Payloads(release.files - needed, release.lists - needed)


def own_bytes(store: BlockStore, payloads: Payloads) -> int:
    """Return how many bytes of the store they take."""
    return sum(store.size(digest) for digest in payloads.all)


def own_of_each(manifests: Mapping[bytes, Manifest], store: BlockStore) -> dict[bytes, Payloads | None]:
    """Return for each release, by digest, the payloads that only it needs; None if that cannot be known, because a block list is lost."""
    found: dict[bytes, Payloads] = {}
    for digest, manifest in manifests.items():
        try:
            found[digest] = Payloads.of(manifest, store)
        except FleetcastError:
            return dict.fromkeys(manifests)
    counts: dict[bytes, int] = {}
    for one in found.values():
        for payload in one.all:
            counts[payload] = counts.get(payload, 0) + 1
    shared = frozenset(payload for payload, count in counts.items() if count > 1)
    return {digest: Payloads(one.files - shared, one.lists - shared) for digest, one in found.items()}


def free(store: BlockStore, payloads: Payloads) -> int:
    """Remove payloads and return how many bytes that freed. Block lists go last, so that a removal that was cut off can be continued.

    Raises:
        Unreachable: the disk does not answer.
    """
    return sum(store.remove(digest) for digest in (*sorted(payloads.files), *sorted(payloads.lists)))


def _readable(file: File, store: BlockStore) -> Iterator[bytes]:
    try:
        blocks = blocks_of(file, lambda part: store.read(part.digest))
    except Refused:
        return
    for block in blocks:
        yield from _payloads(block)


def _payloads(block: Block) -> Iterator[bytes]:
    return (payload.digest for payload in block.choices)

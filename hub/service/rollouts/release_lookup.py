"""Finds releases by digest: reads them from the repository when they are asked for, and keeps them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from hub.core.drift import accuracy
from hub.core.publish.signature_compatibility import Signature, check_moved
from hub.core.rollouts.moves import Movement
from hub.publish.readable import Readable
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.block_request import Want
from schemas.errors import Code, Refused
from schemas.manifest import Block, Manifest, blocks_of
from schemas.names import sha256
from schemas.rollout import ReleaseRef

log = structlog.get_logger()

LISTS_KEPT = 8  # block lists of variants, kept decoded: those of a rollout and its fallback, with room


@dataclass(frozen=True, slots=True)
class BlockLists:
    """Hold the blocks that the ranges of a want count over, for one variant."""

    blocks: tuple[Block, ...]
    index: tuple[Block, ...]


class Releases:
    """Look up the releases of the fleet, and those that were removed: what nodes still say of them is read by their manifests."""

    def __init__(self, repository: Repository, blocks: Readable) -> None:
        self._repository, self._store = repository, blocks
        self._manifests: dict[bytes, Manifest] = {}
        self._accuracies: dict[bytes, Manifest] = {}
        self._lists: dict[tuple[bytes, str], BlockLists] = {}
        self._removed: dict[tuple[str, str], bytes] = {}
        self._generation = -1

    def find(self, prefix: bytes) -> tuple[bytes, Manifest]:
        """Return a release by its digest or the first bytes of it.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        for attempt in ("kept", "read"):
            if attempt == "read":
                self._read()
            for digest, manifest in self._manifests.items():
                if digest.startswith(prefix):
                    return digest, manifest
        raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {prefix.hex()[:16]}")

    def of_stream(self, key: bytes) -> tuple[bytes, Manifest]:
        """Return what a stream's windows are read by: a release, or its accuracy as a manifest of that alone (hub/core/drift/accuracy.py).

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        if key not in self._manifests and key not in self._accuracies:
            self._read()
        return (key, self._accuracies[key]) if key in self._accuracies else self.find(key)

    def named(self, model: str, version: str) -> tuple[bytes, Manifest]:
        """Return a release by its name.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        for attempt in ("kept", "read"):
            if attempt == "read":
                self._read()
            for digest, manifest in self._manifests.items():
                if (manifest.model, manifest.version) == (model, version):
                    return digest, manifest
        raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}")

    def wanted(self, want: Want) -> list[Block]:
        """Return the blocks that a want names.

        Raises:
            Refused: there is no such release, variant or block, or they are too many.
        """
        self._read()
        if want.release in self._removed.values():
            raise Refused(Code.RELEASE_UNKNOWN, f"release {want.release.hex()[:16]} was removed, and its blocks are not served any more")
        lists = self.lists(want.release, want.variant)
        return [block for _, block in want.pick(lists.index if want.index else lists.blocks)]

    def lists(self, release: bytes, variant: str) -> BlockLists:
        """Return what the ranges of a want count over.

        Raises:
            Refused: there is no such release or variant, or the store has lost a part of the list.
        """
        key = (release, variant)
        if key not in self._lists:
            try:
                files = self.find(release)[1].files_of(variant)
            except KeyError:
                raise Refused(Code.RELEASE_UNKNOWN, f"release {release.hex()[:16]} has no variant {variant!r}") from None
            blocks = tuple(block for file in files for block in blocks_of(file, self._part))
            index = tuple(part for file in files for part in file.index)
            while len(self._lists) >= LISTS_KEPT:
                del self._lists[next(iter(self._lists))]
            self._lists[key] = BlockLists(blocks, index)
        return self._lists[key]

    def _read(self) -> None:
        generation = self._repository.generation()
        if generation == self._generation:
            return  # strangers may ask for releases that there are not as often as they like
        self._generation = generation
        for (model, version), digest in self._repository.listed().items():
            if digest not in self._manifests:
                self._take(model, version)
        removed = self._repository.removed()
        self._removed = {name: self._removed.get(name) or self._take(*name) for name in removed}

    def _take(self, model: str, version: str) -> bytes:
        document = self._repository.kept_manifest(model, version)
        digest = sha256(document)
        if digest in self._manifests:
            return digest
        try:
            manifest = self._manifests[digest] = codec.decode(Manifest, document)
        except Refused as refusal:  # A newer hub published it. Nothing can be asked of it here; the others are as good.
            log.error("manifest.refused", model=model, version=version, code=refusal.code, reason=refusal.reason)
            return digest
        if manifest.accuracy is not None:
            self._accuracies[accuracy.stream_of(digest)] = accuracy.of_accuracy(manifest)
        return digest

    def _part(self, part: Block) -> bytes:
        return self._store.read(part.digest)  # its raw payload is always stored (hub/core/delivery/encode.py), under the part's own digest


def check_movements(repository: Repository, found: Iterable[Movement], *, model: str) -> None:
    """Check that nodes which a change moves to another release get one that their programs can use.

    Raises:
        Refused: RELEASE_BREAKING, naming both releases, how they differ and how many nodes it is about.
    """
    pairs = ((signatures(repository, model, [one.after, one.before]), one.nodes) for one in found)
    check_moved((pair[0], pair[1], nodes) for pair, nodes in pairs if len(pair) == 2)  # One that was removed cannot be compared.


def signatures(repository: Repository, model: str, releases: Sequence[ReleaseRef]) -> list[Signature]:
    """Return what these releases of a model take and give; one that was removed is left out."""
    known = repository.releases(model)
    return [Signature.of(codec.decode(Manifest, repository.manifest(model, one.version))) for one in releases if one.version in known]

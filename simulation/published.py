"""Read what nodes fetch of a release that is published, from the folder of its fleet: the same figures as `fleetcast plan` has."""

from pathlib import Path

from hub.cli.options import check_model, split
from hub.operations.node_blocks import NodeBlocks
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from simulation.core.plan import Fetch


def fetches_of(directory: Path, name: str, *, variant: str | None, parent: str | None) -> dict[str, Fetch | None]:
    """Return what nodes fetch, by what they serve: each other version of the model, `parent`, `nothing`, or `release` itself.

    Raises:
        Refused: there is no such fleet, model, release or variant.
    """
    model, version = split(name)
    repository = Repository(directory / "trust")
    check_model(repository, model)
    document = repository.manifest(model, version)
    manifest, digest = codec.decode(Manifest, document), sha256(document)
    variants = [one.name for one in manifest.variants]
    chosen = variant if variant is not None else variants[0]
    if chosen not in variants:
        raise Refused(Code.SETTINGS_INVALID, f"{name} has no variant {chosen!r}; there are {', '.join(variants)}")
    blocks = NodeBlocks(Releases(repository, BlockStore(directory / "blocks")))
    found: dict[str, Fetch | None] = {"nothing": _fetch(blocks, digest, chosen, frozenset(), follows=False), "release": None}
    for other in repository.releases(model):
        if other != version:
            content = repository.manifest(model, other)
            names = [one.name for one in codec.decode(Manifest, content).variants]
            stored = frozenset({(sha256(content), chosen if chosen in names else names[0])})
            found[other] = _fetch(blocks, digest, chosen, stored, follows=True)
            if other == parent or (parent is None and sha256(content) == manifest.parent):
                found["parent"] = found[other]
    if parent is not None and "parent" not in found:
        raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{parent}; there are {', '.join(repository.releases(model))}")
    return found


def _fetch(blocks: NodeBlocks, digest: bytes, variant: str, stored: frozenset[tuple[bytes, str]], *, follows: bool) -> Fetch:
    cost = blocks.cost_of(digest, variant, stored, follows=follows)
    return Fetch(tuple(sorted(cost.fetched.values(), reverse=True)), cost.instead_bytes)

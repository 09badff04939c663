"""Show models and releases: how many nodes serve them, what they are needed as, and what removing one would free."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hub.database.store import Store
from hub.operations.opened_fleet import OpenedFleet
from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import own_bytes, own_of_each
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import FleetcastError
from schemas.manifest import Manifest, blocks_of


def model_rows(fleet: OpenedFleet) -> list[dict[str, Any]]:
    """Return a row for each model."""
    serving, known = nodes_serving(fleet.store), manifests(fleet.repository)
    return [
        _model_row(name, fleet.repository, sum(serving[digest] for digest, one in known.items() if one.model == name))
        for name in fleet.repository.models()
    ]


def release_rows(fleet: OpenedFleet, model: str | None) -> list[dict[str, Any]]:
    """Return a row for each release of one model or of all."""
    repository, blocks = fleet.repository, fleet.blocks
    serving, known = nodes_serving(fleet.store), manifests(repository)
    own = own_of_each(known, blocks)
    named = [needed_as(present_deployments(repository, name)) for name in repository.models()]
    needed = {digest: what for one in named for digest, (what, _) in one.items()}
    rows: list[dict[str, Any]] = []
    for digest, manifest in known.items():
        if model in {None, manifest.model}:
            mine = own[digest]
            frees = own_bytes(blocks, mine) if mine is not None else None
            more = {"needed_as": needed.get(digest), "removable": digest not in needed, "frees": frees}
            rows.append({**_release_row(manifest, digest, serving, blocks), **more})
    return rows


def present_deployments(repository: Repository, model: str) -> tuple[Deployment, ...]:
    """Return a model's deployments as they are signed."""
    statement = deployment_statements.read(repository, model)
    return statement.deployments.deployments if statement is not None else ()


def needed_as(deployments: Sequence[Deployment]) -> dict[bytes, tuple[str, Deployment]]:
    """Return what deployments name releases as, by digest: a release that their nodes run, or one that these go back to."""
    fallbacks = {one.fallback.digest: ("fallback", one) for one in deployments if one.fallback is not None}
    return {**fallbacks, **{one.release.digest: ("release", one) for one in deployments}}


def manifests(repository: Repository) -> dict[bytes, Manifest]:
    """Return every release of the fleet by digest."""
    return {digest: codec.decode(Manifest, repository.kept_manifest(*name)) for name, digest in repository.listed().items()}


def _model_row(model: str, repository: Repository, serving: int) -> dict[str, Any]:
    versions, deployments = repository.releases(model), present_deployments(repository, model)
    return {
        "model": model,
        "releases": len(versions),
        "newest": versions[-1] if versions else None,
        "rollout": ", ".join(f"{one.release.version} {one.state}" for one in deployments) or None,
        "nodes_serving": serving,
    }


def nodes_serving(store: Store) -> "Counter[bytes]":
    """Return how many nodes serve each release, by their receipts."""
    return Counter(store.nodes_serving())


def _release_row(manifest: Manifest, digest: bytes, serving: "Counter[bytes]", blocks: BlockStore) -> dict[str, Any]:
    files = manifest.files_of(manifest.variants[0].name)
    return {
        "model": manifest.model,
        "version": manifest.version,
        "release": digest.hex()[:12],
        "digest": digest.hex(),
        "created": datetime.fromtimestamp(manifest.created, UTC).isoformat(),
        "parent": manifest.parent.hex() if manifest.parent else None,
        "bytes": sum(file.bytes for file in files),
        "blocks": block_count(manifest, blocks),
        "variants": [variant.name for variant in manifest.variants],
        "signals": len(manifest.baseline.signals) if manifest.baseline else 0,
        "description": manifest.description,
        "nodes_serving": serving[digest],
    }


def block_count(manifest: Manifest, blocks: BlockStore) -> int | None:
    """Count a release's blocks; None when the store has lost a part of the list."""
    files = manifest.files_of(manifest.variants[0].name)
    try:
        return sum(len(blocks_of(file, lambda part: blocks.read(part.digest))) for file in files)
    except FleetcastError:
        return None

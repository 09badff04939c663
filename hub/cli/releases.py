"""`fleetcast releases`: what has been published, and how many nodes serve it."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hub.cli.options import check_model, dir_option, json_option, open_store, show
from hub.publish.block_store import BlockStore
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import FleetcastError
from schemas.manifest import Manifest, blocks_of
from schemas.names import sha256


@click.command()
@click.argument("model", required=False)
@dir_option
@json_option
def releases(model: str | None, directory: Path, as_json: bool) -> None:
    """List the releases of every model, or of one.

    \b
    Examples:
      fleetcast releases
      fleetcast releases delay --json
    """
    store, repository, blocks = open_store(directory), Repository(directory / "trust"), BlockStore(directory / "blocks")
    if model is not None:
        check_model(repository, model)
    newest = {(one.node, one.model): one.digest for one in reversed(store.receipts()) if one.outcome == "serving"}
    serving = Counter(newest.values())
    rows: list[dict[str, Any]] = []
    for name in repository.models():
        if model not in {None, name}:
            continue
        for version in repository.releases(name):
            document = repository.manifest(name, version)
            rows.append(_row(codec.decode(Manifest, document), sha256(document), serving, blocks))
    columns = ["model", "version", "release", "created", "variants", "bytes", "blocks", "signals", "nodes_serving"]
    show(rows, columns, as_json=as_json, empty="Nothing has been published.")


def _row(manifest: Manifest, digest: bytes, serving: "Counter[bytes | None]", blocks: BlockStore) -> dict[str, Any]:
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

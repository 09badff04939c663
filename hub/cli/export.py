"""`fleetcast export`: a signed release in one file, for where there is no link."""

import errno
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import click

from fleetcast import disk_room, durable
from hub.cli.options import check_model, dir_option, json_option, open_store, show_one, split
from hub.cli.progress import progress
from hub.operations.node_blocks import NodeBlocks, StoredReleases
from hub.publish.block_store import BlockStore
from hub.publish.blocks import open_blocks
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle_file import MAGIC, Parcel, write_frame
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import State
from schemas.variant_choice import choose


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--node", help="Write only the blocks that this node lacks, by its last report.")
@click.option("--variant", help="Write only this variant. The default is all.")
@dir_option
@json_option
def export(release: str, target: Path, node: str | None, variant: str | None, directory: Path, as_json: bool) -> None:
    """Write a release to a file for `fleetcast-node import`.

    A device checks the file as it checks what comes from the broker: the same signatures, the same digests.

    The file also carries the fleet's present trust metadata and deployments: roll the release out before you export it.

    \b
    Examples:
      fleetcast export delay@1.2.0 /media/usb/delay.parcel
      fleetcast export delay@1.2.0 /media/usb/gate-17.parcel --node gate-17
    """
    model, version = split(release)
    repository, blocks = Repository(directory / "trust"), open_blocks(directory, load(directory))
    check_model(repository, model)
    document = repository.manifest(model, version)
    manifest, digest = codec.decode(Manifest, document), sha256(document)
    holdings = NodeBlocks(Releases(repository, blocks))
    variants, stored = _for(manifest, node, variant, directory, holdings)
    payloads: dict[bytes, int] = {}
    for name in variants:
        payloads.update(holdings.cost_of(digest, name, stored, follows=bool(stored)).fetched)
    envelope = repository.deployments(model)
    statement = [envelope] if envelope is not None else []
    parcel = Parcel(
        fleet=load(directory).fleet,
        model=model,
        version=version,
        release=digest,
        at=int(time.time()),
        blocks=len(payloads) + len(statement),
        bytes=sum(payloads.values()) + sum(map(len, statement)),
        variant=variants[0] if len(variants) == 1 else None,
        node=node,
    )
    bundles = [("trust", codec.encode(repository.trust_bundle())), ("model", codec.encode(repository.model_bundle(model, [version])))]
    _write(target, parcel, bundles, chain(statement, _read(blocks, payloads)))
    show_one(
        {
            "file": str(target),
            "bytes": target.stat().st_size,
            "blocks": parcel.blocks,
            "variants": list(variants),
            "node": node,
            "rolled_out": repository.rollout(model) is not None or envelope is not None,
        },
        as_json=as_json,
    )


def _for(
    manifest: Manifest, node: str | None, variant: str | None, directory: Path, holdings: NodeBlocks
) -> tuple[list[str], StoredReleases]:
    names = [one.name for one in manifest.variants]
    if variant is not None and variant not in names:
        raise Refused(Code.RELEASE_NO_VARIANT, f"{manifest.model}@{manifest.version} has no variant {variant!r}; it has {', '.join(names)}")
    if node is None:
        return ([variant] if variant else names), frozenset()
    row = next((row for row in open_store(directory).nodes() if row.node == node), None)
    state = codec.decode(State, row.state) if row is not None else None
    if state is None or state.profile is None:
        raise Refused(Code.NODE_UNKNOWN, f"node {node!r} has never reported its blocks; omit --node to export the full release")
    return [variant or choose(manifest, state.profile).name], holdings.releases_of(state)


def _read(blocks: BlockStore, payloads: dict[bytes, int]) -> Iterator[bytes]:
    with progress() as report:
        for done, digest in enumerate(payloads, 1):
            yield blocks.read(digest)
            report("blocks", done, len(payloads))


def _write(target: Path, parcel: Parcel, bundles: list[tuple[str, bytes]], blocks: Iterable[bytes]) -> None:
    """Under another name until all of it is on the stick."""
    try:
        with durable.replacing(target, mode=0o644) as file:
            file.write(MAGIC)
            write_frame(file, "parcel", codec.encode(parcel))
            for kind, data in bundles:
                write_frame(file, "trust" if kind == "trust" else "model", data)
            for data in blocks:
                write_frame(file, "block", data)
            write_frame(file, "end")
    except OSError as error:
        code = Code.DISK_FULL if error.errno in disk_room.FULL else Code.SETTINGS_INVALID
        mend = f": there is no folder {target.parent}" if error.errno == errno.ENOENT else ""
        raise Refused(code, f"{target} cannot be written: {error.strerror}{mend}") from error

"""`fleetcast publish`: from a model file to a signed release."""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from hub.blockstore import BlockStore
from hub.cli.errors import FULL
from hub.cli.options import dir_option, hub_runs, json_option, open_store, passphrase, passphrase_option, show_one
from hub.cli.progress import Tell, progress
from hub.cli.releases import block_count
from hub.keys import load_signer
from hub.parents import parent_files
from hub.settings import load
from hub.trust import Repository
from schemas import codec
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, HEADER_BYTES, MIB, PACKET_BYTES_MAX, PAYLOADS_PER_BLOCK_MAX
from schemas.manifest import Limits, Manifest
from schemas.names import check_name, check_version, sha256
from schemas.state import State

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from hub.builder import BuiltRelease


SIGNING_BYTES = 1 * MIB  # a manifest (64 KiB at the most), two roles, the database's scratch files; all of them rounded up by the disk


@click.command()
@click.argument("model_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="The model's name.")
@click.option("--version", required=True, help="Such as 1.2.0; a version is published once.")
@click.option("--reference", type=click.Path(path_type=Path), help="Reference data: .parquet, .csv or .npz, a column a feature.")
@click.option("--blocks", "blocks_column", help="Column that says which day, shift or batch a row is from.")
@click.option("--columns", help="Feature columns in the model's order, with commas; else all of the reference's.")
@click.option("--signals", help="What to watch, with commas; else every feature and output.")
@click.option("--golden", type=click.Path(path_type=Path), help="npz with arrays input.<tensor> and output.<tensor>; else made up.")
@click.option(
    "--file",
    "more_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="One more file beside it: a tokenizer, labels.",
)
@click.option(
    "--block-bytes",
    type=click.IntRange(1024, BLOCK_BYTES_MAX),
    help="Largest block; else as large as the broker's packets allow, at most 122880.",
)
@click.option("--parent", help="Version that this one follows; else the newest.")
@click.option("--description", default="", help="A sentence for people.")
@click.option("--licence", default="", help="SPDX name.")
@click.option(
    "--epsilon", default=1.0, show_default=True, type=click.FloatRange(0, 64, min_open=True), help="Promised to a record in a window."
)
@click.option("--delta", default=1e-6, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--window-seconds", default=3600, show_default=True, type=click.IntRange(1))
@click.option("--latency-ms-max", default=1000.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--memory-mib-max", default=2048, show_default=True, type=click.IntRange(1, 1024 * 1024))
@click.option("--probation-seconds", default=60, show_default=True, type=click.IntRange(0))
@dir_option
@passphrase_option
@json_option
def publish(directory: Path, passphrase_file: Path | None, as_json: bool, **said: Any) -> None:
    """Sign and store a release; a running hub announces it within a second.

    \b
    Examples:
      fleetcast publish model.onnx --name delay --version 1.2.0 --reference ref.parquet --blocks day
      fleetcast publish model.onnx --name delay --version 1.2.1 --golden golden.npz --json
      fleetcast publish model.onnx --name delay --version 1.3.0 --reference ref.csv --columns month,hour,distance --signals hour
      fleetcast publish chat.gguf --name chat --version 1.0.0 --file tokenizer.json
    """
    load(directory)  # says so when there is no fleet
    model, version = check_name("model", said["name"]), check_version(said["version"])
    repository = Repository(directory / "trust")
    secret = passphrase(passphrase_file)
    team = load_signer(directory / "keys" / "team.pem", secret)
    targets = _delegator(repository, directory, model, secret)
    if version in repository.releases(model):
        with progress() as tell:
            built = _rebuild(repository, directory, said, tell)
    else:
        built = _publish(repository, directory, said, team=team, targets=targets)
    runs = hub_runs(directory)
    show_one(
        {**_summary(built, BlockStore(directory / "blocks")), "newly_delegated": targets is not None, "announced": runs}, as_json=as_json
    )
    if not runs and not as_json:
        click.echo("No hub runs here now: it is announced when one does.", err=True)


def _publish(repository: Repository, directory: Path, said: dict[str, Any], *, team: "Signer", targets: "Signer | None") -> "BuiltRelease":
    """Build, store, sign, and tell who watches."""
    model, version = said["name"], said["version"]
    with _room_to_sign(directory) as give_back:
        store = open_store(directory)  # before anything is stored: what cannot be written to is told while nothing has changed
        with progress() as tell:
            built = _build(repository, directory, BlockStore(directory / "blocks"), said, tell)
        give_back()
        if targets is not None:
            repository.delegate(model, team=team.public_key, targets=targets, now=datetime.now(UTC))
        repository.add_release(model, version, built.document, team=team, now=datetime.now(UTC))
    try:
        store.add_event("release", f"{model}@{version} was published", {"model": model, "version": version})
    except FleetcastError as error:  # it is signed and will be announced: that nobody is told now does not undo it
        click.echo(f"warning: published, but not noted for `fleetcast watch`: {error}", err=True)
    store.close()
    return built


@contextmanager
def _room_to_sign(directory: Path) -> Iterator[Callable[[], None]]:
    """Room on the disk, held while blocks are stored and given back for what is signed after them.

    Without it a disk could be full between the two: blocks would stay that no release names, or a model that is delegated and has none.

    Raises:
        Refused: there is no such room.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as held:
            os.posix_fallocate(held.fileno(), 0, SIGNING_BYTES)
            yield held.close
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Refused(Code.DISK_FULL, f"no room in {directory}: a release needs {SIGNING_BYTES} bytes besides its blocks") from error


def _delegator(repository: Repository, directory: Path, model: str, secret: bytes) -> "Signer | None":
    """The key that can delegate the model to the team, when it is not yet."""
    if model in repository.models():
        return None
    path = directory / "keys" / "targets.pem"
    if not path.exists():
        raise Refused(Code.RELEASE_UNKNOWN, f"model {model!r} is not delegated to any team, and the key that could do so is not at {path}")
    return load_signer(path, secret)


def _rebuild(repository: Repository, directory: Path, said: dict[str, Any], tell: Tell) -> "BuiltRelease":
    """The same version again: the same content is nothing, other content a conflict; either way nothing is stored.

    Raises:
        Refused: the version is published with other content.
    """
    from hub.core.release import same_content  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as elsewhere:
        built = _build(repository, directory, BlockStore(Path(elsewhere)), said, tell)
    before = codec.decode(Manifest, repository.manifest(said["name"], said["version"]))
    if not same_content(built.manifest, before):
        raise Refused(Code.RELEASE_CONFLICT, f"{said['name']}@{said['version']} is published already, with other content")
    return replace(built, manifest=before, document=codec.encode(before), digest=sha256(codec.encode(before)), stored_bytes=0)


def _build(repository: Repository, directory: Path, blocks: BlockStore, said: dict[str, Any], tell: Tell) -> "BuiltRelease":
    from hub.builder import build  # noqa: PLC0415  # onnxruntime takes a while to import
    from hub.reference import read_reference  # noqa: PLC0415
    from hub.request import PublishRequest  # noqa: PLC0415

    model, known = said["name"], repository.releases(said["name"])
    parent = said["parent"] or (known[-1] if known and known[-1] != said["version"] else None)
    if said["version"] in known and said["parent"] is None:
        parent_digest = codec.decode(Manifest, repository.manifest(model, said["version"])).parent
    else:
        parent_digest = sha256(repository.manifest(model, parent)) if parent else None
    before = codec.decode(Manifest, repository.manifest(model, said["version"])) if said["version"] in known else None
    parents = _parents(repository, directory, model, parent_digest, before)
    with parent_files(list(parents.values()), BlockStore(directory / "blocks"), directory) as files:
        request = PublishRequest(
            model_path=said["model_file"],
            name=model,
            version=said["version"],
            reference=read_reference(said["reference"]) if said["reference"] else None,
            blocks_column=said["blocks_column"],
            feature_columns=_names(said["columns"]),
            signals=_names(said["signals"]),
            golden_path=said["golden"],
            description=said["description"],
            licence=said["licence"],
            parent=parent_digest,
            parents=files,
            parent_releases=tuple(parents),
            more_files=tuple(said["more_files"]),
            block_bytes_max=_block_bytes(directory, said["block_bytes"]),
            limits=_limits(said),
            epsilon=said["epsilon"],
            delta=said["delta"],
            window_seconds=said["window_seconds"],
            progress=tell,
        )
        return build(request, blocks, now=int(time.time()))


def _parents(repository: Repository, directory: Path, model: str, parent: bytes | None, before: Manifest | None) -> dict[bytes, Manifest]:
    """The releases that a new one is encoded against: what most nodes run, and the one that it follows; else those that `before` names."""
    manifests = {sha256(one): codec.decode(Manifest, one) for one in (repository.manifest(model, v) for v in repository.releases(model))}
    if before is not None:
        return {digest: manifests[digest] for digest in before.parents or () if digest in manifests}
    running: Counter[bytes] = Counter()
    for row in open_store(directory).nodes():
        running.update(slot.serving for slot in codec.decode(State, row.state).slots if slot.serving is not None)
    most = [digest for digest, _ in running.most_common() if digest in manifests]
    chosen = dict.fromkeys([*most, *([parent] if parent in manifests else [])])
    return {digest: manifests[digest] for digest in list(chosen)[: PAYLOADS_PER_BLOCK_MAX - 1]}


def _block_bytes(directory: Path, said: int | None) -> int:
    """As large as a payload and its header may be for the broker that the hub is connected to, unless somebody says otherwise."""
    packet_bytes = PACKET_BYTES_MAX
    with suppress(OSError, ValueError, KeyError, TypeError):  # no hub runs: it will say so if its broker takes less
        packet_bytes = int(json.loads((directory / "hub.ready").read_text())["packet_bytes_max"])
    fits = min(BLOCK_BYTES_MAX, packet_bytes - HEADER_BYTES)
    if said is not None and said > fits:
        raise mismatch(Code.PACKET_TOO_SMALL, "--block-bytes for this broker", expected=f"at most {fits}", actual=said)
    return said or min(fits, load(directory).block_bytes_max)


def _names(said: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in said.split(",")) if said else None


def _limits(said: dict[str, Any]) -> Limits:
    from hub.core.release import invalid  # noqa: PLC0415  # with it comes scipy, which takes a while to import

    try:
        return Limits(
            latency_ms_max=said["latency_ms_max"],
            memory_bytes_max=said["memory_mib_max"] * MIB,
            probation_seconds=said["probation_seconds"],
        )
    except ValidationError as error:
        raise invalid(Code.SETTINGS_INVALID, "limits", error) from None


def _summary(built: "BuiltRelease", blocks: BlockStore) -> dict[str, Any]:
    manifest = built.manifest
    return {
        "model": manifest.model,
        "version": manifest.version,
        "digest": built.digest.hex(),
        "bytes": built.file_bytes,
        "blocks": block_count(manifest, blocks),
        "bytes_to_fetch": built.wire_bytes,  # by a device that has nothing yet
        "bytes_stored": built.stored_bytes,
        "manifest_bytes": len(built.document),
        "signals": [signal.name for signal in manifest.baseline.signals] if manifest.baseline else [],
        "unwatched": list(built.unwatched),
        "epsilon": manifest.privacy.epsilon if manifest.privacy else None,
        "golden": manifest.golden is not None,
    }

"""Build, sign and store releases in a fleet's folder, for the command line and for programs that `import fleetcast`."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fleetcast import interrupts
from fleetcast.disk_room import FULL
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.release_inputs import Tell, block_bytes_for, earlier_nodes, release_before, request_for, with_parents
from hub.publish.block_store import BlockStore
from hub.publish.blocks import open_blocks
from hub.signing.key_places import present
from hub.signing.keys import load_signer
from schemas import codec
from schemas.errors import Code, FleetcastError, Refused
from schemas.limits import MIB
from schemas.manifest import Manifest
from schemas.names import sha256

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from hub.core.publish.preview import Preview
    from hub.core.publish.signature_compatibility import Signature
    from hub.publish.builder import BuiltRelease
    from hub.publish.publish_request import FeatureOrder
    from hub.publish.release_file import ReleaseFile

SIGNING_BYTES = 1 * MIB  # a manifest (64 KiB at the most), two roles, the database's scratch files; all of them rounded up by the disk


def is_published(fleet: OpenedFleet, release: "ReleaseFile") -> bool:
    """Return whether this version of the model is published already."""
    return release.version in fleet.repository.releases(release.name)


def delegator(fleet: OpenedFleet, model: str, secret: bytes) -> "Signer | None":
    """Return the key that can delegate the model to the team; None where the model is delegated already.

    Raises:
        Refused: RELEASE_UNKNOWN: the key is not here; or it cannot be opened.
    """
    if model in fleet.repository.models():
        return None
    path = fleet.directory / "keys" / "targets.pem"
    if present(path.with_suffix("")) is None:
        raise Refused(Code.RELEASE_UNKNOWN, f"model {model!r} is not delegated to any team, and the key that could do so is not at {path}")
    return load_signer(path, secret)


def publish(
    fleet: OpenedFleet,
    release: "ReleaseFile",
    *,
    team: "Signer",
    targets: "Signer | None",
    breaking: bool,
    tell: Tell,
    warn: Callable[[str], None],
    confirm: "Callable[[Preview], None] | None" = None,
) -> "BuiltRelease":
    """Build, store and sign a release, and add an event for `fleetcast watch`. A version that is published already changes nothing.

    `confirm` is called with what was found before anything is signed, and may raise; `warn` with what an operator is to know.

    Raises:
        Refused: the release cannot be built, breaks programs, is published with other content, or the disk is full.
    """
    if is_published(fleet, release):
        return _rebuild(fleet, release, tell)
    model, version, repository = release.name, release.version, fleet.repository
    whole = ExitStack()  # From the first block in its place to the signature: Ctrl-C leaves all of it behind, or nothing.
    blocks = open_blocks(fleet.directory, fleet.settings, committing=lambda: whole.enter_context(interrupts.held()), tell=tell)
    with whole, blocks.adding(), _room_to_sign(fleet.directory) as give_back:
        before = (None, None) if breaking else release_before(repository, model, version)
        built = _build(fleet, blocks, release, tell, before=before, confirm=confirm)
        give_back()
        if targets is not None:
            repository.delegate(model, team=team.public_key, targets=targets, now=datetime.now(UTC))
        repository.add_release(model, version, built.document, team=team, now=datetime.now(UTC))
        try:
            fleet.store.add_event(
                "release",
                f"{model}@{version} was published",
                {"model": model, "version": version, "before": None, "after": {"releases": [version]}},
            )
        except FleetcastError as error:  # The release is signed and will be announced all the same.
            warn(f"the release is published, but `fleetcast watch` will not show it: {error}")
    return built


@contextmanager
def _room_to_sign(directory: Path) -> Iterator[Callable[[], None]]:
    """Reserve room on the disk while blocks are stored; it is given back for what is signed after them.

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


def _rebuild(fleet: OpenedFleet, release: "ReleaseFile", tell: Tell) -> "BuiltRelease":
    """Build a published version again: the same content changes nothing, other content is a conflict. Nothing is stored.

    Raises:
        Refused: the version is published with other content.
    """
    from hub.core.publish.release import same_content  # noqa: PLC0415

    document = fleet.repository.manifest(release.name, release.version)
    before = codec.decode(Manifest, document)
    proven = any(before.golden_of(variant) is not None for variant in before.variants)
    with tempfile.TemporaryDirectory() as elsewhere:
        states = any(variant.joining is not None for variant in before.variants)
        built = _build(fleet, BlockStore(Path(elsewhere)), release, tell, proves=proven, states_joining=states)
    if not same_content(built.manifest, before):
        raise Refused(Code.RELEASE_CONFLICT, f"{release.name}@{release.version} is published already, with other content")
    return replace(built, manifest=before, document=document, digest=sha256(document), stored_bytes=0)


def _build(
    fleet: OpenedFleet,
    blocks: BlockStore,
    release: "ReleaseFile",
    tell: Tell,
    *,
    before: "tuple[Signature | None, FeatureOrder | None]" = (None, None),
    confirm: "Callable[[Preview], None] | None" = None,
    proves: bool = True,
    states_joining: bool | None = None,
) -> "BuiltRelease":
    from hub.publish.builder import build  # noqa: PLC0415  # onnxruntime takes a while to import
    from hub.publish.golden_run import answers  # noqa: PLC0415

    block_bytes = block_bytes_for(fleet, release.block_bytes)
    if states_joining is None:
        states_joining = release.state_joining if release.state_joining is not None else not earlier_nodes(fleet.store)
    request = replace(request_for(release, tell=tell, answers=answers), block_bytes_max=block_bytes, confirm=confirm)
    request = replace(request, states_joining=states_joining)
    request = replace(
        request, predecessor=before[0], order_before=before[1], proves=request.proves and (proves or request.golden_path is not None)
    )
    with with_parents(request, fleet, parent=release.parent) as whole:
        return build(whole, blocks, now=int(time.time()))

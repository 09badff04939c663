"""Publish to a hub over its API: build and sign here, beside the team's key, and send what the hub does not have.

What a build reads of a fleet (releases, their payloads, what nodes there are) is mirrored into a folder that lives as long as the build, so
that the same functions build it as on the fleet's own folder.
"""

import base64
import binascii
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fleetcast import durable
from hub.client.hub_client import HubClient
from hub.database.rows import NodeRow
from hub.operations import publishing
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.release_inputs import Tell
from hub.operations.release_rows import block_count
from hub.publish.block_store import BlockStore
from hub.settings import load
from hub.signing.parsed_metadata import parsed
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import role_name
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.manifest import target_path
from schemas.names import sha256
from schemas.state import Profile, Slot, State

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from hub.core.publish.preview import Preview
    from hub.database.store import Store
    from hub.publish.builder import BuiltRelease
    from hub.publish.release_file import ReleaseFile

NODES_MIRRORED_MAX = 1000  # Nodes of one kind: which releases most nodes run does not depend on more.


@dataclass(frozen=True)
class Sent:
    """Hold a release that was published, and what it took."""

    built: "BuiltRelease"
    payloads: int
    sent_bytes: int
    blocks: int | None  # How many blocks the first variant has.


def publish(
    client: HubClient,
    release: "ReleaseFile",
    *,
    team: "Signer",
    breaking: bool,
    tell: Tell,
    confirm: "Callable[[Preview], None] | None" = None,
) -> Sent:
    """Build, sign and send a release. A version that is published already with the same content changes nothing.

    Raises:
        Refused: as for a folder; KEY_NOT_AUTHORISED: the hub has delegated the model to another key.
        Unreachable: the hub does not answer. To publish again goes on where it was.
    """
    facts = client.publishing(release.name)
    with mirrored(client, release.name, facts) as fleet:
        built = publishing.publish(
            fleet, release, team=team, targets=None, breaking=breaking, tell=tell, warn=lambda _: None, confirm=confirm
        )
        role = fleet.repository.newest_role(role_name(release.name))
        assert role is not None  # noqa: S101  # the release is in it
        count, size = _send(client, release.name, release.version, built.document, fleet.blocks, tell)
        begun = client.begin_publication(release.name, release.version, built.document)
        if begun["state"] != "done":
            client.finish_publication(str(begun["id"]), role[1], breaking=breaking)
        blocks = block_count(built.manifest, fleet.blocks)
    return Sent(built, count, size, blocks)


def _send(client: HubClient, model: str, version: str, document: bytes, blocks: BlockStore, tell: Tell) -> tuple[int, int]:
    """Send the payloads that the hub misses: first the block lists, by which it then knows the others."""
    count = size = 0
    found = client.begin_publication(model, version, document)
    while missing := cast(Mapping[str, int], found["missing"]):
        number, total = str(found["id"]), count + int(found["missing_count"])
        for name in missing:
            digest = bytes.fromhex(name)
            data = blocks.read(digest)
            client.send_payload(number, digest, data)
            count, size = count + 1, size + len(data)
            tell("sending payloads", count, max(total, count))
        after = client.publication(number)
        if after["state"] == "open" and after["missing"] == missing:
            raise Unreachable("the hub misses payloads that it has acknowledged")
        found = after
    return count, size


@contextmanager
def mirrored(client: HubClient, model: str, facts: Mapping[str, Any]) -> "Iterator[OpenedFleet]":
    """Yield a fleet that has of the hub's what a build of this model reads; payloads come when they are read.

    Raises:
        Refused: the hub's answer is not what it says.
    """
    with tempfile.TemporaryDirectory(prefix="fleetcast-publish-") as folder:
        directory = Path(folder)
        settings = f"fleet = {json.dumps(str(facts['fleet']))}\nblock_bytes_max = {int(facts['block_bytes_max'])}\nweb_listen = ''\n"
        (directory / "fleet.toml").write_text(settings)
        if facts.get("packet_bytes_max") is not None:
            (directory / "hub.ready").write_text(json.dumps({"packet_bytes_max": int(facts["packet_bytes_max"])}))
        _mirror_roles(directory / "trust" / "metadata", model, facts)
        repository = _Repository(directory / "trust", client, model)
        nodes = _Nodes(facts["nodes"], model)
        yield _Fleet(directory, load(directory), cast("Store", nodes), repository, client=client)


def _mirror_roles(metadata: Path, model: str, facts: Mapping[str, Any]) -> None:
    durable.make_folder(metadata, parents=True)
    (metadata.parent / "documents").mkdir()
    targets = _decoded(facts["targets"])
    roles = {f"{number}.root": _decoded(text) for number, text in enumerate(facts["roots"], 1)}
    roles[f"{_version(targets)}.targets"] = targets
    if facts["role"] is not None:
        role = _decoded(facts["role"])
        roles[f"{_version(role)}.{role_name(model)}"] = role
    for name, data in roles.items():
        (metadata / f"{name}.json").write_bytes(data)


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise Unreachable("the hub answered with metadata that is no base64") from None


def _version(role: bytes) -> int:
    try:
        return int(parsed(role).signed.version)
    except Exception:  # whatever TUF makes of nonsense
        raise Unreachable("the hub answered with metadata that is no TUF metadata") from None


class _Repository(Repository):
    """Fetch manifests from the hub when they are read; the model's role says which bytes they have."""

    def __init__(self, directory: Path, client: HubClient, model: str) -> None:
        super().__init__(directory)
        self._client, self._model, self._documents = client, model, directory / "documents"

    def manifest(self, model: str, version: str) -> bytes:
        """Return a release's manifest."""
        path = self._documents / target_path(model, version)
        if model == self._model and not path.exists() and version in self.releases(model):
            document = self._client.manifest(model, version)
            listed = self.listed()[model, version]
            if sha256(document) != listed:
                raise mismatch(Code.TRUST_MISMATCH, f"manifest of {model}@{version}", expected=listed.hex(), actual=sha256(document).hex())
            durable.make_folder(path.parent, parents=True)
            durable.write(path, document, synced=False)
        return super().manifest(model, version)


class _Blocks(BlockStore):
    """Fetch payloads from the hub when they are read."""

    def __init__(self, directory: Path, client: HubClient) -> None:
        super().__init__(directory)
        self._client = client

    def read(self, digest: bytes) -> bytes:
        """Return a payload."""
        if not self.has(digest):
            data = self._client.payload(digest)
            if sha256(data) != digest:
                raise mismatch(Code.BLOCK_DIGEST, "payload of the hub", expected=digest.hex(), actual=sha256(data).hex())
            return data
        return super().read(digest)

    def intact(self, digest: bytes) -> bool:
        """Return whether a payload is in the mirror: what is only at the hub is not."""
        return self.has(digest) and super().intact(digest)


@dataclass(frozen=True, slots=True)
class _Fleet(OpenedFleet):
    client: HubClient | None = None

    @property
    def blocks(self) -> BlockStore:
        """Return where payloads are."""
        assert self.client is not None  # noqa: S101
        return _Blocks(self.directory / "blocks", self.client)


class _Nodes:
    """Stand for the nodes of a fleet, as far as a build asks for them: architectures, what they can read, and what they serve."""

    def __init__(self, kinds: Sequence[Mapping[str, Any]], model: str) -> None:
        self._rows = [row for number, kind in enumerate(kinds) for row in _rows_of(number, kind, model)]

    def counted_nodes(self) -> list[NodeRow]:
        """Return a row for each node."""
        return self._rows

    def add_event(self, kind: str, text: str, facts: Mapping[str, Any]) -> None:
        """Record nothing: the hub does."""

    def close(self) -> None:
        """Close nothing."""


def _rows_of(number: int, kind: Mapping[str, Any], model: str) -> list[NodeRow]:
    try:
        serving = bytes.fromhex(kind["serving"]) if kind["serving"] is not None else None
        slots = (Slot(model=model, state="active", serving=serving, serving_version="0.0.0"),) if serving is not None else ()
        profile = Profile(arch=kind["arch"], cores=1, memory_bytes=1, labels={}) if kind["arch"] is not None else None
        findings = () if kind["reads_minors"] else None
        state = State(
            node=f"kind-{number}", session=1, status="online", at=int(time.time()), profile=profile, slots=slots, findings=findings
        )
        row = NodeRow(state.node, 1, "online", state.at, codec.encode(state), b"", "default")
        return [row] * min(int(kind["nodes"]), NODES_MIRRORED_MAX)
    except (KeyError, TypeError, ValueError, Refused):
        raise Unreachable("the hub answered with nodes that cannot be read") from None

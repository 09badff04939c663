"""A small fleet with real keys and a real repository, and what somebody who stole some of the keys can make of it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Targets

from hub.signing.key_changes import Change, KeyChanges
from hub.signing.key_offers import Offer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle, TrustRoles
from schemas.deployments import DEFAULT, Deployment, Deployments, Envelope, in_order
from schemas.errors import Refused
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout
from schemas.selectors import parse

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NAMES = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp", "rollouts", "team", "stranger")
ROLES = ("timestamp", "snapshot", "targets", "rollouts")


def manifest(version: str, *, model: str = "delay", description: str = "") -> bytes:
    block = sha256(f"{model} {version}".encode())
    graph = File(path="model.onnx", bytes=7, digest=block, blocks=(Block(block, 7),))
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 5))
    return codec.encode(
        Manifest(
            model=model,
            version=version,
            created=int(NOW.timestamp()),
            description=description,
            inputs=(tensor,),
            outputs=(tensor,),
            variants=(Variant(name="fp32", files=(graph,)),),
        )
    )


def rollout(version: str, *, serial: int = 1, model: str = "delay") -> bytes:
    reference = ReleaseRef(version, sha256(manifest(version, model=model)))
    return codec.encode(
        Rollout(model=model, serial=serial, release=reference, state="running", stages=(100,), salt=bytes(16), started=int(NOW.timestamp()))
    )


def statement(version: str, *, serial: int = 1, model: str = "delay", where: str = "", expires: datetime = NOW + 7 * DAY) -> Deployments:
    """One deployment that is done: to everybody, or to those whom a selector selects."""
    made = Deployment(
        name="some" if where else DEFAULT,
        priority=10 if where else 0,
        selector=parse(where),
        release=ReleaseRef(version, sha256(manifest(version, model=model))),
        state="done",
        rollout=serial.to_bytes(16, "big"),
        started=int(NOW.timestamp()),
    )
    return Deployments(model=model, serial=serial, expires=int(expires.timestamp()), deployments=tuple(in_order([made])))


@dataclass
class Fleet:
    """Keys, and the repository that they sign; `now` is the hub's clock."""

    repository: Repository
    keys: dict[str, CryptoSigner]
    now: datetime

    @classmethod
    def make(cls, directory: Path, *, models: Sequence[str] = ("delay",), now: datetime = NOW) -> "Fleet":
        keys = {name: CryptoSigner.generate_ed25519() for name in NAMES}
        repository = Repository.create(
            directory,
            root_signers=[keys[f"root-{number}"] for number in (1, 2, 3)],
            threshold=2,
            targets=keys["targets"],
            snapshot=keys["snapshot"],
            timestamp=keys["timestamp"],
            rollouts=keys["rollouts"],
            team=keys["team"].public_key,
            models=models,
            now=now,
        )
        return cls(repository, keys, now)

    @property
    def roots(self) -> list[CryptoSigner]:
        return [self.keys[f"root-{number}"] for number in (1, 2, 3)]

    def release(self, version: str, *, model: str = "delay", key: str = "team") -> None:
        self.repository.add_release(model, version, manifest(version, model=model), team=self.keys[key], now=self.now)

    def roll(self, version: str, *, serial: int = 1, model: str = "delay") -> None:
        document = rollout(version, serial=serial, model=model)
        self.repository.set_rollout(model, document, rollouts=self.keys["rollouts"], now=self.now)

    def deploy(self, version: str, *, serial: int = 1, model: str = "delay", where: str = "", expires: datetime | None = None) -> Envelope:
        """What the hub says on `deploy/<model>`, and has kept."""
        said = statement(version, serial=serial, model=model, where=where, expires=expires or self.now + 7 * DAY)
        self.repository.set_deployments(model, codec.encode(said), rollouts=self.keys["rollouts"])
        return codec.decode(Envelope, self.repository.deployments(model) or b"")

    def roles(self, *, after: timedelta = HOUR) -> TrustRoles:
        """What the hub says on `trust/roles` some time later; its timestamp is what it says on `trust/time`."""
        self.refresh(after=after)
        return self.repository.trust_roles()

    def refresh(self, *, after: timedelta = HOUR) -> TrustBundle:
        """What the hub says some time later."""
        self.now += after
        self.repository.refresh(snapshot=self.keys["snapshot"], timestamp=self.keys["timestamp"], now=self.now)
        return self.repository.trust_bundle()

    def models(self, *versions: str, model: str = "delay") -> ModelBundle:
        return self.repository.model_bundle(model, versions)

    def replace_key(self, name: str) -> None:
        self.keys[name] = CryptoSigner.generate_ed25519()

    @property
    def changes(self) -> KeyChanges:
        return KeyChanges(self.repository._folder.directory, "main")

    def draft(self, **change: Any) -> Offer:
        return self.changes.draft(Change(**change), now=self.now)

    def rekey(self, *roles: str) -> None:
        """Have the root name the present keys of these roles."""
        top: Any = {role: self.keys[role].public_key for role in roles}
        change_keys(self.repository, [*self.roots, self.keys["targets"]], now=self.now, top=top)

    def rekey_rollouts(self) -> None:
        """Have the targets role name the present key of the rollouts."""
        change_keys(self.repository, [self.keys["targets"]], now=self.now, rollouts=self.keys["rollouts"].public_key)


def change_keys(repository: Repository, signers: Sequence[Signer], *, now: datetime, **change: Any) -> None:
    """Draft a change of keys, have each of these sign what is theirs to sign, and take it over."""
    changes = KeyChanges(repository._folder.directory, "main")
    offer = changes.draft(Change(**change), now=now)
    for signer in signers:
        with contextlib.suppress(Refused):  # It has nothing to sign.
            offer.sign(signer)
    changes.take_over(offer, now=now)


def forged(data: bytes, *signers: CryptoSigner, **changes: Any) -> bytes:
    """Metadata with other content, signed by whoever is named; by nobody: with the signatures that it had."""
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    for field, value in changes.items():
        setattr(metadata.signed, field, value)
    if signers:
        metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def signed(data: bytes) -> Any:
    """The content of metadata."""
    return Metadata[Targets].from_bytes(data).signed


def tree(directory: Path) -> dict[str, bytes]:
    """What stands on disk, byte for byte."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

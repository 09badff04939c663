"""The fleet's TUF repository as files: who may sign what, and what has been signed. Knows no key but those it is handed, and no broker.

Every version of every role's metadata is kept as `<version>.<role>.json`; `current.json` names the set that the newest snapshot and
timestamp vouch for, and is replaced last, so that a reader always sees one that agrees with itself. Publishers and the hub are processes
of their own: a lock file keeps their changes apart.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from schemas.bundle import ManifestBytes, ModelBundle, RolloutBytes, TrustBundle, role_name
from schemas.errors import Code, Refused
from schemas.manifest import target_path
from schemas.names import check_name, version_key
from schemas.rollout import rollout_path

ROOT_DAYS, TARGETS_DAYS, TEAM_DAYS, ROLLOUTS_DAYS, SNAPSHOT_DAYS, TIMESTAMP_DAYS = 365, 180, 90, 7, 7, 1
RESIGN_SECONDS = 3600  # a fresh timestamp every hour costs a node 11 KB a day
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long a role's metadata still holds; a warning at half of its life, urgent at a fifth."""

    role: str
    expires: datetime
    severity: Literal["ok", "warning", "urgent", "expired"]


class Repository:
    """Metadata and the small documents that it vouches for, in one folder."""

    def __init__(self, directory: Path) -> None:
        self._metadata = directory / "metadata"
        self._documents = directory / "documents"
        self._lock_path = directory / "lock"

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        root_signers: Sequence[Signer],
        threshold: int,
        targets: Signer,
        snapshot: Signer,
        timestamp: Signer,
        rollouts: Signer,
        team: Key,
        models: Sequence[str],
        now: datetime,
    ) -> "Repository":
        """A new fleet's repository: root, targets with their delegations, an empty rollouts role, snapshot and timestamp."""
        repository = cls(directory)
        for folder in (repository._metadata, repository._documents):
            folder.mkdir(parents=True)
        root = Root(expires=now + timedelta(days=ROOT_DAYS), consistent_snapshot=True)
        for signer in root_signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        for role, role_signer in (("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
            root.add_key(role_signer.public_key, role)
        repository._sign("root", root, root_signers)
        top = Targets(expires=now + timedelta(days=TARGETS_DAYS))
        top.delegations = Delegations({}, {})
        _delegate(top, "rollouts", rollouts.public_key, "rollouts/*")
        for model in models:
            _delegate(top, role_name(check_name("model", model)), team, f"models/{model}/*")
        repository._sign("targets", top, [targets])
        repository._sign("rollouts", Targets(expires=now + timedelta(days=ROLLOUTS_DAYS)), [rollouts])
        repository.refresh(snapshot=snapshot, timestamp=timestamp, now=now)
        return repository

    # What is there

    def models(self) -> list[str]:
        """The models that a team may publish."""
        delegations = self._newest("targets", Targets).signed.delegations
        roles = (delegations.roles if delegations else None) or {}
        return sorted(name.removeprefix("model-") for name in roles if name.startswith("model-"))

    def releases(self, model: str) -> list[str]:
        """A model's versions, oldest first."""
        role = role_name(model)
        if self._version(role) == 0:
            return []
        prefix = target_path(model, "")
        return sorted((path.removeprefix(prefix) for path in self._newest(role, Targets).signed.targets), key=version_key)

    def manifest(self, model: str, version: str) -> bytes:
        """A release's manifest.

        Raises:
            Refused: there is no such release.
        """
        path = self._documents / target_path(model, version)
        if version not in self.releases(model) or not path.exists():
            raise Refused(
                Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}; there are {', '.join(self.releases(model)) or 'none'}"
            )
        return path.read_bytes()

    def rollout(self, model: str) -> bytes | None:
        """A model's rollout document, if there is one."""
        path = self._documents / rollout_path(model)
        return path.read_bytes() if path.exists() else None

    def root(self, version: int = 1) -> bytes:
        """A version of the root; the first is what nodes pin."""
        return self._path("root", version).read_bytes()

    def generation(self) -> int:
        """Changes whenever anything was signed: cheap to ask every second."""
        return sum(entry.stat().st_mtime_ns for entry in os.scandir(self._metadata) if entry.name.endswith(".json"))

    # What publishers and operators change

    def delegate(self, model: str, *, team: Key, targets: Signer, now: datetime) -> None:
        """Let a team's key sign `models/<model>/*`; a role without a release is in no snapshot, so nodes do not look for it yet."""
        with self._locked():
            metadata = self._newest("targets", Targets)
            self._check_key("root", "targets", targets)
            _delegate(metadata.signed, role_name(check_name("model", model)), team, f"models/{model}/*")
            self._next("targets", metadata.signed, TARGETS_DAYS, [targets], now)

    def add_release(self, model: str, version: str, manifest: bytes, *, team: Signer, now: datetime) -> None:
        """List a manifest under its version; the same bytes twice are nothing.

        Raises:
            Refused: RELEASE_UNKNOWN for a model that is not delegated, KEY_NOT_AUTHORISED for a key that it is not delegated to,
                RELEASE_CONFLICT for a version that exists with other bytes.
        """
        role, path = role_name(model), target_path(model, version)
        with self._locked():
            if model not in self.models():
                raise Refused(
                    Code.RELEASE_UNKNOWN, f"model {model!r} is not delegated to any key; known are {', '.join(self.models()) or 'none'}"
                )
            self._check_key("targets", role, team)
            signed = self._newest(role, Targets).signed if self._version(role) else _unsigned(Targets(expires=now))
            known = signed.targets.get(path)
            if known is not None:
                try:
                    known.verify_length_and_hashes(manifest)
                except RepositoryError:
                    raise Refused(Code.RELEASE_CONFLICT, f"{model}@{version} is published already, with other content") from None
                return
            _write(self._documents / path, manifest)
            signed.targets[path] = TargetFile.from_data(path, manifest, ["sha256"])
            self._next(role, signed, TEAM_DAYS, [team], now)

    def set_rollout(self, model: str, document: bytes, *, rollouts: Signer, now: datetime) -> None:
        """Sign a model's rollout."""
        path = rollout_path(model)
        with self._locked():
            self._check_key("targets", "rollouts", rollouts)
            signed = self._newest("rollouts", Targets).signed
            signed.targets[path] = TargetFile.from_data(path, document, ["sha256"])
            _write(self._documents / path, document)
            self._next("rollouts", signed, ROLLOUTS_DAYS, [rollouts], now)

    def renew_rollouts(self, *, rollouts: Signer, now: datetime) -> bool:
        """Sign the rollouts role again before it expires; it is online, and lives a week."""
        with self._locked():
            signed = self._newest("rollouts", Targets).signed
            if not _ageing(signed.expires, ROLLOUTS_DAYS, now):
                return False
            self._next("rollouts", signed, ROLLOUTS_DAYS, [rollouts], now)
            return True

    def rotate_root(self, *, old: Sequence[Signer], new: Sequence[Signer], threshold: int, now: datetime) -> None:
        """A new root version with new root keys, signed by a threshold of the old ones and of the new."""
        with self._locked():
            signed = self._newest("root", Root).signed
            for keyid in list(signed.roles["root"].keyids):
                signed.revoke_key(keyid, "root")
            for signer in new:
                signed.add_key(signer.public_key, "root")
            signed.roles["root"].threshold = threshold
            self._next("root", signed, ROOT_DAYS, [*old, *new], now)

    def rekey(self, role: str, key: Key, *, root_signers: Sequence[Signer], now: datetime) -> None:
        """A new root version that gives a top-level role another key; a version that was run ahead with a stolen one starts afresh."""
        with self._locked():
            signed = self._newest("root", Root).signed
            for keyid in list(signed.roles[role].keyids):
                signed.revoke_key(keyid, role)
            signed.add_key(key, role)
            self._next("root", signed, ROOT_DAYS, root_signers, now)

    # What the hub does

    def refresh(self, *, snapshot: Signer, timestamp: Signer, now: datetime) -> bool:
        """Vouch for what is newest: a new snapshot when a role changed or it ages, a new timestamp when that changed or an hour has passed.

        A role that was once in the snapshot stays in it for ever: nodes that saw it would refuse a snapshot without it.
        """
        with self._locked():
            versions = {f"{role}.json": MetaFile(self._version(role)) for role in self._roles()}
            fresh = self._version("snapshot") == 0
            signed = _unsigned(Snapshot(expires=now, meta={})) if fresh else self._newest("snapshot", Snapshot).signed
            changed = fresh or signed.meta != {**signed.meta, **versions} or _ageing(signed.expires, SNAPSHOT_DAYS, now)
            if changed:
                signed.meta = {**signed.meta, **versions}
                self._next("snapshot", signed, SNAPSHOT_DAYS, [snapshot], now)
            stamp = _unsigned(Timestamp(expires=now)) if self._version("timestamp") == 0 else self._newest("timestamp", Timestamp).signed
            age = now - (stamp.expires - timedelta(days=TIMESTAMP_DAYS))
            if not changed and age < timedelta(seconds=RESIGN_SECONDS) and self._current().get("root") == self._version("root"):
                return False
            stamp.snapshot_meta = MetaFile(self._version("snapshot"))
            self._next("timestamp", stamp, TIMESTAMP_DAYS, [timestamp], now)
            roles = {role: self._version(role) for role in ("root", "snapshot", "timestamp", *self._roles())}
            _write(self._metadata / "current.json", json.dumps(roles, sort_keys=True).encode())
            return True

    def trust_bundle(self) -> TrustBundle:
        """What is retained on `trust`: as of the last refresh."""
        current = self._current()

        def role(name: str) -> bytes:
            return self._path(name, current[name]).read_bytes()

        rollouts = Metadata[Targets].from_bytes(role("rollouts")).signed
        documents = []
        for path, target in sorted(rollouts.targets.items()):
            data = (self._documents / path).read_bytes()
            with contextlib.suppress(RepositoryError):  # one that was signed since the last refresh comes with the next
                target.verify_length_and_hashes(data)
                documents.append(RolloutBytes(path.removeprefix("rollouts/"), data))
        return TrustBundle(
            roots=tuple(self.root(version) for version in range(1, current["root"] + 1)),
            timestamp=role("timestamp"),
            snapshot=role("snapshot"),
            targets=role("targets"),
            rollouts=role("rollouts"),
            documents=tuple(documents),
        )

    def model_bundle(self, model: str, versions: Sequence[str]) -> ModelBundle:
        """What is retained on `model/<name>`: the role as the current snapshot has it, and these versions' manifests.

        Raises:
            Refused: the model has no release that was vouched for yet.
        """
        current = self._current().get(role_name(model))
        if current is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"model {model!r} has no release yet")
        role = self._path(role_name(model), current).read_bytes()
        listed = Metadata[Targets].from_bytes(role).signed.targets
        documents = [
            ManifestBytes(version, (self._documents / target_path(model, version)).read_bytes())
            for version in versions
            if target_path(model, version) in listed
        ]
        return ModelBundle(model=model, role=role, manifests=tuple(documents))

    def expiries(self, now: datetime) -> list[Expiry]:
        """Every role's expiry, the nearest first."""
        lives = {
            "root": ROOT_DAYS,
            "targets": TARGETS_DAYS,
            "rollouts": ROLLOUTS_DAYS,
            "snapshot": SNAPSHOT_DAYS,
            "timestamp": TIMESTAMP_DAYS,
        }
        found = []
        for role in ("root", "snapshot", "timestamp", *self._roles()):
            expires = Metadata.from_file(str(self._path(role, self._version(role)))).signed.expires
            share = (expires - now) / timedelta(days=lives.get(role, TEAM_DAYS))
            severity: Literal["ok", "warning", "urgent", "expired"]
            severity = "expired" if share <= 0 else "urgent" if share < 0.2 else "warning" if share < 0.5 else "ok"
            found.append(Expiry(role, expires, severity))
        return sorted(found, key=lambda one: one.expires)

    # Files

    def _roles(self) -> list[str]:
        """Targets, rollouts, and every model role that has metadata."""
        names = {entry.name.split(".", 1)[1].removesuffix(".json") for entry in os.scandir(self._metadata) if entry.name[0].isdigit()}
        return sorted(names - {"root", "snapshot", "timestamp"})

    def _version(self, role: str) -> int:
        suffix = f".{role}.json"
        versions = [entry.name.removesuffix(suffix) for entry in os.scandir(self._metadata) if entry.name.endswith(suffix)]
        return max((int(version) for version in versions if version.isdigit()), default=0)

    def _path(self, role: str, version: int) -> Path:
        return self._metadata / f"{version}.{role}.json"

    def _newest(self, role: str, kind: type[S]) -> "Metadata[S]":
        metadata: Metadata[Any] = Metadata.from_file(str(self._path(role, self._version(role))))
        return metadata

    def _current(self) -> dict[str, int]:
        path = self._metadata / "current.json"
        found: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _next(self, role: str, signed: Root | Timestamp | Snapshot | Targets, days: int, signers: Sequence[Signer], now: datetime) -> None:
        signed.version += 1
        signed.expires = now + timedelta(days=days)
        self._sign(role, signed, signers)

    def _sign(self, role: str, signed: Root | Timestamp | Snapshot | Targets, signers: Sequence[Signer]) -> None:
        signed.expires = signed.expires.replace(microsecond=0)
        metadata: Metadata[Any] = Metadata(signed)
        for signer in {signer.public_key.keyid: signer for signer in signers}.values():
            metadata.sign(signer, append=True)
        _write(self._path(role, signed.version), metadata.to_bytes())

    def _check_key(self, delegator: Literal["root", "targets"], role: str, signer: Signer) -> None:
        signed: Root | Targets = self._newest("root", Root).signed if delegator == "root" else self._newest("targets", Targets).signed
        keyids = signed.get_delegated_role(role).keyids
        if signer.public_key.keyid not in keyids:
            raise Refused(
                Code.KEY_NOT_AUTHORISED,
                f"key {signer.public_key.keyid[:12]} may not sign {role}: that is {', '.join(k[:12] for k in keyids)}'s",
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _delegate(targets: Targets, role: str, key: Key, pattern: str) -> None:
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise ValueError("the targets role has lost its delegations")
    delegations.roles[role] = DelegatedRole(role, [key.keyid], 1, terminating=True, paths=[pattern])
    delegations.keys[key.keyid] = key


def _unsigned(signed: S) -> S:
    signed.version = 0  # so that the next version, which is what gets signed, is the first
    return signed


def _ageing(expires: datetime, days: int, now: datetime) -> bool:
    """Whether half of a role's life is over."""
    return expires - now < timedelta(days=days) / 2


def _write(path: Path, data: bytes) -> None:
    """Durable before visible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""Manage the fleet's TUF repository as files: who may sign what, and what is signed. It is given keys, and knows no broker.

Which keys the roles name is changed by `hub.signing.key_changes`.

Publishers and operators add versions of roles. The hub's `refresh` vouches for the newest of each with a snapshot and a timestamp, and
records that set last, so a reader always sees a consistent set. They run as separate processes: a lock keeps them apart.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from hub.core.publish.metadata_expiry import RESIGN_SECONDS, Expiry, expiry, is_ageing, life
from hub.signing.delegations import delegate_to, undelegate
from hub.signing.envelopes import seal
from hub.signing.key_places import mend_of
from hub.signing.metadata_files import Stamp, files_of
from hub.signing.parsed_metadata import is_signed, parsed
from hub.signing.role_lists import Standing, is_of, rollout_file, standing_of, unlisted_rollouts, versions_of
from hub.signing.signatures import add_signature
from hub.signing.signed_elsewhere import SignedElsewhere
from hub.signing.unsigned_roles import UnsignedRoles
from schemas import codec
from schemas.bundle import MINIMUM_FIELD, READS_FIELD, ManifestBytes, ModelBundle, RolloutBytes, TrustBundle, TrustRoles, role_name
from schemas.errors import Code, Refused
from schemas.manifest import target_path
from schemas.names import VERSION_PATTERN, check_name, check_version, sha256
from schemas.rollout import rollout_path
from schemas.state import State

if TYPE_CHECKING:
    from hub.database.document_rows import Fence

READS = {State.schema_name: State.schema_minor}  # What the hub of this version reads, of documents that nodes send.
_ROLLOUTS = "rollouts"
_WITHDRAWN_FIELD = "x-fleetcast-withdrawn"  # Versions in a model's role that were published once and may not be published again.
_REMOVED_FIELD = (
    "x-fleetcast-removed"  # In the targets role: versions of models' roles up to which nothing counts, for the model was removed.
)
_TOP = frozenset({"root", "snapshot", "timestamp"})  # Roles that no snapshot lists.


class Repository(SignedElsewhere, UnsignedRoles):
    """Manage metadata and the small documents that it vouches for, in one folder."""

    def __init__(self, directory: Path, *, fence: "Fence | None" = None) -> None:
        """Open it, in the folder or in the database that it is in; `fence` refuses what a process signs that no longer leads."""
        self._folder = files_of(directory, fence=fence)
        self._read_digests: dict[str, tuple[int, dict[str, bytes]]] = {}  # By model: its role's version, and digests of manifests.
        self._is_swept = False  # Whether this process has looked for rollouts that a crash left behind.

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
        """Make a new fleet's repository: root, targets with their delegations, an empty rollouts role, snapshot and timestamp.

        Raises:
            Refused: one exists already, a model's name is invalid, or there are fewer root keys than the threshold.
        """
        keyids = {signer.public_key.keyid for signer in root_signers}
        if not 1 <= threshold <= len(keyids):
            raise Refused(Code.KEY_NOT_AUTHORISED, f"a threshold of {threshold} needs as many root keys, found {len(keyids)}")
        roles = [role_name(check_name("model", model)) for model in models]
        repository = cls(directory)
        repository._folder.make()
        root = Root(consistent_snapshot=True)
        for signer in root_signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        for role, role_signer in (("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
            root.add_key(role_signer.public_key, role)
        repository._next("root", root, root_signers, now)
        top = Targets(delegations=Delegations({}, {}))
        delegate_to(top, _ROLLOUTS, [rollouts.public_key], rollout_path("*"))
        for model, role in zip(models, roles, strict=True):
            delegate_to(top, role, [team], target_path(model, "*"))
        repository._next("targets", top, [targets], now)
        repository._next(_ROLLOUTS, Targets(), [rollouts], now)
        repository.refresh(snapshot=snapshot, timestamp=timestamp, now=now)
        return repository

    # Reading

    def models(self) -> list[str]:
        """Return the models that a team may publish."""
        with self._folder.locked():
            return self._models()

    def releases(self, model: str) -> list[str]:
        """Return a model's versions, oldest first."""
        with self._folder.locked():
            return self._releases(model)

    def listed(self) -> dict[tuple[str, str], bytes]:
        """Return the digest of every release's manifest, by model and version; each model's versions oldest first."""
        with self._folder.locked():
            return {(model, version): digest for model in self._models() for version, digest in self._digests(model).items()}

    def removed(self) -> list[tuple[str, str]]:
        """Return the releases that were removed, as model and version: what was heard of them is still read by their manifests."""
        kept = {(path.parent.name, path.name) for path in self._folder.matching(target_path("*", "*"))}
        return sorted(name for name in kept - self.listed().keys() if re.fullmatch(VERSION_PATTERN[1:-1], name[1]))

    def kept_manifest(self, model: str, version: str) -> bytes:
        """Return the manifest of a release that is listed, or was until it was removed.

        Raises:
            Refused: there is none.
        """
        path = self._folder.documents / target_path(check_name("model", model), check_version(version))
        if not self._folder.exists(path):
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}, and none was removed")
        return self._folder.read(path)

    def removed_models(self) -> list[str]:
        """Return the models that had releases and that the fleet has no more."""
        prefix = role_name("")
        with self._folder.locked():
            had = {role.removeprefix(prefix) for role in self._folder.versions() if role.startswith(prefix)}
            return sorted(had - set(self._models()))

    def manifest(self, model: str, version: str) -> bytes:
        """Return a release's manifest.

        Raises:
            Refused: there is no such release.
        """
        known = self.releases(model)
        if version not in known:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}; there are {', '.join(known) or 'none'}")
        return self._folder.read(self._folder.documents / target_path(model, version))

    def rollout(self, model: str) -> bytes | None:
        """Return a model's rollout document, or None."""
        with self._folder.locked():
            target = self._folder.newest(_ROLLOUTS, Targets).signed.targets.get(rollout_path(model))
            return self._folder.read(rollout_file(self._folder, model, target)) if target else None

    def deployments(self, model: str) -> bytes | None:
        """Return a model's signed deployments in their envelope, or None."""
        path = self._folder.statements / check_name("model", model)
        with self._folder.locked():
            return self._folder.read(path) if self._folder.exists(path) else None

    def device_settings(self, node: str) -> bytes | None:
        """Return the signed settings of a node in their envelope, or None."""
        path = self._folder.settings / check_name("node", node)
        with self._folder.locked():
            return self._folder.read(path) if self._folder.exists(path) else None

    def nodes_with_settings(self) -> dict[str, Stamp]:
        """Return the nodes that have settings, each with a stamp that changes when they do."""
        with self._folder.locked():
            return self._folder.stamps(self._folder.settings)

    def root(self, version: int = 1) -> bytes:
        """Return a version of the root; nodes pin the first."""
        return self._folder.read(self._folder.path("root", version))

    def newest_role(self, role: str) -> tuple[int, bytes] | None:
        """Return the newest version of a role and its metadata, such as a team's or `targets`; None where there is none."""
        with self._folder.locked():
            version = self._folder.version(role)
            return (version, self._folder.newest_bytes(role)) if version else None

    def generation(self, *, thorough: bool = False) -> int:
        """Return a value that changes whenever anything is signed; it is cheap to ask for every second.

        Only a `thorough` look sees a file that was changed without being written anew.
        """
        return self._folder.generation(thorough=thorough)

    def versions_by_digest(self, model: str) -> dict[bytes, str]:
        """Return the version of each listed release of a model, by its digest."""
        return {digest: version for (name, version), digest in self.listed().items() if name == model}

    def standing(self) -> dict[str, Standing]:
        """Return, for each model, what changes whenever something was signed of it, as of the last refresh."""
        with self._folder.locked():
            return standing_of(self._folder, self._models(), self._removed())

    def keyids(self, role: str) -> list[str]:
        """Return the ids of the keys that sign a role now: a top-level one, the rollouts, or a model's."""
        with self._folder.locked():
            return list(self._delegator("root" if role in {*_TOP, "targets"} else "targets").get_delegated_role(role).keyids)

    def key_of(self, role: str, keyid: bytes) -> Key | None:
        """Return a key that signs a delegated role now, by its id; None where no such key does."""
        with self._folder.locked():
            delegations = self._folder.newest("targets", Targets).signed.delegations
        roles = (delegations.roles if delegations is not None else None) or {}
        named = role in roles and keyid.hex() in roles[role].keyids
        return delegations.keys.get(keyid.hex()) if named and delegations is not None else None

    def minimums(self) -> dict[str, str]:
        """Return the oldest version of each model that nodes may activate, where the targets role says one."""
        with self._folder.locked():
            return dict(self._folder.newest("targets", Targets).signed.unrecognized_fields.get(MINIMUM_FIELD, {}))

    def has_announced(self, versions: Mapping[str, int]) -> bool:
        """Return whether the last `refresh` vouched for these versions of roles, or for later ones."""
        with self._folder.locked():
            current = self._folder.current()
            return all(current.get(role, 0) >= version for role, version in versions.items())

    # Changes that the offline targets key signs

    def delegate(self, model: str, *, team: Key, targets: Signer, now: datetime) -> None:
        """Let a team's key, and no other key, sign `models/<model>/*`.

        Nodes see the role when it has a release: no snapshot lists an empty role.

        Nodes refuse what another key signed before, until `renew_releases` names the releases that the new team takes over.
        """
        with self._folder.locked():
            signed = self._folder.draft("targets", Targets)
            self._check_key("root", "targets", targets)
            delegate_to(signed, role_name(check_name("model", model)), [team], target_path(model, "*"))
            self._next("targets", signed, [targets], now)

    def undelegate(self, model: str, *, targets: Signer, now: datetime) -> None:
        """Remove a model with all its releases: nodes that read the new targets role stop serving it.

        Its team's role stays in the snapshot, because nodes refuse a snapshot without it. What that role listed until now never counts
        again, also if the model is delegated anew. Its manifests stay on this disk.

        Raises:
            Refused: RELEASE_UNKNOWN for a model that does not exist; KEY_NOT_AUTHORISED for another key.
        """
        with self._folder.locked():
            signed = self._without_model(model)
            self._check_key("root", "targets", targets)
            self._next("targets", signed, [targets], now)
            self._folder.remove(self._folder.statements / model)

    def _without_model(self, model: str) -> Targets:
        """Return the targets role without a model, of which what was listed until now never counts again."""
        known = self._models()
        if model not in known:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no model {model!r}; there are {', '.join(known) or 'none'}")
        signed = self._folder.draft("targets", Targets)
        undelegate(signed, role_name(model))
        signed.unrecognized_fields.get(MINIMUM_FIELD, {}).pop(model, None)
        if (version := self._folder.version(role_name(model))) > 0:
            signed.unrecognized_fields.setdefault(_REMOVED_FIELD, {})[model] = version
        return signed

    def renew_targets(self, *, targets: Signer, now: datetime) -> None:
        """Sign the targets role again: before it expires, or because the root has given it another key."""
        with self._folder.locked():
            self._check_key("root", "targets", targets)
            self._next("targets", self._folder.draft("targets", Targets), [targets], now)

    # Changes that teams sign

    def add_release(self, model: str, version: str, manifest: bytes, *, team: Signer, now: datetime) -> None:
        """List a manifest under its version; listing the same bytes again does nothing.

        Raises:
            Refused: RELEASE_UNKNOWN for a model that is not delegated; KEY_NOT_AUTHORISED for a key that it is not delegated to;
                RELEASE_CONFLICT for a version that exists with other bytes or was withdrawn.
        """
        path = target_path(model, check_version(version))
        with self._folder.locked():
            signed = self._team_role(model, team)
            if self._with_release(model, version, manifest, signed):
                self._folder.write(self._folder.documents / path, manifest)
                self._next(role_name(model), signed, [team], now)

    def _with_release(self, model: str, version: str, manifest: bytes, signed: Targets) -> bool:
        """Put a release into the draft of its model's role; False where it is listed already."""
        if not self._is_void(model) and not self._holds("targets", role_name(model)):
            raise Refused(
                Code.KEY_NOT_AUTHORISED,
                f"the releases of {model!r} are signed by a key that may no longer sign them: first renew the releases to keep",
            )
        if version in signed.unrecognized_fields.get(_WITHDRAWN_FIELD, ()):
            raise Refused(Code.RELEASE_CONFLICT, f"{model}@{version} was withdrawn; publish another version")
        path = target_path(model, version)
        known = signed.targets.get(path)
        if known is not None and not is_of(known, manifest):
            raise Refused(Code.RELEASE_CONFLICT, f"{model}@{version} is published already, with other content")
        signed.targets[path] = TargetFile.from_data(path, manifest, ["sha256"])
        return known is None

    def renew_releases(self, model: str, *, team: Signer, now: datetime, keep: Sequence[str] | None = None) -> None:
        """Sign a model's releases again: all of them before they expire, or those in `keep`, which withdraws the others for good.

        Raises:
            Refused: RELEASE_UNKNOWN for a model or version that does not exist; KEY_NOT_AUTHORISED for a key that it is not delegated to.
        """
        with self._folder.locked():
            signed = self._team_role(model, team)
            self._keep(model, signed, versions_of(model, signed) if keep is None else keep)
            self._next(role_name(model), signed, [team], now)

    def _keep(self, model: str, signed: Targets, kept: Sequence[str]) -> None:
        """Withdraw all releases but these from the draft of a model's role."""
        versions = versions_of(model, signed)
        unknown = sorted(set(kept) - set(versions))
        if unknown or not versions:
            raise Refused(Code.RELEASE_UNKNOWN, f"{model!r} has no release {', '.join(unknown)}; there are {', '.join(versions)}")
        withdrawn = {*signed.unrecognized_fields.get(_WITHDRAWN_FIELD, ()), *versions} - set(kept)
        if withdrawn:
            signed.unrecognized_fields[_WITHDRAWN_FIELD] = sorted(withdrawn)
        signed.targets = {target_path(model, version): signed.targets[target_path(model, version)] for version in kept}

    def remove_release(self, model: str, version: str, *, team: Signer, now: datetime) -> None:
        """Withdraw one release for good. Nodes that run it keep it; its manifest stays on this disk.

        Raises:
            Refused: as `renew_releases`.
        """
        self.renew_releases(model, team=team, now=now, keep=[one for one in self.releases(model) if one != version])

    # Changes that the rollouts key signs

    def set_rollout(self, model: str, document: bytes, *, rollouts: Signer, now: datetime) -> None:
        """Sign a model's rollout; signing the same bytes again does nothing."""
        path = rollout_path(check_name("model", model))
        with self._folder.locked():
            self._check_key("targets", _ROLLOUTS, rollouts)
            signed = self._folder.draft(_ROLLOUTS, Targets)
            if path in signed.targets and is_of(signed.targets[path], document) and self._holds("targets", _ROLLOUTS):
                return
            signed.targets[path] = TargetFile.from_data(path, document, ["sha256"])
            self._folder.write(rollout_file(self._folder, model, signed.targets[path]), document)
            self._next(_ROLLOUTS, signed, [rollouts], now)

    def set_deployments(self, model: str, document: bytes, *, rollouts: Signer) -> None:
        """Sign a model's deployments: no snapshot lists them, so that a step of one rollout costs other nodes nothing.

        Raises:
            Refused: KEY_NOT_AUTHORISED: the targets role names another key for rollouts.
        """
        path = self._folder.statements / check_name("model", model)
        with self._folder.locked():
            self._check_key("targets", _ROLLOUTS, rollouts)
            self._folder.write(path, codec.encode(seal("deployments", document, rollouts)))

    def set_device_settings(self, documents: Mapping[str, bytes], *, rollouts: Signer) -> dict[str, bytes]:
        """Sign the settings of some nodes, by name, and return them in their envelopes.

        Raises:
            Refused: KEY_NOT_AUTHORISED: the targets role names another key for rollouts.
        """
        if not documents:
            return {}
        paths = {node: self._folder.settings / check_name("node", node) for node in documents}
        with self._folder.locked():
            self._check_key("targets", _ROLLOUTS, rollouts)
            found = {node: codec.encode(seal("settings", document, rollouts)) for node, document in documents.items()}
            for node, envelope in found.items():
                self._folder.write(paths[node], envelope)
            return found

    def remove_device_settings(self, node: str) -> None:
        """Forget the settings of a node."""
        with self._folder.locked():
            self._folder.remove(self._folder.settings / check_name("node", node))

    def renew_rollouts(self, *, rollouts: Signer, now: datetime) -> bool:
        """Sign the rollouts role again before it expires; its key is online, and it lasts a week."""
        with self._folder.locked():
            self._check_key("targets", _ROLLOUTS, rollouts)
            expires = self._folder.newest(_ROLLOUTS, Targets).signed.expires
            if not is_ageing(_ROLLOUTS, expires, now) and self._holds("targets", _ROLLOUTS):
                return False
            self._next(_ROLLOUTS, self._folder.draft(_ROLLOUTS, Targets), [rollouts], now)
            return True

    def drop_rollouts(self, *, rollouts: Signer, now: datetime) -> list[str]:
        """Take the rollouts of removed models out of the rollouts role, and return the names of these models."""
        with self._folder.locked():
            known = self._models()
            listed = self._folder.newest(_ROLLOUTS, Targets).signed.targets
            left = [path.removeprefix(rollout_path("")) for path in listed if path.removeprefix(rollout_path("")) not in known]
            if left:
                self._check_key("targets", _ROLLOUTS, rollouts)
                signed = self._folder.draft(_ROLLOUTS, Targets)
                signed.targets = {path: one for path, one in signed.targets.items() if path.removeprefix(rollout_path("")) in known}
                self._next(_ROLLOUTS, signed, [rollouts], now)
            return left

    # Changes that the hub signs

    def refresh(self, *, snapshot: Signer, timestamp: Signer, now: datetime) -> bool:
        """Vouch for the newest roles: sign a new snapshot when a role changed or it ages, and a new timestamp when that changed or hourly.

        A role that was once in the snapshot stays in it: nodes that saw it would refuse a snapshot without it.

        Raises:
            Refused: KEY_NOT_AUTHORISED when nodes would refuse the result; the earlier snapshot and timestamp remain.
        """
        with self._folder.locked():
            self._check_key("root", "snapshot", snapshot)
            self._check_key("root", "timestamp", timestamp)
            for delegator, role in (("root", "targets"), ("targets", _ROLLOUTS)):
                if not self._holds(delegator, role):
                    raise Refused(Code.KEY_NOT_AUTHORISED, f"the {role} role has been given another key, and is not signed with it yet")
            changed = self._refresh_snapshot(snapshot, now)
            if not changed and self._is_current(now):
                return False
            stamp = self._folder.draft("timestamp", Timestamp) if self._folder.version("timestamp") else Timestamp()
            stamp.unrecognized_fields[READS_FIELD] = dict(READS)
            stamp.snapshot_meta = MetaFile(self._folder.version("snapshot"))
            self._next("timestamp", stamp, [timestamp], now)
            former = [self._folder.read(self._folder.path(_ROLLOUTS, version)) for version in self._folder.older(_ROLLOUTS)]
            self._folder.set_current(self._folder.versions())
            self._remove_rollouts(former)
            return True

    def trust_bundle(self, known: TrustBundle | None = None) -> TrustBundle:
        """Return the bundle that is retained on `trust`, as of the last refresh. Rollouts that are in `known` are taken from there."""
        by_digest = {sha256(one.document).hex(): one.document for one in (known.documents if known is not None else ())}
        with self._folder.locked():
            current = self._folder.current()
            roles = {
                name: self._folder.read(self._folder.path(name, current[name])) for name in ("timestamp", "snapshot", "targets", _ROLLOUTS)
            }
            listed = parsed(roles[_ROLLOUTS]).signed.targets
            models = {path.removeprefix(rollout_path("")): target for path, target in sorted(listed.items())}
            documents = tuple(
                RolloutBytes(model, by_digest.get(target.hashes["sha256"]) or self._folder.read(rollout_file(self._folder, model, target)))
                for model, target in models.items()
            )
            roots = tuple(self.root(version) for version in range(1, current["root"] + 1))
            return TrustBundle(roots=roots, documents=documents, **roles)

    def trust_roles(self) -> TrustRoles:
        """Return the document that is retained on `trust/roles`, as of the last refresh; `trust/time` holds its timestamp."""
        with self._folder.locked():
            current = self._folder.current()
            roles = {name: self._folder.read(self._folder.path(name, current[name])) for name in ("timestamp", "snapshot", "targets")}
            return TrustRoles(roots=tuple(self.root(version) for version in range(1, current["root"] + 1)), **roles)

    def model_bundle(self, model: str, versions: Sequence[str]) -> ModelBundle:
        """Return the bundle that is retained on `model/<name>`: the role in the current snapshot, and the manifests of these versions.

        A version that the snapshot does not list is left out.

        Raises:
            Refused: no release of the model is in the snapshot yet.
        """
        with self._folder.locked():
            current = self._folder.current().get(role_name(model))
            if current is None or current <= self._removed_at(model):
                raise Refused(Code.RELEASE_UNKNOWN, f"model {model!r} has no release yet")
            role = self._folder.read(self._folder.path(role_name(model), current))
            listed = versions_of(model, parsed(role).signed)
            documents = tuple(
                ManifestBytes(version, self._folder.read(self._folder.documents / target_path(model, version)))
                for version in dict.fromkeys(versions)
                if version in listed
            )
            return ModelBundle(model=model, role=role, manifests=documents)

    def expiries(self, now: datetime) -> list[Expiry]:
        """Return every role's expiry, the nearest first."""
        with self._folder.locked():
            gone = {role for role in self._folder.versions() if role.startswith(role_name(""))} - {role_name(one) for one in self._models()}
            roles = [role for role in self._folder.versions() if role not in gone]
            found = [expiry(role, self._folder.newest_of_any_kind(role).signed.expires, now) for role in roles]
        return sorted(found, key=lambda one: one.expires)

    # Signing

    def _is_current(self, now: datetime) -> bool:
        """Return whether the timestamp is recent, says what this hub reads, and was made under the newest root."""
        if not self._folder.version("timestamp"):
            return False
        stamp = self._folder.newest("timestamp", Timestamp).signed
        recent = now - (stamp.expires - life("timestamp")) < timedelta(seconds=RESIGN_SECONDS)
        known = stamp.unrecognized_fields.get(READS_FIELD) == READS
        return recent and known and self._folder.current().get("root") == self._folder.version("root")

    def _refresh_snapshot(self, signer: Signer, now: datetime) -> bool:
        versions = {f"{role}.json": MetaFile(version) for role, version in self._roles().items()}
        fresh = self._folder.version("snapshot") == 0
        before = Snapshot(meta={}) if fresh else self._folder.newest("snapshot", Snapshot).signed
        meta = {**before.meta, **versions}
        if not fresh and before.meta == meta and not is_ageing("snapshot", before.expires, now) and self._holds("root", "snapshot"):
            # A process may have been killed after it signed the snapshot and before the timestamp.
            return self._folder.current().get("snapshot") != before.version
        signed = before if fresh else self._folder.draft("snapshot", Snapshot)
        signed.meta = meta
        self._next("snapshot", signed, [signer], now)
        return True

    def _team_role(self, model: str, team: Signer) -> Targets:
        """Return the newest metadata of a model's role, for its team to change."""
        signed = self._role_draft(model)
        self._check_key("targets", role_name(model), team)
        return signed

    def _role_draft(self, model: str) -> Targets:
        known = self._models()
        if model not in known:
            raise Refused(Code.RELEASE_UNKNOWN, f"model {model!r} is not delegated to any key; known are {', '.join(known) or 'none'}")
        role = role_name(model)
        if not self._folder.version(role):
            return Targets()
        signed = self._folder.draft(role, Targets)
        if self._is_void(model):
            withdrawn = {*signed.unrecognized_fields.get(_WITHDRAWN_FIELD, ()), *versions_of(model, signed)}
            signed.unrecognized_fields[_WITHDRAWN_FIELD] = sorted(withdrawn)
            signed.targets = {}
        return signed

    def _next(self, role: str, signed: Root | Timestamp | Snapshot | Targets, signers: Sequence[Signer], now: datetime) -> None:
        signed.version = self._folder.version(role) + 1
        signed.expires = now + life(role)
        metadata: Metadata[Any] = Metadata(signed)
        for signer in {signer.public_key.keyid: signer for signer in signers}.values():
            add_signature(metadata, signer)
        self._folder.write(self._folder.path(role, signed.version), metadata.to_bytes())

    def _check_key(self, delegator: Literal["root", "targets"], role: str, signer: Signer) -> None:
        keyids = self._delegator(delegator).get_delegated_role(role).keyids
        if signer.public_key.keyid not in keyids:
            raise Refused(
                Code.KEY_NOT_AUTHORISED,
                f"key {signer.public_key.keyid[:12]} may not sign {role}: that is {', '.join(k[:12] for k in keyids)}'s{mend_of(role)}",
            )

    def _holds(self, delegator: str, role: str) -> bool:
        """Return whether the newest metadata of a role has the signatures that its delegator demands now."""
        return is_signed(role, self._folder.newest_bytes(role), by=self._folder.newest_bytes(delegator))

    def _delegator(self, name: str) -> Root | Targets:
        return self._folder.newest("root", Root).signed if name == "root" else self._folder.newest("targets", Targets).signed

    # Files

    def _models(self) -> list[str]:
        delegations = self._folder.newest("targets", Targets).signed.delegations
        roles = (delegations.roles if delegations else None) or {}
        prefix = role_name("")
        return sorted(name.removeprefix(prefix) for name in roles if name.startswith(prefix))

    def _releases(self, model: str) -> list[str]:
        return list(self._digests(model))

    def _digests(self, model: str) -> dict[str, bytes]:
        """Return the digests of a model's manifests by version, oldest first."""
        if self._is_void(model):
            return {}
        newest = self._folder.version(role_name(model))
        known, found = self._read_digests.get(model, (0, {}))
        if known != newest:
            signed = self._folder.newest(role_name(model), Targets).signed
            hashes = {version: signed.targets[target_path(model, version)].hashes["sha256"] for version in versions_of(model, signed)}
            found = {version: bytes.fromhex(digest) for version, digest in hashes.items()}
            self._read_digests[model] = newest, found
        return dict(found)

    def _is_void(self, model: str) -> bool:
        """Return whether nothing that the model's role lists counts: there is no role, or the model was removed since it was signed."""
        return self._folder.version(role_name(model)) <= self._removed_at(model)

    def _removed_at(self, model: str) -> int:
        """Return the version of a model's role at which the model was removed; 0 if it never was."""
        return self._removed().get(model, 0)

    def _removed(self) -> Mapping[str, int]:
        removed: dict[str, int] = self._folder.newest("targets", Targets).signed.unrecognized_fields.get(_REMOVED_FIELD, {})
        return removed

    def _roles(self) -> dict[str, int]:
        """Return targets, rollouts, and every model role that has metadata, with its newest version."""
        return {role: version for role, version in sorted(self._folder.versions().items()) if role not in _TOP}

    def _remove_rollouts(self, former: Sequence[bytes]) -> None:
        """Remove the rollouts that these earlier versions of the role list and the newest does not."""
        listed = self._folder.newest(_ROLLOUTS, Targets).signed.targets
        for path in unlisted_rollouts(self._folder, former, listed, sweeps=not self._is_swept):
            self._folder.remove(path)
        self._is_swept = True

"""Verify which rollouts and releases a node may believe, by python-tuf. Knows no broker, and no clock but the one that it is given.

The broker is an untrusted mirror: what arrives is a bundle of bytes, and the fetcher below is a dictionary of what that bundle held. A role
that is not in it is truly absent; a slow network cannot be mistaken for one. python-tuf works in a scratch folder, because it neither syncs
nor goes back. What it verified is written durably, twice, and only then believed: a damaged copy is healed from the other.
"""

import contextlib
import fcntl
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import structlog
from securesystemslib.signer import Key
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from fleetcast import durable
from node.core.trust.clock import floor_of, is_known, trusted_now
from node.core.trust.unverified_metadata import check_cost, check_serials, claimed_version, is_again
from node.trust.distinct_keys import check_distinct_keys
from node.trust.held_rollouts import HeldRollouts
from node.trust.kept_deployments import KeptDeployments
from node.trust.refusals import OtherVersionError, as_refused
from node.trust.timestamps import check_newer, verified_time
from node.trust.trust_folder import SCRATCH, opened_lock, read_bounded, room_in, scratch_in
from node.trust.verified_metadata import VerifiedMetadata
from schemas import codec
from schemas.bundle import MINIMUM_FIELD, READS_FIELD, ModelBundle, TrustBundle, TrustRoles, role_name
from schemas.deployments import Deployments, Envelope
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import ROOTS_MAX, TRUST_ROLE_BYTES_MAX, TRUST_TIME_BYTES_MAX
from schemas.manifest import Manifest, target_path
from schemas.names import VERSION_PATTERN, sha256
from schemas.rollout import Rollout, rollout_path

log = structlog.get_logger()

COPIES = ("trusted-a", "trusted-b")  # Written in this order: the first that verifies is the newest.
ROLES_COPIES = ("roles-a", "roles-b")  # Roles without rollouts, from a hub that signs deployments.
TIME_COPIES = ("time-a", "time-b")  # The newest timestamp, where it came alone.
_BASE = "mqtt://trust/"  # python-tuf wants an address; ours only serves to take names off it
_ROLLOUTS = "rollouts"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_A_MOMENT = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class View:
    """Describe what the trusted metadata says."""

    rollouts: Mapping[str, Rollout]
    models: frozenset[str]  # Models that the targets role delegates to a team.
    root_version: int
    timestamp_version: int
    snapshot_version: int
    timestamp_expires: datetime
    expires: datetime  # When the first role expires.
    stale: bool  # at the moment when this view was asked for
    refused: Mapping[str, Refused] = field(default_factory=dict)  # By model: genuine rollouts that this node does not understand.
    hub_reads: Mapping[str, int] = field(default_factory=dict)  # Newest minor version that the hub reads, by schema name.
    held: Mapping[str, Rollout] = field(default_factory=dict)  # For models in `refused`: the last rollout that was understood.
    targets_version: int = 0
    snapshot_named: int = 0  # Newest version that a trusted timestamp names; the snapshot at hand may be older.
    rollouts_expire: datetime | None = None
    roles_expire: datetime = _LONG_AGO  # The first of root, snapshot and targets.
    minimums: Mapping[str, str] = field(default_factory=dict)  # By model: the oldest version to activate, from the offline targets role.


@dataclass(frozen=True, slots=True)
class Release:
    """Hold a verified release: only `Trust.accept_model` makes one."""

    manifest: Manifest
    digest: bytes
    document: bytes  # The manifest as it was signed: encoded again, it would lack what this program does not know.


@dataclass(frozen=True, slots=True)
class _Trusted:
    """Hold verified roles, in the bytes that stand on disk, and what was read from them after verification."""

    raw: bytes
    bundle: TrustBundle | TrustRoles
    view: View
    role_versions: Mapping[str, int]  # as the snapshot lists them
    rollout_keys: Mapping[str, Key]  # Keys that may sign rollouts, deployments and settings, by id.
    root: Root
    timestamp: Timestamp
    held: Mapping[str, bytes]  # The metadata by the names under which TUF asks for it.


@dataclass(frozen=True, slots=True)
class _Belief:
    """Hold all that a node believes: the newest roles, the newest rollouts, and the newest timestamp, which may have come alone."""

    roles: _Trusted
    rollouts: _Trusted | None
    time: Timestamp
    time_raw: bytes

    @property
    def view(self) -> View:
        """Return what it says. A timestamp that came alone keeps the roles fresh; the rollouts role then expires for itself."""
        view = self.roles.view
        if self.time.version != view.timestamp_version:
            view = replace(view, expires=min(self.time.expires, view.roles_expire))
        # Rollouts of a key that was replaced are nobody's word any more.
        known = self.rollouts if self.rollouts is not None and self.rollouts.rollout_keys.keys() == self.roles.rollout_keys.keys() else None
        return replace(
            view,
            rollouts=known.view.rollouts if known is not None else MappingProxyType({}),
            refused=known.view.refused if known is not None else MappingProxyType({}),
            held=known.view.held if known is not None else MappingProxyType({}),
            hub_reads=_hub_reads(self.time),
            rollouts_expire=known.view.rollouts_expire if known is not None else None,
            timestamp_version=self.time.version,
            timestamp_expires=self.time.expires,
            snapshot_named=self.time.snapshot_meta.version,
        )


class FolderGoneError(Unreachable):
    """Report that the data folder is not where it was: its disk is not mounted, or somebody has moved it."""


class NewerRoleError(Unreachable):
    """Report that a model's role is newer than the snapshot lists: the roles that list it are to be fetched, or are on their way."""

    def __init__(self, reason: str, version: int) -> None:
        """Name the version of the role."""
        super().__init__(reason)
        self.version = version


class _Held(FetcherInterface):
    """Serve metadata from what one message held."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self._held = held

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        if name in self._held:
            return iter((self._held[name],))
        role = name.partition(".")[2]
        others = [other for other in self._held if other.partition(".")[2] == role and role != "root.json"]
        if others:
            raise OtherVersionError(f"expected {name}, found {', '.join(others)}", 409)
        raise tuf_errors.DownloadHTTPError(f"{name} is not in the bundle", 404)


class Trust:
    """Keep the trusted set of one node, in a folder: two copies of one file, and a lock."""

    def __init__(self, directory: Path, pinned_root: bytes) -> None:
        """Pin the root; `Refused` when it is not a root that its own keys sign."""
        self._directory, self._pinned = directory, pinned_root
        self._memory: dict[type[TrustBundle | TrustRoles], _Trusted] = {}
        self._time: bytes | None = None
        self._deployments, self._held = KeptDeployments(directory), HeldRollouts(directory)
        self._verified = VerifiedMetadata()
        claimed_version(pinned_root, "root")
        with as_refused("the pinned root"):
            root = Metadata[Root].from_bytes(pinned_root)
            root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
        with room_in(directory):
            durable.make_folder(directory, parents=True)

    def accept(self, bundle: TrustBundle, *, now: datetime) -> View:
        """Believe a bundle, if it is newer than or the same as what is believed.

        Raises:
            Refused: with TUF's reason as our code; nothing on disk has changed.
            FolderGoneError: nothing could be kept.
        """
        return self._accept(bundle, now=now)

    def accept_roles(self, roles: TrustRoles, *, now: datetime) -> View:
        """Believe roles that came without rollouts, if they are newer than or the same as what is believed.

        Raises:
            Refused: with TUF's reason as our code; nothing on disk has changed.
            FolderGoneError: nothing could be kept.
        """
        return self._accept(roles, now=now)

    def accept_timestamp(self, timestamp: bytes, *, now: datetime) -> View:
        """Believe a timestamp that came alone: it keeps the roles at hand fresh, and may name a newer snapshot than theirs.

        Raises:
            Refused: not signed by the key that the trusted root names for it, older than the one believed, or expired.
            Unreachable: no roles have arrived yet.
        """
        with self._locked():
            belief = self._believed()
            if belief is None:
                raise Unreachable("no trusted roles have arrived yet")
            moment = _moment(now, belief.view)
            stamp = verified_time(timestamp, belief.roles.root)
            if timestamp != belief.time_raw:
                check_newer(stamp, belief.time)
                if stamp.expires <= moment:
                    raise Refused(Code.TRUST_EXPIRED, f"timestamp: version {stamp.version} expired at {stamp.expires:%Y-%m-%d %H:%M}")
                self._keep(TIME_COPIES, timestamp)
                self._time = timestamp
                belief = replace(belief, time=stamp, time_raw=timestamp)
            return _seen_at(belief.view, moment)

    def accept_deployments(self, envelope: Envelope, *, model: str, now: datetime) -> Deployments:
        """Believe a model's deployments, durably. `model` is the one on whose topic they came.

        Raises:
            Refused: not signed by the key that the trusted targets role names for rollouts, not understood, expired, or older than the
                statement that is believed; the statements about other models stay as they are.
            Unreachable: no roles have arrived yet.
        """
        with self._locked():
            belief = self._believed()
            if belief is None:
                raise Unreachable("no trusted roles have arrived yet")
            return self._deployments.accept(envelope, belief.roles.rollout_keys, model=model, moment=_moment(now, belief.view))

    def deployments(self) -> Mapping[str, Deployments]:
        """Return every model's deployments as they were last accepted, verified again after a restart; some may have expired."""
        with self._locked():
            belief = self._believed()
            return self._deployments.all(belief.roles.rollout_keys) if belief is not None else MappingProxyType({})

    def _accept(self, bundle: TrustBundle | TrustRoles, *, now: datetime) -> View:
        with self._locked():
            belief = self._believed()
            moment = _moment(now, belief.view if belief is not None else None)
            earlier = self._memory.get(type(bundle))
            if belief is not None and earlier is not None and is_again(bundle, earlier.bundle):
                return _seen_at(belief.view, moment)
            trusted = self._verify(bundle, moment=moment, belief=belief)
            if isinstance(bundle, TrustBundle):
                self._held.write(trusted.view.held)  # Before the bundle, which no longer says it.
            self._keep(_copies(type(bundle)), trusted.raw)
            self._memory[type(bundle)] = trusted
            return _seen_at(self._belief_of(list(self._memory.values())).view, moment)

    def accept_model(
        self, bundle: ModelBundle, *, now: datetime, refused: Callable[[str, Refused], object] = lambda version, refusal: None
    ) -> tuple[Release, ...]:
        """Return the releases that the model's team has signed, as the trusted snapshot lists them. `now` is the wall clock's time.

        Releases below the model's minimum (`View.minimums`) are among them: the minimum may change without a new message about the model.
        A genuine manifest that this node does not understand is left out, and `refused` is called with its version and the reason.

        Raises:
            Refused: signed by somebody else, older than the snapshot says, expired, or a manifest that is not listed or not as listed.
            Unreachable: nothing is wrong with the message, but it cannot be judged yet: the snapshot that lists this role has not arrived,
                or what is trusted has expired, or the clock is not set.
        """
        with self._locked():
            belief = self._believed()
            role = role_name(bundle.model)
            version = claimed_version(bundle.role, "targets")
            if belief is None:
                raise Unreachable("no trust bundle has arrived yet")
            self._check_time(belief.view, now)
            trusted, moment = belief.roles, _moment(now, belief.view)
            listed = trusted.role_versions.get(role, 0)
            if version > listed:
                raise NewerRoleError(f"role {role} is at version {version}, the trusted snapshot lists {listed or 'none'}", version)
            if version < listed:
                raise mismatch(Code.TRUST_ROLLBACK, f"version of role {role}", expected=listed, actual=version)
            held = {**trusted.held, f"{version}.{role}.json": bundle.role}
            with self._scratch() as scratch, as_refused(f"role {role}"):
                # The timestamp that came with these roles may have expired since: a newer one, which came alone, keeps them fresh.
                updater = self._updater(scratch, held, min(moment, trusted.view.timestamp_expires - _A_MOMENT))
                updater.get_targetinfo(target_path(bundle.model, ""))  # the role is verified even when it comes without a manifest
                if updater._trusted_set[role].expires <= moment:
                    raise tuf_errors.ExpiredMetadataError(f"{role}.json is expired")
                for one in bundle.manifests:
                    _check_release(updater, bundle.model, one.version, one.document)
            return tuple(_releases(bundle, refused))

    def current(self, *, now: datetime | None = None) -> View | None:
        """Return what was believed before a restart, verified again from disk; expired metadata is `stale`, and still good for what
        runs.
        """
        with self._locked():
            belief = self._believed()
            if belief is None:
                return None
            return _seen_at(belief.view, _moment(now or datetime.now(UTC), belief.view))

    def rollout_keys(self) -> Mapping[str, Key] | None:
        """Return the keys that the trusted targets role lets sign rollouts, deployments and settings; None before anything is trusted."""
        with self._locked():
            belief = self._believed()
            return belief.roles.rollout_keys if belief is not None else None

    def _check_time(self, view: View, now: datetime) -> None:
        wall, floor = int(now.timestamp()), floor_of(view.timestamp_expires)
        if not is_known(wall, floor):
            raise Unreachable(f"the clock says {now:%Y-%m-%d %H:%M}, which is before signatures already seen: nothing new is activated")
        if _seen_at(view, _moment(now, view)).stale:
            raise Unreachable(f"trusted metadata expired at {view.expires:%Y-%m-%d %H:%M}: nothing new is activated")

    # Verification

    def _verify(self, bundle: TrustBundle | TrustRoles, *, moment: datetime, belief: _Belief | None) -> _Trusted:
        held = _held(bundle)
        with self._scratch() as scratch, as_refused("trust bundle"), self._verified.keeping_used():
            if belief is not None:
                _fill(scratch, belief)
            updater = self._updater(scratch, held, moment)
            first_root = updater._trusted_set.root.version
            updater.refresh()
            found = updater._trusted_set
            keys = _rollout_keys(found.targets)
            if isinstance(bundle, TrustBundle):
                updater.get_targetinfo(rollout_path(""))  # The role itself is verified even when it lists nothing.
            newest_root = max(claimed_version(root, "root") for root in bundle.roots)
            if newest_root > found.root.version:
                raise mismatch(Code.TRUST_INCOMPLETE, "newest root that the chain reaches", expected=newest_root, actual=found.root.version)
            for name in ("timestamp", "snapshot"):
                # python-tuf keeps its own copy of an equal version unread: a bundle is genuine as a whole or refused.
                if (scratch / f"{name}.json").read_bytes() != getattr(bundle, name):
                    raise Refused(Code.TRUST_MISMATCH, f"{name} has the version that is trusted already, and other content")
            roots = tuple((scratch / "root_history" / f"{v}.root.json").read_bytes() for v in range(first_root, found.root.version + 1))
            check_distinct_keys(roots, found.targets)
            listed = cast("Targets", found[_ROLLOUTS]) if isinstance(bundle, TrustBundle) else None
        rollouts, refused = _rollouts(bundle, listed) if isinstance(bundle, TrustBundle) and listed is not None else ({}, {})
        earlier = belief.rollouts if belief is not None else None
        if earlier is not None and earlier.rollout_keys.keys() == keys.keys():
            check_serials(rollouts, {**earlier.view.held, **earlier.view.rollouts})
        others_expire = min(one.expires for one in (found.root, found.snapshot, found.targets))
        expires = min(others_expire, found.timestamp.expires, *([listed.expires] if listed is not None else []))
        view = View(
            rollouts=MappingProxyType(rollouts),
            models=_models(found.targets),
            root_version=found.root.version,
            timestamp_version=found.timestamp.version,
            snapshot_version=found.snapshot.version,
            timestamp_expires=found.timestamp.expires,
            expires=expires,
            stale=expires <= moment,
            refused=MappingProxyType(refused),
            hub_reads=_hub_reads(found.timestamp),
            held=_held_rollouts(refused, earlier),
            targets_version=found.targets.version,
            snapshot_named=found.snapshot.version,
            rollouts_expire=listed.expires if listed is not None else None,
            roles_expire=others_expire,
            minimums=MappingProxyType(_minimum(found.targets)),
        )
        kept = bundle.model_copy(update={"roots": roots})  # a root that this bundle withheld, and an earlier one had, is not forgotten
        versions = {name.removesuffix(".json"): meta.version for name, meta in found.snapshot.meta.items()}
        held |= {f"{first_root + number}.root.json": root for number, root in enumerate(roots)}
        return _Trusted(codec.encode(kept), kept, view, versions, keys, found.root, found.timestamp, MappingProxyType(held))

    def _updater(self, scratch: Path, held: Mapping[str, bytes], moment: datetime) -> Updater:
        config = UpdaterConfig(
            max_root_rotations=ROOTS_MAX,
            root_max_length=TRUST_ROLE_BYTES_MAX,
            snapshot_max_length=TRUST_ROLE_BYTES_MAX,
            targets_max_length=TRUST_ROLE_BYTES_MAX,
        )
        updater = Updater(str(scratch), _BASE, fetcher=_Held(held), config=config, bootstrap=self._pinned)
        # python-tuf reads the wall clock here and has no argument for it; a device's clock is not taken at its word
        # (node/core/trust/clock.py).
        updater._trusted_set.reference_time = moment
        self._verified.serve(updater._trusted_set)
        return updater

    # The folder

    def _believed(self) -> _Belief | None:
        """Return what the disk says, verified; the lock is held. Heals a damaged or missing copy from the other."""
        found = [one for kind in (TrustBundle, TrustRoles) if (one := self._restored(kind)) is not None]
        return self._belief_of(found) if found else None

    def _belief_of(self, found: list[_Trusted]) -> _Belief:
        roles = max(found, key=lambda one: (one.view.root_version, one.timestamp.version))
        time, raw = roles.timestamp, roles.bundle.timestamp
        for kept in (*(read_bounded(self._directory / name, TRUST_TIME_BYTES_MAX) for name in TIME_COPIES), self._time):
            with contextlib.suppress(Refused):  # Damaged, or signed by a key that the root has replaced since.
                if kept is not None and kept != raw and (stamp := verified_time(kept, roles.root)).version > time.version:
                    time, raw = stamp, kept
        return _Belief(roles, next((one for one in found if isinstance(one.bundle, TrustBundle)), None), time, raw)

    def _restored(self, kind: type[TrustBundle | TrustRoles]) -> _Trusted | None:
        names, memory = _copies(kind), self._memory.get(kind)
        copies = [read_bounded(self._directory / name, kind.bytes_max) for name in names]
        for raw in copies:
            trusted = self._reverified(kind, raw) if raw is not None else None
            if trusted is not None:
                self._memory[kind] = trusted
                if any(other != trusted.raw for other in copies):
                    log.warning("trust.healed", timestamp=trusted.view.timestamp_version)
                    self._heal(names, trusted.raw)
                return trusted
        if memory is not None:  # the disk went bad under us: memory is as good
            self._heal(names, memory.raw)
            return memory
        if any(raw is not None for raw in copies):
            log.error("trust.lost", reason="both copies of the trusted metadata are damaged; beginning at the pinned root again")
        return None

    def _reverified(self, kind: type[TrustBundle | TrustRoles], raw: bytes) -> _Trusted | None:
        memory = self._memory.get(kind)
        if memory is not None and memory.raw == raw:
            return memory
        try:
            # Signatures and versions only: `stale` says whether it has expired meanwhile, which is no damage.
            trusted = self._verify(codec.decode(kind, raw), moment=_LONG_AGO, belief=None)
            return replace(trusted, view=replace(trusted.view, held=MappingProxyType(self._held.read(trusted.view.refused))))
        except Refused as refusal:
            log.warning("trust.damaged", code=refusal.code, reason=refusal.reason)
            return None

    def _heal(self, names: tuple[str, str], raw: bytes) -> None:
        try:
            self._keep(names, raw)
        except Refused as refusal:  # the copy that is whole will do until there is room
            log.error("trust.not_healed", code=refusal.code, reason=refusal.reason)

    def _keep(self, names: tuple[str, str], raw: bytes) -> None:
        with room_in(self._directory):
            for name in names:
                durable.write(self._directory / name, raw)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(room_in(self._directory))
            yield scratch_in(self._directory, stack)

    def _make_again(self) -> None:
        """Make a folder again that was removed under us. Never the one that it is in: that would be in the way when it is brought back."""
        if self._directory.is_dir():
            return
        with room_in(self._directory):
            try:
                durable.make_folder(self._directory)
            except FileNotFoundError:
                raise FolderGoneError(f"the folder {self._directory.parent} is gone: mount its disk, or put it back") from None
        log.error("trust.folder_made_again", folder=str(self._directory))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make_again()
        with opened_lock(self._directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._directory.glob(f"{SCRATCH}*"):  # A killed process left it: nobody else holds the lock.
                shutil.rmtree(left, ignore_errors=True)
            yield


def _check_release(updater: Updater, model: str, version: str, document: bytes) -> None:
    """Check that the verified role lists this manifest."""
    target = updater.get_targetinfo(target_path(model, version))
    if target is None:
        raise Refused(Code.TRUST_NOT_LISTED, f"role {role_name(model)} does not list {model}@{version}")
    target.verify_length_and_hashes(document)


def _releases(bundle: ModelBundle, refused: Callable[[str, Refused], object]) -> Iterator[Release]:
    """Yield the releases of genuine manifests; one that is not understood says nothing about the others."""
    for version, document in bundle.manifests:
        name = f"{bundle.model}@{version}"
        try:
            manifest = codec.decode(Manifest, document)
            if (manifest.model, manifest.version) != (bundle.model, version):
                actual = f"{manifest.model}@{manifest.version}"
                raise mismatch(Code.TRUST_MISMATCH, "name of a manifest", expected=name, actual=actual)
        except Refused as refusal:
            refused(version, Refused(refusal.code, f"release {name}: {refusal.reason}"))
        else:
            yield Release(manifest, sha256(document), document)


def _rollouts(bundle: TrustBundle, listed: Targets) -> tuple[dict[str, Rollout], dict[str, Refused]]:
    """Return the rollouts that the verified role lists, and why some are not understood: one of those says nothing about the others.

    Raises:
        Refused: the bundle does not hold exactly the rollouts that are listed.
    """
    found: dict[str, Rollout] = {}
    refused: dict[str, Refused] = {}
    for model, document in bundle.documents:
        target = listed.targets.get(rollout_path(model))
        if target is None or model in found or model in refused:
            raise Refused(Code.TRUST_NOT_LISTED, f"the rollouts role does not list this rollout of {model!r}")
        with as_refused(f"rollout of {model}"):
            target.verify_length_and_hashes(document)
        try:
            rollout = codec.decode(Rollout, document)
            if rollout.model != model:
                raise mismatch(Code.TRUST_MISMATCH, "model of a rollout", expected=model, actual=rollout.model)
        except Refused as refusal:
            refused[model] = Refused(refusal.code, f"rollout of {model}: {refusal.reason}")
        else:
            found[model] = rollout
    rollouts = {path for path in listed.targets if path.startswith(rollout_path(""))}  # Others are statements of a newer hub.
    missing = sorted(rollouts - {rollout_path(model) for model in (*found, *refused)})
    if missing:
        raise Refused(Code.TRUST_INCOMPLETE, f"the rollouts role lists {missing[0]!r}, which is not in the bundle")
    return found, refused


def _held_rollouts(refused: Mapping[str, Refused], earlier: _Trusted | None) -> Mapping[str, Rollout]:
    """Return the last rollouts that were understood, of models whose present one is not."""
    before = {**earlier.view.held, **earlier.view.rollouts} if earlier is not None else {}
    return MappingProxyType({model: before[model] for model in refused if model in before})


def _models(targets: Targets) -> frozenset[str]:
    roles = (targets.delegations.roles if targets.delegations is not None else None) or {}
    return frozenset(name.removeprefix(role_name("")) for name in roles if name.startswith(role_name("")))


def _hub_reads(timestamp: Timestamp) -> Mapping[str, int]:
    """Return what the hub reads; what is not understood of it counts as nothing, as with a hub that does not say."""
    field: Any = timestamp.unrecognized_fields.get(READS_FIELD, {})
    return MappingProxyType({str(name): one for name, one in field.items() if type(one) is int} if isinstance(field, dict) else {})


def _minimum(targets: Targets) -> dict[str, str]:
    field: Any = targets.unrecognized_fields.get(MINIMUM_FIELD, {})
    if not isinstance(field, dict) or not all(isinstance(one, str) and re.fullmatch(VERSION_PATTERN[1:-1], one) for one in field.values()):
        raise Refused(Code.SCHEMA_MALFORMED, f"{MINIMUM_FIELD} of the targets role is not a map of models to versions")
    return dict(field)


def _rollout_keys(targets: Targets) -> Mapping[str, Key]:
    """Return the keys that the verified targets role lets sign rollouts and deployments."""
    delegations = targets.delegations
    role = (delegations.roles or {}).get(_ROLLOUTS) if delegations is not None else None
    if delegations is None or role is None:
        raise Refused(Code.TRUST_INCOMPLETE, "the targets role does not delegate to a rollouts role")
    return MappingProxyType({keyid: delegations.keys[keyid] for keyid in role.keyids if keyid in delegations.keys})


def _copies(kind: type[TrustBundle | TrustRoles]) -> tuple[str, str]:
    return COPIES if kind is TrustBundle else ROLES_COPIES


def _held(bundle: TrustBundle | TrustRoles) -> dict[str, bytes]:
    """Return the bundle's metadata by the names under which TUF asks for it."""
    check_cost(bundle)
    held = {f"{claimed_version(root, 'root')}.root.json": root for root in bundle.roots}
    if len(held) != len(bundle.roots):
        raise Refused(Code.TRUST_MISMATCH, "trust bundle: two roots have one version")
    claimed_version(bundle.timestamp, "timestamp")
    held["timestamp.json"] = bundle.timestamp
    roles = [("snapshot", "snapshot", bundle.snapshot), ("targets", "targets", bundle.targets)]
    if isinstance(bundle, TrustBundle):
        roles.append((_ROLLOUTS, "targets", bundle.rollouts))
    for role, kind, data in roles:
        held[f"{claimed_version(data, kind)}.{role}.json"] = data
    return held


def _fill(scratch: Path, belief: _Belief) -> None:
    """Give python-tuf what was trusted before, against which it looks for rollbacks."""
    (scratch / "root_history").mkdir()
    for root in belief.roles.bundle.roots:
        (scratch / "root_history" / f"{claimed_version(root, 'root')}.root.json").write_bytes(root)
    (scratch / "timestamp.json").write_bytes(belief.time_raw)
    (scratch / "snapshot.json").write_bytes(belief.roles.bundle.snapshot)


def _moment(now: datetime, view: View | None) -> datetime:
    floor = floor_of(view.timestamp_expires) if view is not None else 0
    return datetime.fromtimestamp(trusted_now(int(now.timestamp()), floor), UTC)


def _seen_at(view: View, moment: datetime) -> View:
    return replace(view, stale=view.expires <= moment)

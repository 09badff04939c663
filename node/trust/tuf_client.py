"""Verify which rollouts and releases a node may believe, by python-tuf. Knows no broker, and no clock but the one that it is given.

The broker is an untrusted mirror: what arrives is a bundle of bytes, and the fetcher below is a dictionary of what that bundle held. A role
that is not in it is truly absent; a slow network cannot be mistaken for one. python-tuf works in a scratch folder, because it neither syncs
nor goes back. What it verified is written durably, twice, and only then believed: a damaged copy is healed from the other.
"""

import contextlib
import fcntl
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import structlog
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from fleetcast import disk_room, durable
from node.core.trust.clock import floor_of, is_known, trusted_now
from node.core.trust.unverified_metadata import check_serials, claimed_version, is_again
from schemas import codec
from schemas.bundle import MINIMUM_FIELD, READS_FIELD, ModelBundle, TrustBundle, role_name
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import ROOTS_MAX, TRUST_ROLE_BYTES_MAX
from schemas.manifest import Manifest, target_path
from schemas.names import VERSION_PATTERN, sha256, version_key
from schemas.rollout import Rollout, rollout_path

log = structlog.get_logger()

COPIES = ("trusted-a", "trusted-b")  # written in this order: the first that verifies is the newest
_BASE = "mqtt://trust/"  # python-tuf wants an address; ours only serves to take names off it
_ROLLOUTS = "rollouts"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_SCRATCH = "scratch-"
SCRATCH_BYTES = 2 * TRUST_ROLE_BYTES_MAX  # python-tuf keeps a few roles there, and seldom one as large as it may be
MEMORY_DISK = Path("/dev/shm")  # noqa: S108  # in a folder of its own, which nobody else may enter


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


@dataclass(frozen=True, slots=True)
class Release:
    """Hold a verified release: only `Trust.accept_model` makes one."""

    manifest: Manifest
    digest: bytes
    document: bytes  # The manifest as it was signed: encoded again, it would lack what this program does not know.


@dataclass(frozen=True, slots=True)
class _Trusted:
    """Hold a verified bundle, in the bytes that stand on disk, and what was read from it after verification."""

    raw: bytes
    bundle: TrustBundle
    view: View
    role_versions: Mapping[str, int]  # as the snapshot lists them
    minimum: Mapping[str, str]  # per model, from the offline targets role
    rollout_keys: frozenset[str]


class FolderGoneError(Unreachable):
    """The data folder is not where it was: its disk is not mounted, or somebody has moved it."""


class _OtherVersionError(tuf_errors.DownloadHTTPError):
    """Signal that the bundle has this role, but not the version that the rest of the bundle asks for."""


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
            raise _OtherVersionError(f"expected {name}, found {', '.join(others)}", 409)
        raise tuf_errors.DownloadHTTPError(f"{name} is not in the bundle", 404)


class Trust:
    """Keep the trusted set of one node, in a folder: two copies of one file, and a lock."""

    def __init__(self, directory: Path, pinned_root: bytes) -> None:
        """Pin the root; `Refused` when it is not a root that its own keys sign."""
        self._directory, self._pinned = directory, pinned_root
        self._trusted: _Trusted | None = None
        claimed_version(pinned_root, "root")
        with _as_refused("the pinned root"):
            root = Metadata[Root].from_bytes(pinned_root)
            root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
        with _room(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def accept(self, bundle: TrustBundle, *, now: datetime) -> View:
        """Believe a bundle, if it is newer than or the same as what is believed.

        Raises:
            Refused: with TUF's reason as our code; nothing on disk has changed.
            FolderGoneError: nothing could be kept.
        """
        with self._locked():
            earlier = self._believed()
            moment = _moment(now, earlier)
            if earlier is not None and is_again(bundle, earlier.bundle):
                return _seen_at(earlier.view, moment)
            trusted = self._verify(bundle, moment=moment, earlier=earlier)
            self._keep(trusted.raw)
            self._trusted = trusted
            return trusted.view

    def accept_model(
        self, bundle: ModelBundle, *, now: datetime, refused: Callable[[str, Refused], object] = lambda version, refusal: None
    ) -> tuple[Release, ...]:
        """Return the releases that the model's team has signed, as the trusted snapshot lists them. `now` is the wall clock's time.

        A release below the minimum that the offline targets role sets for its model is left out. A genuine manifest that this node does
        not understand is left out too, and `refused` is called with its version and the reason.

        Raises:
            Refused: signed by somebody else, older than the snapshot says, expired, or a manifest that is not listed or not as listed.
            Unreachable: nothing is wrong with the message, but it cannot be judged yet: the snapshot that lists this role has not arrived,
                or what is trusted has expired, or the clock is not set.
        """
        with self._locked():
            trusted = self._believed()
            role = role_name(bundle.model)
            version = claimed_version(bundle.role, "targets")
            if trusted is None:
                raise Unreachable("no trust bundle has arrived yet")
            self._check_time(trusted, now)
            listed = trusted.role_versions.get(role, 0)
            if version > listed:
                raise Unreachable(f"role {role} is at version {version}, the trusted snapshot lists {listed or 'none'}")
            if version < listed:
                raise mismatch(Code.TRUST_ROLLBACK, f"version of role {role}", expected=listed, actual=version)
            held = _held(trusted.bundle) | {f"{version}.{role}.json": bundle.role}
            with self._scratch() as scratch, _as_refused(f"role {role}"):
                updater = self._updater(scratch, held, _moment(now, trusted))
                updater.get_targetinfo(target_path(bundle.model, ""))  # the role is verified even when it comes without a manifest
                for one in bundle.manifests:
                    _check_release(updater, bundle.model, one.version, one.document)
            releases = tuple(_releases(bundle, refused))
            minimum = trusted.minimum.get(bundle.model)
            if minimum is None:
                return releases
            return tuple(one for one in releases if version_key(one.manifest.version) >= version_key(minimum))

    def current(self, *, now: datetime | None = None) -> View | None:
        """Return what was believed before a restart, verified again from disk; expired metadata is `stale`, and still good for what
        runs.
        """
        with self._locked():
            trusted = self._believed()
            if trusted is None:
                return None
            return _seen_at(trusted.view, _moment(now or datetime.now(UTC), trusted))

    def _check_time(self, trusted: _Trusted, now: datetime) -> None:
        wall, floor = int(now.timestamp()), floor_of(trusted.view.timestamp_expires)
        if not is_known(wall, floor):
            raise Unreachable(f"the clock says {now:%Y-%m-%d %H:%M}, which is before signatures already seen: nothing new is activated")
        if _seen_at(trusted.view, _moment(now, trusted)).stale:
            raise Unreachable(f"trusted metadata expired at {trusted.view.expires:%Y-%m-%d %H:%M}: nothing new is activated")

    # Verification

    def _verify(self, bundle: TrustBundle, *, moment: datetime, earlier: _Trusted | None) -> _Trusted:
        held = _held(bundle)
        with self._scratch() as scratch, _as_refused("trust bundle"):
            if earlier is not None:
                _fill(scratch, earlier.bundle)
            updater = self._updater(scratch, held, moment)
            first_root = updater._trusted_set.root.version
            updater.refresh()
            updater.get_targetinfo(rollout_path(""))  # the role itself is verified even when it lists nothing
            found = updater._trusted_set
            if _ROLLOUTS not in found:
                raise Refused(Code.TRUST_INCOMPLETE, "the targets role does not delegate to a rollouts role")
            newest_root = max(claimed_version(root, "root") for root in bundle.roots)
            if newest_root > found.root.version:
                raise mismatch(Code.TRUST_INCOMPLETE, "newest root that the chain reaches", expected=newest_root, actual=found.root.version)
            for name in ("timestamp", "snapshot"):
                # python-tuf keeps its own copy of an equal version unread: a bundle is genuine as a whole or refused.
                if (scratch / f"{name}.json").read_bytes() != getattr(bundle, name):
                    raise Refused(Code.TRUST_MISMATCH, f"{name} has the version that is trusted already, and other content")
            roots = tuple((scratch / "root_history" / f"{v}.root.json").read_bytes() for v in range(first_root, found.root.version + 1))
            listed = cast("Targets", found[_ROLLOUTS])
        rollouts, refused = _rollouts(bundle, listed)
        keys = frozenset(found.targets.get_delegated_role(_ROLLOUTS).keyids)
        if earlier is not None and earlier.rollout_keys == keys:
            check_serials(rollouts, {**earlier.view.held, **earlier.view.rollouts})
        expires = min(one.expires for one in (found.root, found.timestamp, found.snapshot, found.targets, listed))
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
        )
        kept = bundle.model_copy(update={"roots": roots})  # a root that this bundle withheld, and an earlier one had, is not forgotten
        versions = {name.removesuffix(".json"): meta.version for name, meta in found.snapshot.meta.items()}
        return _Trusted(codec.encode(kept), kept, view, versions, _minimum(found.targets), keys)

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
        return updater

    # The folder

    def _believed(self) -> _Trusted | None:
        """Return what the disk says, verified; the lock is held. Heals a damaged or missing copy from the other."""
        copies = [_read(self._directory / name) for name in COPIES]
        for raw in copies:
            trusted = self._reverified(raw) if raw is not None else None
            if trusted is not None:
                self._trusted = trusted
                if any(other != trusted.raw for other in copies):
                    log.warning("trust.healed", timestamp=trusted.view.timestamp_version)
                    self._heal(trusted.raw)
                return trusted
        if self._trusted is not None:  # the disk went bad under us: memory is as good
            self._heal(self._trusted.raw)
            return self._trusted
        if any(raw is not None for raw in copies):
            log.error("trust.lost", reason="both copies of the trusted metadata are damaged; beginning at the pinned root again")
        return None

    def _reverified(self, raw: bytes) -> _Trusted | None:
        if self._trusted is not None and self._trusted.raw == raw:
            return self._trusted
        try:
            # Signatures and versions only: `stale` says whether it has expired meanwhile, which is no damage.
            return self._verify(codec.decode(TrustBundle, raw), moment=_LONG_AGO, earlier=None)
        except Refused as refusal:
            log.warning("trust.damaged", code=refusal.code, reason=refusal.reason)
            return None

    def _heal(self, raw: bytes) -> None:
        try:
            self._keep(raw)
        except Refused as refusal:  # the copy that is whole will do until there is room
            log.error("trust.not_healed", code=refusal.code, reason=refusal.reason)

    def _keep(self, raw: bytes) -> None:
        with _room(self._directory):
            for name in COPIES:
                durable.write(self._directory / name, raw)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_room(self._directory))
            yield _made(self._directory, stack)

    def _make_again(self) -> None:
        """Make a folder again that was removed under us. Never the one that it is in: that would be in the way when it is brought back."""
        if self._directory.is_dir():
            return
        with _room(self._directory):
            try:
                self._directory.mkdir(exist_ok=True)
            except FileNotFoundError:
                raise FolderGoneError(f"the folder {self._directory.parent} is gone: mount its disk, or put it back") from None
        log.error("trust.folder_made_again", folder=str(self._directory))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make_again()
        with _opened(self._directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._directory.glob(f"{_SCRATCH}*"):  # A killed process left it: nobody else holds the lock.
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
        with _as_refused(f"rollout of {model}"):
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


def _held(bundle: TrustBundle) -> dict[str, bytes]:
    """Return the bundle's metadata by the names under which TUF asks for it."""
    held = {f"{claimed_version(root, 'root')}.root.json": root for root in bundle.roots}
    if len(held) != len(bundle.roots):
        raise Refused(Code.TRUST_MISMATCH, "trust bundle: two roots have one version")
    claimed_version(bundle.timestamp, "timestamp")
    held["timestamp.json"] = bundle.timestamp
    for role, kind, data in (
        ("snapshot", "snapshot", bundle.snapshot),
        ("targets", "targets", bundle.targets),
        (_ROLLOUTS, "targets", bundle.rollouts),
    ):
        held[f"{claimed_version(data, kind)}.{role}.json"] = data
    return held


def _fill(scratch: Path, bundle: TrustBundle) -> None:
    """Give python-tuf what was trusted before, against which it looks for rollbacks."""
    (scratch / "root_history").mkdir()
    for root in bundle.roots:
        (scratch / "root_history" / f"{claimed_version(root, 'root')}.root.json").write_bytes(root)
    (scratch / "timestamp.json").write_bytes(bundle.timestamp)
    (scratch / "snapshot.json").write_bytes(bundle.snapshot)


def _moment(now: datetime, trusted: _Trusted | None) -> datetime:
    floor = floor_of(trusted.view.timestamp_expires) if trusted is not None else 0
    return datetime.fromtimestamp(trusted_now(int(now.timestamp()), floor), UTC)


def _seen_at(view: View, moment: datetime) -> View:
    return replace(view, stale=view.expires <= moment)


@contextlib.contextmanager
def _as_refused(what: str) -> Iterator[None]:
    """Turn python-tuf's errors into ours; the order matters, since most of them derive from one."""
    try:
        yield
    except tuf_errors.ExpiredMetadataError as error:
        raise Refused(Code.TRUST_EXPIRED, f"{what}: {error}") from error
    except tuf_errors.UnsignedMetadataError as error:
        raise Refused(Code.TRUST_SIGNATURE, f"{what}: {error}") from error
    except tuf_errors.BadVersionNumberError as error:
        raise Refused(Code.TRUST_ROLLBACK, f"{what}: {error}") from error
    except (tuf_errors.LengthOrHashMismatchError, _OtherVersionError) as error:
        raise Refused(Code.TRUST_MISMATCH, f"{what}: {error}") from error
    except (DeserializationError, SerializationError) as error:
        raise Refused(Code.SCHEMA_MALFORMED, f"{what}: {error}") from error
    except tuf_errors.DownloadLengthMismatchError as error:
        raise Refused(Code.SCHEMA_TOO_LARGE, f"{what}: {error}") from error
    except (tuf_errors.DownloadError, tuf_errors.RepositoryError) as error:  # not in the bundle, or dropped from the snapshot
        raise Refused(Code.TRUST_INCOMPLETE, f"{what}: {error}") from error


def _made(directory: Path, stack: contextlib.ExitStack) -> Path:
    """Return a folder for python-tuf to work in: where its own disk has no room, in another place, for nothing of it is kept."""
    for place in (directory, Path(tempfile.gettempdir()), MEMORY_DISK):
        with contextlib.suppress(OSError):
            if disk_room.has_room(place, SCRATCH_BYTES):
                return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=place)))
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=directory)))


def _opened(lock: Path) -> BinaryIO:
    try:
        return lock.open("ab")
    except OSError as error:
        if error.errno not in disk_room.FULL_OR_READ_ONLY or not lock.exists():
            with _room(lock):
                raise
        return lock.open("rb")  # The disk cannot be written; a lock is no writing.


def _room(path: Path) -> contextlib.AbstractContextManager[None]:
    return disk_room.refusing(f"no room on the disk for {path}", errnos=disk_room.FULL_OR_READ_ONLY)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(TrustBundle.bytes_max + 1)
    except FileNotFoundError:
        return None

"""Which rollouts and releases a node may believe. Verification is python-tuf's; knows no broker, and no clock but the one it is told.

The broker is an untrusted mirror: what arrives is a bundle of bytes, and the fetcher below is a dictionary of what that bundle held. A role
that is not in it is truly absent; a slow network cannot be mistaken for one. The updater works on a copy of the trusted set, which takes
the old set's place, durably, only when everything was verified: python-tuf itself neither syncs nor goes back.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle, role_name
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import ROOTS_MAX, TRUST_ROLE_BYTES_MAX
from schemas.manifest import Manifest, target_path
from schemas.names import sha256
from schemas.rollout import Rollout, rollout_path

_BASE = "mqtt://trust/"  # python-tuf wants an address; ours only serves to take names off it
_TOP = ("timestamp", "snapshot", "targets", "rollouts")


@dataclass(frozen=True)
class View:
    """What the trusted metadata says."""

    rollouts: Mapping[str, Rollout]
    root_version: int
    timestamp_version: int
    snapshot_version: int
    timestamp_expires: datetime
    expires: datetime  # of the first role to expire
    stale: bool


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release: only `Trust.accept_model` makes one."""

    manifest: Manifest
    digest: bytes


class _Held(FetcherInterface):
    """Serves metadata from what one message held."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self._held = held

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        if name not in self._held:
            raise DownloadHTTPError(f"{name} is not in the bundle", 404)
        yield self._held[name]


class Trust:
    """The trusted set of one node, in a folder: `set-a` or `set-b`, and `current` that names which."""

    def __init__(self, directory: Path, pinned_root: bytes) -> None:
        self._directory, self._pinned = directory, pinned_root
        directory.mkdir(parents=True, exist_ok=True)
        self._bundle: bytes | None = None
        self._view: View | None = None

    def accept(self, bundle: TrustBundle, *, now: datetime) -> View:
        """Believe a bundle, if it is newer than or the same as what is believed.

        Raises:
            Refused: with TUF's reason as our code; nothing on disk has changed.
        """
        raw = codec.encode(bundle)
        if self._view is not None and raw == self._bundle:
            self._view = _view_at(self._view, now)
            return self._view
        work = self._work()
        view = self._verify(bundle, work, now)
        self._keep(work, raw)
        self._bundle, self._view = raw, view
        return view

    def accept_model(self, bundle: ModelBundle, *, now: datetime) -> tuple[Release, ...]:
        """The releases that the model's team has signed, as the trusted snapshot lists them.

        Raises:
            Refused: signed by somebody else, older than the snapshot says, or a manifest that is not listed.
            Unreachable: the snapshot that lists this role has not arrived yet.
        """
        if self._bundle is None:
            raise Unreachable("no trust bundle has arrived yet")
        role, trusted = role_name(bundle.model), codec.decode(TrustBundle, self._bundle)
        listed = _snapshot_version(trusted.snapshot, role)
        version = _version(bundle.role)
        if listed is None or version > listed:
            raise Unreachable(f"role {role} is at version {version}, the trusted snapshot lists {listed or 'none'}")
        if version < listed:
            raise mismatch(Code.TRUST_ROLLBACK, f"version of role {role}", expected=listed, actual=version)
        held = _held(trusted) | {f"{version}.{role}.json": bundle.role}
        work = self._work()
        with _foreign(role):
            updater = self._updater(work, held, now)
            updater.refresh()
            return tuple(_release(updater, bundle.model, one.version, one.document) for one in bundle.manifests)

    def current(self, *, now: datetime | None = None) -> View | None:
        """What was believed before a restart, verified again from disk; the older set where the newer one is damaged."""
        for name in self._sets():
            try:
                raw = (self._directory / name / "bundle").read_bytes()
                bundle = codec.decode(TrustBundle, raw)
                moment = now or datetime.now(UTC)
                # Signatures and versions are checked as of a moment at which all roles held; whether they still do is said by `stale`.
                as_of = min(moment, _expires(bundle) - timedelta(seconds=1))
                view = self._verify(bundle, self._work(name), as_of)
            except (OSError, Refused):
                continue
            self._bundle, self._view = raw, _view_at(view, moment)
            return self._view
        return None

    # Verification

    def _verify(self, bundle: TrustBundle, work: Path, now: datetime) -> View:
        held = _held(bundle)
        with _foreign("the trust bundle"):
            updater = self._updater(work, held, now)
            updater.refresh()
            rollouts = {}
            for model, document in bundle.documents:
                target = updater.get_targetinfo(rollout_path(model))
                if target is None:
                    raise Refused(Code.TRUST_NOT_LISTED, f"the rollouts role does not list a rollout of {model!r}")
                target.verify_length_and_hashes(document)
                rollout = codec.decode(Rollout, document)
                if rollout.model != model:
                    raise mismatch(Code.TRUST_MISMATCH, "model of a rollout", expected=model, actual=rollout.model)
                rollouts[model] = rollout
            updater.get_targetinfo(rollout_path("none"))  # the role itself is verified even when it lists nothing
            trusted = updater._trusted_set
            return View(
                rollouts=rollouts,
                root_version=trusted.root.version,
                timestamp_version=trusted.timestamp.version,
                snapshot_version=trusted.snapshot.version,
                timestamp_expires=trusted.timestamp.expires,
                expires=_expires(bundle),
                stale=False,
            )

    def _updater(self, work: Path, held: Mapping[str, bytes], now: datetime) -> Updater:
        config = UpdaterConfig(
            max_root_rotations=ROOTS_MAX,
            root_max_length=TRUST_ROLE_BYTES_MAX,
            timestamp_max_length=TRUST_ROLE_BYTES_MAX,
            snapshot_max_length=TRUST_ROLE_BYTES_MAX,
            targets_max_length=TRUST_ROLE_BYTES_MAX,
        )
        updater = Updater(str(work), _BASE, fetcher=_Held(held), config=config, bootstrap=self._pinned)
        updater._trusted_set.reference_time = now  # a device's clock is not to be taken at its word: see node/core/clock.py
        return updater

    # The folder

    def _sets(self) -> list[str]:
        """The sets on disk, the believed one first."""
        marker = self._directory / "current"
        first = marker.read_text().strip() if marker.exists() else "set-a"
        order = ["set-b", "set-a"] if first == "set-b" else ["set-a", "set-b"]
        return [name for name in order if (self._directory / name).is_dir()]

    def _work(self, source: str | None = None) -> Path:
        """A copy of the believed set to work on."""
        work = self._directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        sets = [source] if source else self._sets()
        if sets:
            shutil.copytree(self._directory / sets[0], work, symlinks=True)
        else:
            work.mkdir()
        return work

    def _keep(self, work: Path, raw: bytes) -> None:
        """Make the copy the believed set: written and synced whole before `current` names it."""
        (work / "bundle").write_bytes(raw)
        for path in [*work.rglob("*"), work]:
            if not path.is_symlink():
                _sync(path)
        believed = self._sets()
        name = "set-b" if believed and believed[0] == "set-a" else "set-a"
        shutil.rmtree(self._directory / name, ignore_errors=True)
        work.rename(self._directory / name)
        partial = self._directory / "current.partial"
        partial.write_text(name)
        _sync(partial)
        partial.replace(self._directory / "current")
        _sync(self._directory)


def _release(updater: Updater, model: str, version: str, document: bytes) -> Release:
    target = updater.get_targetinfo(target_path(model, version))
    if target is None:
        raise Refused(Code.TRUST_NOT_LISTED, f"role {role_name(model)} does not list {model}@{version}")
    target.verify_length_and_hashes(document)
    manifest = codec.decode(Manifest, document)
    if (manifest.model, manifest.version) != (model, version):
        actual = f"{manifest.model}@{manifest.version}"
        raise mismatch(Code.TRUST_MISMATCH, "name of a manifest", expected=f"{model}@{version}", actual=actual)
    return Release(manifest, sha256(document))


def _held(bundle: TrustBundle) -> dict[str, bytes]:
    held = {f"{_version(root)}.root.json": root for root in bundle.roots}
    held["timestamp.json"] = bundle.timestamp
    for role in _TOP[1:]:
        data: bytes = getattr(bundle, role)
        held[f"{_version(data)}.{role}.json"] = data
    return held


def _signed(data: bytes) -> dict[str, Any]:
    """The part of metadata that is signed, not verified: good only for finding names and dates by which to look further."""
    try:
        signed = json.loads(data)["signed"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(Code.SCHEMA_MALFORMED, "not TUF metadata") from None
    if not isinstance(signed, dict):
        raise Refused(Code.SCHEMA_MALFORMED, "not TUF metadata")
    return signed


def _version(data: bytes) -> int:
    version = _signed(data).get("version")
    if not isinstance(version, int) or not 0 < version < 2**53:
        raise Refused(Code.SCHEMA_MALFORMED, "TUF metadata without a version")
    return version


def _snapshot_version(data: bytes, role: str) -> int | None:
    """Which version of a role an already verified snapshot lists."""
    entry = _signed(data).get("meta", {}).get(f"{role}.json")
    return None if entry is None else int(entry["version"])


def _expires(bundle: TrustBundle) -> datetime:
    dates = [str(_signed(data).get("expires")) for data in (bundle.roots[-1], *(getattr(bundle, role) for role in _TOP))]
    try:
        return min(datetime.fromisoformat(date) for date in dates)
    except ValueError:
        raise Refused(Code.SCHEMA_MALFORMED, "TUF metadata without an expiry date") from None


def _view_at(view: View, now: datetime) -> View:
    return View(**{**vars(view), "stale": view.expires <= now})


class _foreign:  # read as a word: `with _foreign("the trust bundle"):`
    """Turns python-tuf's errors into ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Refused | Unreachable):
            return
        codes: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Code], ...] = (
            (ExpiredMetadataError, Code.TRUST_EXPIRED),
            (UnsignedMetadataError, Code.TRUST_SIGNATURE),
            (BadVersionNumberError, Code.TRUST_ROLLBACK),
            (LengthOrHashMismatchError, Code.TRUST_MISMATCH),
            (DownloadError, Code.TRUST_INCOMPLETE),
            (RepositoryError, Code.TRUST_MISMATCH),
            ((ValueError, KeyError, TypeError, RecursionError), Code.SCHEMA_MALFORMED),
        )
        for kinds, code in codes:
            if isinstance(error, kinds):
                raise Refused(code, f"{self._what}: {str(error)[:300]}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

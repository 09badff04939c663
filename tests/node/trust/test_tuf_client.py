"""Attacks on what a node believes: each is refused with its own code, and changes nothing on disk."""

import json
import multiprocessing
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, TargetFile, Targets

from hub.signing.key_changes import RootHolders
from node.trust.tuf_client import COPIES, Trust
from schemas import codec
from schemas.bundle import ManifestBytes, ModelBundle, RolloutBytes, TrustBundle
from schemas.errors import Code, Refused, Unreachable
from schemas.names import sha256
from tests.trust_fleet import DAY, HOUR, NOW, ROLES, Fleet, change_keys, forged, manifest, rollout, signed, tree

LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet.make(tmp_path / "hub", models=("delay", "other"))
    fleet.release("1.0.0")
    fleet.roll("1.0.0")
    return fleet


@pytest.fixture
def trust(fleet: Fleet, tmp_path: Path) -> Trust:
    """A node that has seen the fleet's first bundle."""
    trust = Trust(tmp_path / "node", fleet.repository.root())
    deliver(trust, fleet.refresh(), fleet)
    return trust


def fresh(fleet: Fleet, tmp_path: Path, name: str = "fresh") -> Trust:
    return Trust(tmp_path / name, fleet.repository.root())


def deliver(trust: Trust, bundle: TrustBundle, fleet: Fleet) -> Any:
    """Through the codec, as it comes off the wire."""
    return trust.accept(codec.decode(TrustBundle, codec.encode(bundle)), now=fleet.now)


def altered(bundle: Any, **changes: Any) -> Any:
    return bundle.model_copy(update=changes)


@contextmanager
def refused(trust: Trust, *codes: Code) -> Iterator[None]:
    """The one thing that every attack comes to."""
    view = trust.current(now=NOW)
    before = tree(trust._directory)
    with pytest.raises(Refused) as caught:
        yield

    assert caught.value.code in codes
    assert tree(trust._directory) == before
    assert not list(trust._directory.glob("scratch-*"))
    assert trust.current(now=NOW) == view


# What is genuine


def test_genuine_bundle_is_believed_and_survives_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    bundle = fleet.refresh()
    view = deliver(fresh(fleet, tmp_path), bundle, fleet)

    assert view.rollouts["delay"].release.version == "1.0.0"
    assert not view.stale
    assert view.expires == view.timestamp_expires == fleet.now + DAY
    assert fresh(fleet, tmp_path).current(now=fleet.now) == view


def test_node_that_saw_nothing_believes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    assert fresh(fleet, tmp_path).current() is None


def test_bundle_delivered_twice_writes_nothing(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.repository.trust_bundle()
    written = [(trust._directory / name).stat().st_mtime_ns for name in COPIES]
    view = deliver(trust, bundle, fleet)

    assert [(trust._directory / name).stat().st_mtime_ns for name in COPIES] == written
    assert view == trust.current(now=fleet.now)


def test_releases_are_verified_down_to_the_manifest(fleet: Fleet, trust: Trust) -> None:
    (release,) = trust.accept_model(fleet.models("1.0.0"), now=fleet.now)

    assert release.manifest.version == "1.0.0"
    assert release.digest == sha256(manifest("1.0.0"))


def test_delegated_model_without_a_release_breaks_nothing(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.delegate("third", team=fleet.keys["team"].public_key, targets=fleet.keys["targets"], now=fleet.now)
    deliver(trust, fleet.refresh(), fleet)
    fleet.release("1.0.0", model="third")
    deliver(trust, fleet.refresh(), fleet)

    assert len(trust.accept_model(fleet.models("1.0.0", model="third"), now=fleet.now)) == 1


# Signatures and shapes


@pytest.mark.parametrize("role", ROLES)
def test_tampered_role_is_refused(fleet: Fleet, trust: Trust, role: str) -> None:
    fleet.release("1.1.0")
    fleet.roll("1.1.0", serial=2)
    bundle = fleet.refresh()
    tampered = forged(getattr(bundle, role), expires=NOW + 300 * DAY)

    with refused(trust, Code.TRUST_SIGNATURE):
        deliver(trust, altered(bundle, **{role: tampered}), fleet)


@pytest.mark.parametrize("role", ROLES)
def test_role_signed_by_a_stranger_is_refused_on_first_contact(fleet: Fleet, tmp_path: Path, role: str) -> None:
    bundle = fleet.refresh()
    strange = forged(getattr(bundle, role), fleet.keys["stranger"])

    with refused(fresh(fleet, tmp_path), Code.TRUST_SIGNATURE):
        deliver(fresh(fleet, tmp_path), altered(bundle, **{role: strange}), fleet)


@pytest.mark.parametrize("role", ROLES)
def test_unsigned_role_is_refused(fleet: Fleet, trust: Trust, role: str) -> None:
    fleet.release("1.1.0")
    fleet.roll("1.1.0", serial=2)
    bundle = fleet.refresh()
    metadata: Metadata[Any] = Metadata.from_bytes(getattr(bundle, role))
    metadata.signatures.clear()

    with refused(trust, Code.TRUST_SIGNATURE):
        deliver(trust, altered(bundle, **{role: metadata.to_bytes()}), fleet)


def test_known_version_with_other_content_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.repository.trust_bundle()
    other = forged(bundle.snapshot, fleet.keys["snapshot"], expires=NOW + 3 * DAY)

    with refused(trust, Code.TRUST_MISMATCH):
        deliver(trust, altered(bundle, snapshot=other), fleet)


GARBAGE = {
    "empty object": b"{}",
    "not JSON": b"\x00\xff\x00\xff",
    "cut short": None,
    "nested": b'{"signed":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "nested objects": b'{"signed":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "huge integer": b'{"signed":{"_type":"%s","version":' + b"9" * 10_000 + b"}}",
    "large version": b'{"signed":{"_type":"%s","version":99999999999999999999}}',
    "version true": b'{"signed":{"_type":"%s","version":true}}',
    "version a fraction": b'{"signed":{"_type":"%s","version":1.0}}',
    "key twice": b'{"signed":{"_type":"%s","version":1,"version":2}}',
    "no signatures": b'{"signed":{"_type":"%s","version":5}}',
}


@pytest.mark.parametrize("role", ["root", *ROLES])
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_refused_as_malformed(fleet: Fleet, trust: Trust, role: str, kind: str) -> None:
    bundle = fleet.refresh()
    genuine = bundle.roots[0] if role == "root" else getattr(bundle, role)
    name = b"targets" if role == "rollouts" else role.encode()
    data = (GARBAGE[kind] or genuine[: len(genuine) // 2]).replace(b"%s", name)
    change = {"roots": (*bundle.roots, data)} if role == "root" else {role: data}

    # A well-formed shell of another version is found out later, as one that does not belong to the rest.
    later = {Code.TRUST_MISMATCH, Code.TRUST_INCOMPLETE} if kind == "no signatures" else set()
    with refused(trust, Code.SCHEMA_MALFORMED, *later):
        deliver(trust, altered(bundle, **change), fleet)


def test_deeply_nested_field_in_signed_metadata_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    deep = b'{"a":' * 700 + b"1" + b"}" * 700
    data = bundle.timestamp.replace(b'"spec_version"', b'"deep":' + deep + b',"spec_version"')

    with refused(trust, Code.SCHEMA_MALFORMED, Code.TRUST_SIGNATURE):
        deliver(trust, altered(bundle, timestamp=data), fleet)


def test_oversize_timestamp_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()

    with refused(trust, Code.SCHEMA_TOO_LARGE):
        deliver(trust, altered(bundle, timestamp=bundle.timestamp + b" " * 20_000), fleet)


def test_oversize_role_does_not_pass_the_codec(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()

    with refused(trust, Code.SCHEMA_MALFORMED, Code.SCHEMA_TOO_LARGE):
        deliver(trust, altered(bundle, targets=bundle.targets + b" " * 1024 * 1024), fleet)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(role=st.sampled_from(["root", *ROLES, "document"]), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_whatever_is_believed_says_what_was_signed(fleet: Fleet, tmp_path: Path, role: str, where: float, bit: int) -> None:
    bundle = fleet.repository.trust_bundle() if fleet.now > NOW else fleet.refresh()
    path = tmp_path / "flipped"
    honest = deliver(fresh(fleet, tmp_path, "honest"), bundle, fleet)

    def flip(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[int(where * len(data))] ^= 1 << bit
        return bytes(damaged)

    if role == "root":
        change: dict[str, Any] = {"roots": (flip(bundle.roots[0]),)}
    elif role == "document":
        change = {"documents": (RolloutBytes("delay", flip(bundle.documents[0].document)),)}
    else:
        change = {role: flip(getattr(bundle, role))}
    node = Trust(path, fleet.repository.root())
    for name in COPIES:
        (path / name).unlink(missing_ok=True)
    try:
        view = node.accept(altered(bundle, **change), now=fleet.now)
    except Refused:
        view = None

    assert view is None or view == honest  # a flipped letter's case in hexadecimal, say, changes bytes and says the same


def test_pinned_root_that_its_own_keys_do_not_sign_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    for data, code in (
        (forged(fleet.repository.root(), fleet.keys["root-1"]), Code.TRUST_SIGNATURE),
        (b"{}", Code.SCHEMA_MALFORMED),
        (fleet.repository.trust_bundle().targets, Code.TRUST_MISMATCH),
    ):
        with pytest.raises(Refused) as caught:
            Trust(tmp_path / "never", data)

        assert caught.value.code == code
    assert not (tmp_path / "never").exists()


def test_bundle_of_another_fleet_is_refused(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    other = Fleet.make(tmp_path / "other hub")

    with refused(trust, Code.TRUST_SIGNATURE, Code.TRUST_ROLLBACK):
        deliver(trust, other.refresh(after=9 * HOUR), other)


# Versions


def test_older_bundle_is_refused_after_a_restart(fleet: Fleet, trust: Trust) -> None:
    older = fleet.repository.trust_bundle()
    deliver(trust, fleet.refresh(), fleet)

    again = Trust(trust._directory, fleet.repository.root())
    with refused(again, Code.TRUST_ROLLBACK):
        deliver(again, older, fleet)


def test_older_snapshot_under_a_stolen_timestamp_key_is_refused(fleet: Fleet, trust: Trust) -> None:
    older = fleet.repository.trust_bundle()
    fleet.release("1.1.0")
    newer = fleet.refresh()
    deliver(trust, newer, fleet)
    version = signed(newer.timestamp).version + 1
    timestamp = forged(newer.timestamp, fleet.keys["timestamp"], version=version, snapshot_meta=MetaFile(signed(older.snapshot).version))

    with refused(trust, Code.TRUST_ROLLBACK):
        deliver(trust, altered(older, timestamp=timestamp), fleet)


def stolen_online(fleet: Fleet, bundle: TrustBundle, meta: dict[str, MetaFile], *, ahead: int = 1) -> dict[str, bytes]:
    """What the thief of the snapshot's and the timestamp's keys makes: a newer snapshot that lists what he likes."""
    version = signed(bundle.snapshot).version + ahead
    return {
        "snapshot": forged(bundle.snapshot, fleet.keys["snapshot"], version=version, meta=meta),
        "timestamp": forged(
            bundle.timestamp,
            fleet.keys["timestamp"],
            version=signed(bundle.timestamp).version + ahead,
            snapshot_meta=MetaFile(version),
        ),
    }


def test_snapshot_that_lists_an_older_role_is_refused(fleet: Fleet, trust: Trust) -> None:
    fleet.release("1.1.0")
    bundle = fleet.refresh()
    deliver(trust, bundle, fleet)
    meta = {**signed(bundle.snapshot).meta, "model-delay.json": MetaFile(1)}

    with refused(trust, Code.TRUST_ROLLBACK):
        deliver(trust, altered(bundle, **stolen_online(fleet, bundle, meta)), fleet)


def test_role_dropped_from_the_snapshot_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.repository.trust_bundle()
    meta = {name: one for name, one in signed(bundle.snapshot).meta.items() if name != "model-delay.json"}

    with refused(trust, Code.TRUST_INCOMPLETE):
        deliver(trust, altered(bundle, **stolen_online(fleet, bundle, meta)), fleet)


@pytest.mark.parametrize("role", ["snapshot", "targets", "rollouts"])
def test_mix_of_two_genuine_bundles_is_refused(fleet: Fleet, trust: Trust, role: str) -> None:
    older = fleet.repository.trust_bundle()
    fleet.repository.renew_targets(targets=fleet.keys["targets"], now=fleet.now)
    fleet.roll("1.0.0", serial=2)
    newer = fleet.refresh()

    with refused(trust, Code.TRUST_MISMATCH):
        deliver(trust, altered(newer, **{role: getattr(older, role)}), fleet)


def test_role_in_another_roles_place_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    for place in ROLES:
        for other in ROLES:
            if place != other:
                with refused(trust, Code.TRUST_MISMATCH, Code.TRUST_SIGNATURE):
                    deliver(trust, altered(bundle, **{place: getattr(bundle, other)}), fleet)


def test_rollouts_key_cannot_sign_targets(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.renew_targets(targets=fleet.keys["targets"], now=fleet.now)
    bundle = fleet.refresh()

    with refused(trust, Code.TRUST_SIGNATURE):
        deliver(trust, altered(bundle, targets=forged(bundle.targets, fleet.keys["rollouts"])), fleet)


# Roots


def rotate(fleet: Fleet, times: int) -> None:
    for _ in range(times):
        old = fleet.roots
        for number in (1, 2, 3):
            fleet.replace_key(f"root-{number}")
        holders = RootHolders([key.public_key for key in fleet.roots], 2)
        change_keys(fleet.repository, [*old, *fleet.roots], now=fleet.now, holders=holders)


def test_root_is_walked_from_the_first_version_to_the_last(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    pinned = fleet.repository.root()
    rotate(fleet, 6)
    bundle = fleet.refresh()

    assert deliver(trust, bundle, fleet).root_version == 7
    assert deliver(Trust(tmp_path / "fresh", pinned), bundle, fleet).root_version == 7
    assert Trust(trust._directory, pinned).current(now=fleet.now) == trust.current(now=fleet.now)


def test_root_signed_by_new_keys_only_is_refused(fleet: Fleet, trust: Trust) -> None:
    rotate(fleet, 1)
    bundle = fleet.refresh()
    by_new = forged(bundle.roots[1], *fleet.roots)

    with refused(trust, Code.TRUST_SIGNATURE):
        deliver(trust, altered(bundle, roots=(bundle.roots[0], by_new)), fleet)


def test_root_under_its_threshold_is_refused(fleet: Fleet, trust: Trust) -> None:
    old = fleet.roots
    rotate(fleet, 1)
    bundle = fleet.refresh()
    for signers in ([old[0], *fleet.roots], [*old, fleet.roots[0]], [old[0], fleet.roots[0]]):
        with refused(trust, Code.TRUST_SIGNATURE):
            deliver(trust, altered(bundle, roots=(bundle.roots[0], forged(bundle.roots[1], *signers))), fleet)


def test_gap_in_the_root_chain_is_refused(fleet: Fleet, trust: Trust) -> None:
    rotate(fleet, 2)
    bundle = fleet.refresh()

    with refused(trust, Code.TRUST_INCOMPLETE):
        deliver(trust, altered(bundle, roots=(bundle.roots[0], bundle.roots[2])), fleet)


def test_two_roots_of_one_version_are_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()

    with refused(trust, Code.TRUST_MISMATCH):
        deliver(trust, altered(bundle, roots=(bundle.roots[0], forged(bundle.roots[0], fleet.keys["stranger"]))), fleet)


def test_root_once_seen_is_not_forgotten_when_a_bundle_withholds_it(fleet: Fleet, trust: Trust) -> None:
    rotate(fleet, 1)
    deliver(trust, fleet.refresh(), fleet)
    newer = fleet.refresh()
    view = deliver(trust, altered(newer, roots=newer.roots[:1]), fleet)

    assert view.root_version == 2
    restarted = Trust(trust._directory, fleet.repository.root()).current(now=fleet.now)
    assert restarted is not None
    assert restarted.root_version == 2


def test_fast_forward_with_stolen_keys_is_undone_by_new_keys(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.repository.trust_bundle()
    meta = {name: MetaFile(one.version) for name, one in signed(bundle.snapshot).meta.items()}
    deliver(trust, altered(bundle, **stolen_online(fleet, bundle, meta, ahead=1_000_000)), fleet)
    honest = fleet.refresh()
    with refused(trust, Code.TRUST_ROLLBACK):
        deliver(trust, honest, fleet)
    for role in ("snapshot", "timestamp"):
        fleet.replace_key(role)
        fleet.rekey(role)
    view = deliver(trust, fleet.refresh(), fleet)

    assert view.root_version == 3
    assert view.timestamp_version < 1_000_000


# Time


@pytest.mark.parametrize("role", ["root", *ROLES])
def test_expired_role_is_refused(fleet: Fleet, tmp_path: Path, role: str) -> None:
    bundle = fleet.refresh()
    signers = fleet.roots if role == "root" else [fleet.keys[role]]
    data = forged(bundle.roots[0] if role == "root" else getattr(bundle, role), *signers, expires=fleet.now + HOUR)
    change = {"roots": (data,)} if role == "root" else {role: data}
    node = Trust(tmp_path / "node", data if role == "root" else fleet.repository.root())

    with refused(node, Code.TRUST_EXPIRED):
        node.accept(altered(bundle, **change), now=fleet.now + HOUR)
    assert node.accept(altered(bundle, **change), now=fleet.now + HOUR - timedelta(seconds=1)).expires == fleet.now + HOUR


def test_expired_metadata_is_stale_but_still_there(fleet: Fleet, trust: Trust) -> None:
    view = Trust(trust._directory, fleet.repository.root()).current(now=fleet.now + 2 * DAY)

    assert view is not None
    assert view.stale
    assert view.rollouts["delay"].release.version == "1.0.0"


def test_nothing_is_activated_from_what_has_expired(fleet: Fleet, trust: Trust) -> None:
    with pytest.raises(Unreachable, match="expired"):
        trust.accept_model(fleet.models("1.0.0"), now=fleet.now + 2 * DAY)


def test_role_of_a_team_that_expired_is_refused(fleet: Fleet, trust: Trust) -> None:
    fleet.now += 91 * DAY
    fleet.repository.renew_rollouts(rollouts=fleet.keys["rollouts"], now=fleet.now)
    deliver(trust, fleet.refresh(), fleet)

    with refused(trust, Code.TRUST_EXPIRED):
        trust.accept_model(fleet.models("1.0.0"), now=fleet.now)


def test_clock_of_1970_does_not_bring_expired_metadata_back(fleet: Fleet, trust: Trust) -> None:
    unseen = fleet.refresh()
    fleet.now += 3 * DAY
    seen = fleet.refresh()
    timestamp = forged(seen.timestamp, fleet.keys["timestamp"], version=99, expires=signed(unseen.timestamp).expires)
    deliver(trust, seen, fleet)

    with refused(trust, Code.TRUST_EXPIRED):
        trust.accept(altered(seen, timestamp=timestamp), now=LONG_AGO)


def test_clock_of_1970_activates_nothing_and_keeps_the_view(fleet: Fleet, trust: Trust) -> None:
    view = trust.current(now=LONG_AGO)

    assert view is not None
    assert not view.stale
    with pytest.raises(Unreachable, match="clock"):
        trust.accept_model(fleet.models("1.0.0"), now=LONG_AGO)


def test_clock_two_years_ahead_refuses_and_recovers_when_it_is_put_right(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    with refused(trust, Code.TRUST_EXPIRED):
        trust.accept(bundle, now=fleet.now + 730 * DAY)
    view = deliver(trust, bundle, fleet)

    assert not view.stale


def test_signature_from_the_far_future_does_not_push_a_working_clock(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.repository.trust_bundle()
    timestamp = forged(bundle.timestamp, fleet.keys["timestamp"], version=50, expires=NOW + 3650 * DAY)
    deliver(trust, altered(bundle, timestamp=timestamp), fleet)
    fleet.replace_key("timestamp")
    fleet.rekey("timestamp")
    view = deliver(trust, fleet.refresh(), fleet)

    assert not view.stale
    assert len(trust.accept_model(fleet.models("1.0.0"), now=fleet.now)) == 1


# Rollouts


def test_withheld_rollout_is_refused(fleet: Fleet, trust: Trust) -> None:
    with refused(trust, Code.TRUST_INCOMPLETE):
        deliver(trust, altered(fleet.refresh(), documents=()), fleet)


def test_rollout_that_is_not_listed_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    for extra in (RolloutBytes("other", rollout("1.0.0", model="other")), bundle.documents[0]):
        with refused(trust, Code.TRUST_NOT_LISTED):
            deliver(trust, altered(bundle, documents=(*bundle.documents, extra)), fleet)


def test_altered_rollout_is_refused(fleet: Fleet, trust: Trust) -> None:
    with refused(trust, Code.TRUST_MISMATCH):
        deliver(trust, altered(fleet.refresh(), documents=(RolloutBytes("delay", rollout("9.9.9")),)), fleet)


def test_rollout_listed_under_another_models_name_is_refused_alone(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.set_rollout("other", rollout("1.0.0"), rollouts=fleet.keys["rollouts"], now=fleet.now)

    view = deliver(trust, fleet.refresh(), fleet)

    assert view.refused["other"].code == Code.TRUST_MISMATCH
    assert set(view.rollouts) == {"delay"}


def test_hub_that_came_back_from_the_past_is_refused_by_its_serial(fleet: Fleet, trust: Trust) -> None:
    fleet.roll("1.0.0", serial=5)
    deliver(trust, fleet.refresh(), fleet)
    fleet.roll("1.0.0", serial=4)

    with refused(trust, Code.TRUST_ROLLBACK):
        deliver(trust, fleet.refresh(), fleet)


def test_serial_run_ahead_with_a_stolen_rollouts_key_is_undone_by_a_new_key(fleet: Fleet, trust: Trust) -> None:
    fleet.roll("1.0.0", serial=2**53)
    deliver(trust, fleet.refresh(), fleet)
    fleet.replace_key("rollouts")
    fleet.rekey_rollouts()
    fleet.roll("1.0.0", serial=3)
    view = deliver(trust, fleet.refresh(), fleet)

    assert view.rollouts["delay"].serial == 3


def test_stolen_rollouts_key_cannot_make_a_release(fleet: Fleet, trust: Trust) -> None:
    fleet.roll("6.6.6", serial=2)
    deliver(trust, fleet.refresh(), fleet)
    role = Targets(version=1, expires=NOW + 30 * DAY)
    path = "models/delay/6.6.6"
    role.targets[path] = TargetFile.from_data(path, manifest("6.6.6"), ["sha256"])
    metadata = Metadata(role)
    metadata.sign(fleet.keys["rollouts"])
    bundle = ModelBundle(model="delay", role=metadata.to_bytes(), manifests=(ManifestBytes("6.6.6", manifest("6.6.6")),))

    with refused(trust, Code.TRUST_SIGNATURE):
        trust.accept_model(bundle, now=fleet.now)


# Models


def team_role(fleet: Fleet, key: CryptoSigner, *paths: str, version: int = 1) -> bytes:
    role = Targets(version=version, expires=NOW + 30 * DAY)
    for path in paths:
        model, release = path.split("/")[1:]
        role.targets[path] = TargetFile.from_data(path, manifest(release, model=model), ["sha256"])
    metadata = Metadata(role)
    metadata.sign(key)
    return metadata.to_bytes()


def test_release_signed_by_a_stranger_is_refused(fleet: Fleet, trust: Trust) -> None:
    role = team_role(fleet, fleet.keys["stranger"], "models/delay/9.9.9")
    bundle = ModelBundle(model="delay", role=role, manifests=(ManifestBytes("9.9.9", manifest("9.9.9")),))

    with refused(trust, Code.TRUST_SIGNATURE):
        trust.accept_model(bundle, now=fleet.now)
    with refused(trust, Code.TRUST_SIGNATURE):
        trust.accept_model(altered(bundle, manifests=()), now=fleet.now)


def test_older_role_of_a_model_is_refused(fleet: Fleet, trust: Trust) -> None:
    older = fleet.models("1.0.0")
    fleet.release("1.1.0")
    deliver(trust, fleet.refresh(), fleet)

    with refused(trust, Code.TRUST_ROLLBACK):
        trust.accept_model(older, now=fleet.now)


def test_newer_role_of_a_model_waits_for_its_trust_bundle(fleet: Fleet, trust: Trust) -> None:
    fleet.release("1.1.0")
    trusted = fleet.refresh()
    newer = fleet.models("1.1.0")
    with pytest.raises(Unreachable, match="version 2"):
        trust.accept_model(newer, now=fleet.now)
    deliver(trust, trusted, fleet)

    assert [release.manifest.version for release in trust.accept_model(newer, now=fleet.now)] == ["1.1.0"]


def test_model_before_any_trust_bundle_waits(fleet: Fleet, tmp_path: Path) -> None:
    fleet.refresh()

    with pytest.raises(Unreachable, match="no trust bundle"):
        fresh(fleet, tmp_path).accept_model(fleet.models("1.0.0"), now=fleet.now)


def test_manifest_that_the_role_does_not_list_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = altered(fleet.models("1.0.0"), manifests=(ManifestBytes("2.0.0", manifest("2.0.0")),))

    with refused(trust, Code.TRUST_NOT_LISTED):
        trust.accept_model(bundle, now=fleet.now)


def test_altered_manifest_is_refused(fleet: Fleet, trust: Trust) -> None:
    bundle = altered(fleet.models("1.0.0"), manifests=(ManifestBytes("1.0.0", manifest("1.0.0", description="trust me")),))

    with refused(trust, Code.TRUST_MISMATCH):
        trust.accept_model(bundle, now=fleet.now)


def test_manifest_under_another_versions_name_is_refused(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.add_release("delay", "3.0.0", manifest("1.0.0"), team=fleet.keys["team"], now=fleet.now)
    deliver(trust, fleet.refresh(), fleet)

    found: dict[str, Refused] = {}

    assert trust.accept_model(fleet.models("1.0.0", "3.0.0"), now=fleet.now, refused=found.__setitem__)[0].manifest.version == "1.0.0"
    assert {version: one.code for version, one in found.items()} == {"3.0.0": Code.TRUST_MISMATCH}


def test_team_cannot_publish_under_another_teams_name(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.delegate("other", team=fleet.keys["stranger"].public_key, targets=fleet.keys["targets"], now=fleet.now)
    fleet.release("1.0.0", model="other", key="stranger")
    deliver(trust, fleet.refresh(), fleet)
    role = team_role(fleet, fleet.keys["stranger"], "models/delay/1.0.0", "models/other/1.0.0")
    own = ManifestBytes("1.0.0", manifest("1.0.0"))

    with refused(trust, Code.TRUST_SIGNATURE):  # its role in the place of the other team's
        trust.accept_model(ModelBundle(model="delay", role=role, manifests=(own,)), now=fleet.now)
    with refused(trust, Code.TRUST_MISMATCH):  # the other team's name in its own role
        trust.accept_model(ModelBundle(model="other", role=role, manifests=(own,)), now=fleet.now)


def test_role_of_another_model_with_the_same_key_brings_no_release(fleet: Fleet, trust: Trust) -> None:
    fleet.release("1.0.0", model="other")
    deliver(trust, fleet.refresh(), fleet)
    other = fleet.models("1.0.0", model="other")

    with refused(trust, Code.TRUST_NOT_LISTED):
        trust.accept_model(altered(other, model="delay"), now=fleet.now)


def test_revoked_team_key_is_refused(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.delegate("delay", team=fleet.keys["stranger"].public_key, targets=fleet.keys["targets"], now=fleet.now)
    deliver(trust, fleet.refresh(), fleet)

    with refused(trust, Code.TRUST_SIGNATURE):
        trust.accept_model(fleet.models("1.0.0"), now=fleet.now)


def test_the_offline_minimum_is_part_of_what_is_believed(fleet: Fleet, trust: Trust) -> None:
    fleet.release("1.1.0")
    change_keys(fleet.repository, [fleet.keys["targets"]], now=fleet.now, minimums={"delay": "1.1.0"})
    deliver(trust, fleet.refresh(), fleet)
    view = trust.current(now=fleet.now)

    assert view is not None
    assert view.minimums == {"delay": "1.1.0"}


# The disk


@pytest.mark.parametrize("damage", [b"", None, b"\x00"], ids=["empty", "cut short", "zeroed"])
@pytest.mark.parametrize("copy", COPIES)
def test_damaged_copy_is_healed_and_an_older_bundle_still_refused(fleet: Fleet, trust: Trust, copy: str, damage: bytes | None) -> None:
    older = fleet.repository.trust_bundle()
    view = deliver(trust, fleet.refresh(), fleet)
    path = trust._directory / copy
    good = path.read_bytes()
    path.write_bytes(good[:-10] if damage is None else damage * len(good))
    restarted = Trust(trust._directory, fleet.repository.root())

    assert restarted.current(now=fleet.now) == view
    assert path.read_bytes() == good
    with refused(restarted, Code.TRUST_ROLLBACK):
        deliver(restarted, older, fleet)


def test_power_cut_between_the_copies_leaves_the_newer(fleet: Fleet, trust: Trust) -> None:
    before = (trust._directory / COPIES[1]).read_bytes()
    view = deliver(trust, fleet.refresh(), fleet)
    (trust._directory / COPIES[1]).write_bytes(before)

    assert Trust(trust._directory, fleet.repository.root()).current(now=fleet.now) == view


def test_disk_that_loses_both_copies_under_a_running_node_forgets_nothing(fleet: Fleet, trust: Trust) -> None:
    older = fleet.repository.trust_bundle()
    view = deliver(trust, fleet.refresh(), fleet)
    for name in COPIES:
        (trust._directory / name).write_bytes(bytes(100))

    with refused(trust, Code.TRUST_ROLLBACK):
        deliver(trust, older, fleet)
    assert Trust(trust._directory, fleet.repository.root()).current(now=fleet.now) == view


def test_node_that_lost_both_copies_begins_again_at_the_pinned_root(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    for name in COPIES:
        (trust._directory / name).write_bytes(bytes(100))
    restarted = Trust(trust._directory, fleet.repository.root())

    assert restarted.current(now=fleet.now) is None
    assert deliver(restarted, bundle, fleet).rollouts["delay"].release.version == "1.0.0"


def test_what_a_killed_process_left_behind_is_swept(fleet: Fleet, trust: Trust) -> None:
    (trust._directory / "scratch-killed").mkdir()
    (trust._directory / "scratch-killed" / "timestamp.json").write_bytes(b"{")
    deliver(trust, fleet.refresh(), fleet)

    assert sorted(path.name for path in trust._directory.iterdir()) == ["lock", *COPIES]


def _accept_without_room(trust: Trust, bundle: TrustBundle, now: datetime, answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        trust.accept(bundle, now=now)
    except Refused as refusal:
        answers.put(refusal.code)


def test_full_disk_is_refused_and_changes_nothing(fleet: Fleet, trust: Trust) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    before, bundle = tree(trust._directory), fleet.refresh()
    child = context.Process(target=_accept_without_room, args=(trust, bundle, fleet.now, answers))
    child.start()
    child.join(100)

    assert child.exitcode == 0
    assert answers.get() == Code.DISK_FULL
    assert tree(trust._directory) == before


def _accept_all(directory: Path, root: bytes, bundles: list[TrustBundle], now: datetime, answers: Any) -> None:
    trust = Trust(directory, root)
    found = []
    for bundle in bundles:
        try:
            found.append(trust.accept(bundle, now=now).timestamp_version)
        except Refused as refusal:
            found.append(str(refusal.code))
    answers.put(found)


def test_two_processes_on_one_folder_never_go_back(fleet: Fleet, tmp_path: Path) -> None:
    bundles = [fleet.refresh() for _ in range(8)]
    newest = signed(bundles[-1].timestamp).version
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    arguments = (tmp_path / "node", fleet.repository.root(), bundles, fleet.now, answers)
    children = [context.Process(target=_accept_all, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join(100)
    view = fresh(fleet, tmp_path, "node").current(now=fleet.now)

    assert [child.exitcode for child in children] == [0, 0]
    assert view is not None
    assert view.timestamp_version == newest
    for answer in found:
        accepted = [one for one in answer if isinstance(one, int)]
        assert accepted == sorted(accepted)
        assert {one for one in answer if isinstance(one, str)} <= {str(Code.TRUST_ROLLBACK)}


def test_folder_of_another_fleets_node_is_not_believed(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    other = Fleet.make(tmp_path / "other hub")

    assert Trust(trust._directory, other.repository.root()).current(now=NOW) is None


def test_key_that_stands_twice_is_refused_even_when_the_signature_holds(fleet: Fleet, trust: Trust) -> None:
    bundle = fleet.refresh()
    version = signed(bundle.timestamp).version
    twice = bundle.timestamp.replace(b'"version":%d,"x' % version, b'"version":1,"version":%d,"x' % version)
    assert json.loads(twice) == json.loads(bundle.timestamp)
    assert twice != bundle.timestamp

    with refused(trust, Code.SCHEMA_MALFORMED):
        deliver(trust, altered(bundle, timestamp=twice), fleet)

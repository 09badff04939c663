"""The repository: what each key may change, and that what is vouched for always agrees with itself."""

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from hub.core.publish.metadata_expiry import ROLLOUTS_DAYS, SNAPSHOT_DAYS
from hub.signing.key_changes import RootHolders
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.errors import Code, Refused
from tests.trust_fleet import DAY, HOUR, NOW, Fleet, change_keys, manifest, rollout, signed, tree


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path / "hub", models=("delay", "other"))


def files(fleet: Fleet) -> dict[str, bytes]:
    return tree(fleet.repository._folder.directory)


def assert_refused(fleet: Fleet, code: Code, change: Any) -> None:
    before = files(fleet)
    with pytest.raises(Refused) as caught:
        change()

    assert caught.value.code == code
    assert files(fleet) == before


# Releases


def test_release_is_listed_and_read_back(fleet: Fleet) -> None:
    for version in ("1.10.0", "1.2.0", "1.10.0-rc.1"):
        fleet.release(version)

    assert fleet.repository.releases("delay") == ["1.2.0", "1.10.0-rc.1", "1.10.0"]
    assert fleet.repository.releases("other") == []
    assert fleet.repository.manifest("delay", "1.2.0") == manifest("1.2.0")


def test_same_release_twice_is_nothing(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    before = files(fleet)
    fleet.release("1.0.0")

    assert files(fleet) == before


def test_version_with_other_content_is_a_conflict(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    other = manifest("1.0.0", description="other")

    assert_refused(
        fleet,
        Code.RELEASE_CONFLICT,
        lambda: fleet.repository.add_release("delay", "1.0.0", other, team=fleet.keys["team"], now=NOW),
    )
    assert fleet.repository.manifest("delay", "1.0.0") == manifest("1.0.0")


def test_key_that_is_not_delegated_cannot_publish(fleet: Fleet) -> None:
    for key in ("stranger", "targets", "rollouts", "snapshot"):
        assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda key=key: fleet.release("1.0.0", key=key))


def test_model_that_is_not_delegated_cannot_be_published(fleet: Fleet) -> None:
    assert_refused(fleet, Code.RELEASE_UNKNOWN, lambda: fleet.release("1.0.0", model="unknown"))


def test_version_that_is_none_is_refused(fleet: Fleet) -> None:
    for version in ("../../../etc/passwd", "1.0", "1.0.0/x", ""):
        assert_refused(
            fleet,
            Code.NAME_INVALID,
            lambda version=version: fleet.repository.add_release("delay", version, b"{}", team=fleet.keys["team"], now=NOW),
        )


def test_unknown_release_is_refused(fleet: Fleet) -> None:
    fleet.release("1.0.0")

    assert_refused(fleet, Code.RELEASE_UNKNOWN, lambda: fleet.repository.manifest("delay", "2.0.0"))
    assert_refused(fleet, Code.RELEASE_UNKNOWN, lambda: fleet.models("1.0.0"))  # nobody has vouched for it yet


def test_publish_that_was_killed_before_it_signed_can_be_done_again_with_other_content(fleet: Fleet) -> None:
    path = fleet.repository._folder.documents / "models" / "delay" / "1.0.0"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"left behind")
    fleet.release("1.0.0")

    assert fleet.repository.manifest("delay", "1.0.0") == manifest("1.0.0")


def test_withdrawn_release_is_gone_for_good(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.release("1.1.0")
    fleet.repository.renew_releases("delay", team=fleet.keys["team"], now=NOW, keep=["1.1.0"])
    fleet.refresh()

    assert fleet.repository.releases("delay") == ["1.1.0"]
    assert [one.version for one in fleet.models("1.0.0", "1.1.0").manifests] == ["1.1.0"]
    assert_refused(fleet, Code.RELEASE_CONFLICT, lambda: fleet.release("1.0.0"))


def test_new_team_does_not_vouch_unasked_for_what_the_old_one_signed(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.repository.delegate("delay", team=fleet.keys["stranger"].public_key, targets=fleet.keys["targets"], now=NOW)

    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda: fleet.release("1.1.0"))
    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda: fleet.release("1.1.0", key="stranger"))
    fleet.repository.renew_releases("delay", team=fleet.keys["stranger"], now=NOW, keep=["1.0.0"])
    fleet.release("1.1.0", key="stranger")

    assert fleet.repository.releases("delay") == ["1.0.0", "1.1.0"]


def test_delegated_model_is_known_before_its_first_release(fleet: Fleet) -> None:
    fleet.repository.delegate("third", team=fleet.keys["team"].public_key, targets=fleet.keys["targets"], now=NOW)

    assert fleet.repository.models() == ["delay", "other", "third"]
    assert fleet.refresh().targets != b""


def test_only_the_targets_key_delegates(fleet: Fleet) -> None:
    team = fleet.keys["team"]

    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda: fleet.repository.delegate("third", team=team.public_key, targets=team, now=NOW))
    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda: change_keys(fleet.repository, [team], now=NOW, minimums={"delay": "1.0.0"}))


# Rollouts


def test_rollout_is_read_back_and_the_same_twice_is_nothing(fleet: Fleet) -> None:
    assert fleet.repository.rollout("delay") is None
    fleet.roll("1.0.0")
    before = files(fleet)
    fleet.roll("1.0.0")

    assert files(fleet) == before
    assert fleet.repository.rollout("delay") == rollout("1.0.0")


def test_only_the_rollouts_key_signs_rollouts(fleet: Fleet) -> None:
    assert_refused(
        fleet,
        Code.KEY_NOT_AUTHORISED,
        lambda: fleet.repository.set_rollout("delay", rollout("1.0.0"), rollouts=fleet.keys["team"], now=NOW),
    )


def test_rollouts_are_renewed_at_half_of_their_life(fleet: Fleet) -> None:
    half = timedelta(days=ROLLOUTS_DAYS) / 2

    assert not fleet.repository.renew_rollouts(rollouts=fleet.keys["rollouts"], now=NOW + half)
    assert fleet.repository.renew_rollouts(rollouts=fleet.keys["rollouts"], now=NOW + half + HOUR)


# What is vouched for


def refresh(fleet: Fleet, after: timedelta) -> bool:
    return fleet.repository.refresh(snapshot=fleet.keys["snapshot"], timestamp=fleet.keys["timestamp"], now=NOW + after)


def test_timestamp_is_signed_again_every_hour_and_not_before(fleet: Fleet) -> None:
    before = fleet.repository.trust_bundle()

    assert not refresh(fleet, HOUR - timedelta(seconds=1))
    assert refresh(fleet, HOUR)
    after = fleet.repository.trust_bundle()
    assert signed(after.timestamp).version == signed(before.timestamp).version + 1
    assert after.snapshot == before.snapshot


def test_snapshot_is_signed_again_when_a_role_changes_or_it_ages(fleet: Fleet) -> None:
    before = signed(fleet.repository.trust_bundle().snapshot).version
    fleet.release("1.0.0")

    assert refresh(fleet, timedelta(0))
    assert signed(fleet.repository.trust_bundle().snapshot).version == before + 1
    assert refresh(fleet, timedelta(days=SNAPSHOT_DAYS) / 2 + HOUR)
    assert signed(fleet.repository.trust_bundle().snapshot).version == before + 2


def test_bundle_stays_as_of_the_last_refresh(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.roll("1.0.0")
    bundle, models = fleet.refresh(), fleet.models("1.0.0")
    fleet.release("1.1.0")
    fleet.roll("1.1.0", serial=2)
    fleet.repository.renew_targets(targets=fleet.keys["targets"], now=NOW)
    change_keys(fleet.repository, fleet.roots, now=NOW, top={"timestamp": fleet.keys["stranger"].public_key})

    assert fleet.repository.trust_bundle() == bundle
    assert fleet.models("1.0.0", "1.1.0") == models
    assert bundle.documents[0].document == rollout("1.0.0")
    assert fleet.repository.rollout("delay") == rollout("1.1.0", serial=2)


def test_role_once_in_the_snapshot_is_never_dropped(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    bundle = fleet.refresh()
    for path in fleet.repository._folder.path("model-delay", 1).parent.glob("*.model-delay.json"):
        path.unlink()
    fleet.repository.renew_targets(targets=fleet.keys["targets"], now=NOW)
    after = fleet.refresh()

    assert set(signed(bundle.snapshot).meta) <= set(signed(after.snapshot).meta)


def test_online_keys_of_somebody_else_vouch_for_nothing(fleet: Fleet) -> None:
    for role in ("snapshot", "timestamp"):
        keys = {name: fleet.keys[name] for name in ("snapshot", "timestamp")} | {role: fleet.keys["stranger"]}
        assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda keys=keys: fleet.repository.refresh(**keys, now=NOW + DAY))


def test_nothing_is_vouched_for_until_a_new_key_has_signed(fleet: Fleet) -> None:
    fleet.replace_key("targets")
    offer = fleet.draft(top={"targets": fleet.keys["targets"].public_key})
    for key in (*fleet.roots, fleet.keys["targets"]):
        offer.sign(key)
    fleet.changes.take_over(offer, now=NOW)
    fleet.repository._folder.path("targets", 2).unlink()  # A process that was killed between the two.

    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, fleet.refresh)
    assert fleet.changes.take_over(offer, now=NOW)
    assert not fleet.changes.take_over(offer, now=NOW)
    assert signed(fleet.refresh().targets).version == 2


def test_hub_that_was_killed_between_snapshot_and_timestamp_goes_on(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    directory, before = fleet.repository._folder.directory, files(fleet)
    refresh(fleet, timedelta(0))
    snapshot = files(fleet)["metadata/2.snapshot.json"]
    for name in files(fleet):
        (directory / name).unlink()
    for name, data in {**before, "metadata/2.snapshot.json": snapshot}.items():
        (directory / name).write_bytes(data)
    with pytest.raises(Refused):
        fleet.models("1.0.0")

    assert refresh(fleet, timedelta(0))
    assert fleet.models("1.0.0").manifests[0].version == "1.0.0"
    assert signed(fleet.repository.trust_bundle().timestamp).version == 2


def test_old_files_are_dropped_and_roots_are_not(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    for serial in range(1, 8):
        fleet.roll("1.0.0", serial=serial)
        fleet.rekey("timestamp")
        fleet.refresh()
    names = [name for name in files(fleet) if name.startswith("metadata/")]

    assert sum(name.endswith(".root.json") for name in names) == 8
    assert sum(name.endswith(".timestamp.json") for name in names) == 1
    assert sum(name.endswith(".rollouts.json") for name in names) == 1
    assert len([name for name in files(fleet) if name.startswith("documents/rollouts/")]) == 1


def test_bundles_fit_their_wire_form(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.roll("1.0.0")
    bundle = fleet.refresh()

    assert codec.decode(TrustBundle, codec.encode(bundle)) == bundle


def test_expiries_warn_at_half_and_at_a_fifth_of_a_life(fleet: Fleet) -> None:
    def said(after: timedelta) -> dict[str, str]:
        return {one.role: one.severity for one in fleet.repository.expiries(NOW + after)}

    assert set(said(timedelta(0)).values()) == {"ok"}
    assert said(timedelta(days=184))["root"] == "warning"
    assert said(timedelta(days=150))["targets"] == "urgent"
    assert said(timedelta(days=4))["rollouts"] == "warning"
    assert said(DAY)["timestamp"] == "expired"
    assert next(iter(fleet.repository.expiries(NOW))).role == "timestamp"


# Roots


def test_root_rotation_needs_both_thresholds(fleet: Fleet) -> None:
    new = [CryptoSigner.generate_ed25519() for _ in range(3)]
    for old_count, threshold in ((1, 2), (2, 4)):
        old = fleet.roots[:old_count]
        assert_refused(
            fleet,
            Code.KEY_NOT_AUTHORISED,
            lambda old=old, threshold=threshold: change_keys(
                fleet.repository, [*old, *new], now=NOW, holders=RootHolders([one.public_key for one in new], threshold)
            ),
        )
    holders = RootHolders([one.public_key for one in new], 2)
    change_keys(fleet.repository, [*fleet.roots[:2], *new], now=NOW, holders=holders)
    second: Metadata[Root] = Metadata.from_bytes(fleet.repository.root(2))

    Metadata[Root].from_bytes(fleet.repository.root(1)).signed.verify_delegate("root", second.signed_bytes, second.signatures)
    second.signed.verify_delegate("root", second.signed_bytes, second.signatures)
    assert len(fleet.refresh().roots) == 2


def test_rekeying_needs_the_roots_threshold(fleet: Fleet) -> None:
    key = fleet.keys["stranger"].public_key

    assert_refused(fleet, Code.KEY_NOT_AUTHORISED, lambda: change_keys(fleet.repository, fleet.roots[:1], now=NOW, top={"snapshot": key}))


def test_fleet_is_not_made_twice_or_under_its_threshold(fleet: Fleet, tmp_path: Path) -> None:
    before = files(fleet)
    with pytest.raises(Refused) as caught:
        Fleet.make(tmp_path / "hub")

    assert caught.value.code == Code.SETTINGS_INVALID
    assert files(fleet) == before
    key = fleet.keys["root-1"]
    with pytest.raises(Refused) as caught:
        Repository.create(
            tmp_path / "new",
            root_signers=[key, key],
            threshold=2,
            targets=key,
            snapshot=key,
            timestamp=key,
            rollouts=key,
            team=key.public_key,
            models=[],
            now=NOW,
        )
    assert caught.value.code == Code.KEY_NOT_AUTHORISED
    assert not (tmp_path / "new").exists()


# Several processes


def _publish(fleet: Fleet, model: str, count: int) -> None:
    for number in range(count):
        fleet.release(f"1.{number}.0", model=model)


def _vouch(fleet: Fleet, count: int, answers: Any) -> None:
    for number in range(count):
        fleet.roll("1.0.0", serial=number + 1)
        bundle = fleet.refresh(after=timedelta(seconds=1))
        if bundle.documents[0].document != rollout("1.0.0", serial=number + 1):
            os._exit(3)
    answers.put("vouched")


def test_publishers_and_hub_work_on_one_folder_at_once(fleet: Fleet) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [
        context.Process(target=_publish, args=(fleet, "delay", 12)),
        context.Process(target=_publish, args=(fleet, "delay", 12)),
        context.Process(target=_publish, args=(fleet, "other", 12)),
        context.Process(target=_vouch, args=(fleet, 12, answers)),
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    fleet.refresh()

    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert fleet.repository.releases("delay") == fleet.repository.releases("other") == [f"1.{number}.0" for number in range(12)]
    assert len(fleet.models(*fleet.repository.releases("delay")).manifests) == 12
    assert not [name for name in files(fleet) if name.endswith(".partial")]

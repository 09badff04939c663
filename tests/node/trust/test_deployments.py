"""Statements of deployments and the small trust documents: what is genuine is kept, and what others put in its place is refused alone."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
import zstandard
from securesystemslib.signer import CryptoSigner

from hub.signing.envelopes import seal
from node.trust.tuf_client import ROLES_COPIES, TIME_COPIES, Trust
from schemas import codec
from schemas.bundle import TrustBundle, TrustRoles
from schemas.deployments import Deployments, Envelope
from schemas.errors import Code, Refused, Unreachable
from tests.trust_fleet import DAY, HOUR, NOW, Fleet, forged, signed, statement, tree


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet.make(tmp_path / "hub", models=("delay", "other"))
    fleet.release("1.0.0")
    return fleet


@pytest.fixture
def trust(fleet: Fleet, tmp_path: Path) -> Trust:
    """A node that has fetched the roles, and heard nothing else."""
    made = fresh(fleet, tmp_path)
    made.accept_roles(fleet.roles(), now=fleet.now)
    return made


def fresh(fleet: Fleet, tmp_path: Path) -> Trust:
    return Trust(tmp_path / "node", fleet.repository.root())


def accept(trust: Trust, envelope: Envelope, fleet: Fleet, *, model: str = "delay", now: datetime | None = None) -> Deployments:
    """Through the codec, as it comes off the wire."""
    return trust.accept_deployments(codec.decode(Envelope, codec.encode(envelope)), model=model, now=now or fleet.now)


def refusal(trust: Trust, envelope: Envelope, fleet: Fleet, **more: str) -> Code:
    before, known = tree(trust._directory), dict(trust.deployments())
    with pytest.raises(Refused) as caught:
        accept(trust, envelope, fleet, **more)
    assert (tree(trust._directory), dict(trust.deployments())) == (before, known)
    return caught.value.code


# Deployments


def test_a_statement_is_kept_and_verified_again_after_a_restart(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    said = accept(trust, fleet.deploy("1.0.0"), fleet)

    assert said == statement("1.0.0", expires=fleet.now + 7 * DAY)
    assert dict(fresh(fleet, tmp_path).deployments()) == {"delay": said}


def test_a_statement_before_any_roles_waits(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no trusted roles"):
        accept(fresh(fleet, tmp_path), fleet.deploy("1.0.0"), fleet)


@pytest.mark.parametrize("key", ["stranger", "team", "timestamp", "snapshot", "targets"])
def test_a_statement_by_any_key_but_that_of_rollouts_is_refused(fleet: Fleet, trust: Trust, key: str) -> None:
    envelope = seal("deployments", codec.encode(statement("1.0.0")), fleet.keys[key])

    assert refusal(trust, envelope, fleet) is Code.TRUST_SIGNATURE


def test_a_changed_statement_and_a_signature_for_another_purpose_are_refused(fleet: Fleet, trust: Trust) -> None:
    envelope = fleet.deploy("1.0.0")
    changed = envelope.model_copy(update={"payload": codec.encode(statement("1.0.1"))})
    borrowed = seal("settings", envelope.payload, fleet.keys["rollouts"])

    assert {refusal(trust, changed, fleet), refusal(trust, borrowed, fleet)} == {Code.TRUST_SIGNATURE}


def test_an_older_statement_is_refused_also_after_a_restart(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    older = fleet.deploy("1.0.0", serial=1)
    accept(trust, fleet.deploy("1.1.0", serial=2), fleet)

    assert refusal(trust, older, fleet) is Code.TRUST_ROLLBACK
    assert refusal(fresh(fleet, tmp_path), older, fleet) is Code.TRUST_ROLLBACK


def test_one_serial_says_one_thing_and_may_be_signed_again_for_longer(fleet: Fleet, trust: Trust) -> None:
    first = fleet.deploy("1.0.0")
    accept(trust, first, fleet)
    later = fleet.deploy("1.0.0", expires=fleet.now + 9 * DAY)

    assert refusal(trust, fleet.deploy("1.1.0"), fleet) is Code.TRUST_MISMATCH
    assert accept(trust, later, fleet).expires == int((fleet.now + 9 * DAY).timestamp())
    assert refusal(trust, first, fleet) is Code.TRUST_ROLLBACK


def test_a_statement_about_another_model_is_refused_on_a_models_topic(fleet: Fleet, trust: Trust) -> None:
    assert refusal(trust, fleet.deploy("1.0.0", model="other"), fleet) is Code.TRUST_MISMATCH


def test_a_statement_that_has_expired_is_refused_and_one_that_expires_later_stays(fleet: Fleet, trust: Trust) -> None:
    accept(trust, fleet.deploy("1.0.0"), fleet)
    fleet.now += 8 * DAY

    assert refusal(trust, fleet.deploy("1.1.0", serial=2, expires=fleet.now - HOUR), fleet) is Code.TRUST_EXPIRED
    assert trust.deployments()["delay"].serial == 1


def test_a_statement_that_is_not_understood_is_refused_alone(fleet: Fleet, trust: Trust) -> None:
    kept = accept(trust, fleet.deploy("1.0.0", model="other"), fleet, model="other")
    unread = seal("deployments", zstandard.compress(b"\x81\xa1@\xaedeployments/99"), fleet.keys["rollouts"])

    assert refusal(trust, unread, fleet) is Code.SCHEMA_UNSUPPORTED
    assert accept(trust, fleet.deploy("1.0.0"), fleet).model == "delay"
    assert trust.deployments()["other"] == kept


def test_a_new_rollouts_key_ends_the_statements_and_serials_of_the_stolen_one(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    stolen = fleet.keys["rollouts"]
    accept(trust, seal("deployments", codec.encode(statement("1.0.0", serial=2**53)), stolen), fleet)
    fleet.keys["rollouts"] = CryptoSigner.generate_ed25519()
    fleet.rekey_rollouts()
    fleet.repository.renew_rollouts(rollouts=fleet.keys["rollouts"], now=fleet.now)
    trust.accept_roles(fleet.roles(), now=fleet.now)

    assert dict(trust.deployments()) == {}
    assert accept(trust, fleet.deploy("1.0.0", serial=5), fleet).serial == 5
    assert refusal(trust, seal("deployments", codec.encode(statement("1.0.0", serial=6)), stolen), fleet) is Code.TRUST_SIGNATURE
    assert fresh(fleet, tmp_path).deployments()["delay"].serial == 5


def test_a_damaged_statement_is_forgotten_alone_and_taken_again(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    envelope = fleet.deploy("1.0.0")
    accept(trust, envelope, fleet)
    accept(trust, fleet.deploy("1.0.0", model="other"), fleet, model="other")
    file = trust._directory / "deployments" / "delay"
    file.write_bytes(file.read_bytes()[:-9])
    again = fresh(fleet, tmp_path)

    assert again.deployments().keys() == {"other"}
    assert accept(again, envelope, fleet).model == "delay"


# The timestamp alone


def test_a_timestamp_alone_keeps_the_roles_fresh_and_releases_acceptable(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    for _ in range(3):
        stamp = fleet.roles(after=DAY).timestamp
        view = trust.accept_timestamp(stamp, now=fleet.now)
    again = fresh(fleet, tmp_path).current(now=fleet.now)

    assert again == view
    assert (view.stale, view.timestamp_expires) == (False, fleet.now + DAY)
    assert trust.accept_model(fleet.models("1.0.0"), now=fleet.now)[0].manifest.version == "1.0.0"
    assert trust.current(now=fleet.now + 2 * DAY).stale  # type: ignore[union-attr]


def test_fresh_timestamps_do_not_outlive_the_other_roles(fleet: Fleet, trust: Trust) -> None:
    snapshot_expires = signed(fleet.repository.trust_roles().snapshot).expires
    while fleet.now < snapshot_expires:
        view = trust.accept_timestamp(fleet.roles(after=DAY).timestamp, now=fleet.now)

    assert view.stale
    assert view.expires == snapshot_expires
    assert view.snapshot_named > view.snapshot_version


def test_a_timestamp_that_names_a_newer_snapshot_is_fine_and_older_roles_are_not(fleet: Fleet, trust: Trust) -> None:
    fleet.release("1.1.0")
    between = fleet.roles()
    fleet.release("1.2.0")
    view = trust.accept_timestamp(fleet.roles().timestamp, now=fleet.now)

    assert view.snapshot_named == view.snapshot_version + 2
    with pytest.raises(Refused) as caught:
        trust.accept_roles(between, now=fleet.now)
    assert caught.value.code is Code.TRUST_ROLLBACK
    assert trust.accept_roles(fleet.repository.trust_roles(), now=fleet.now).snapshot_version == view.snapshot_named


@pytest.mark.parametrize("key", ["stranger", "rollouts", "snapshot"])
def test_a_timestamp_by_another_key_is_refused(fleet: Fleet, trust: Trust, key: str) -> None:
    stamp = forged(fleet.roles().timestamp, fleet.keys[key])

    with pytest.raises(Refused) as caught:
        trust.accept_timestamp(stamp, now=fleet.now)
    assert caught.value.code is Code.TRUST_SIGNATURE


def test_a_timestamp_never_falls_not_even_after_a_restart(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    older, newer = fleet.roles().timestamp, fleet.roles().timestamp
    trust.accept_timestamp(newer, now=fleet.now)
    same = forged(newer, fleet.keys["timestamp"], expires=fleet.now + 2 * DAY)

    for node in (trust, fresh(fleet, tmp_path)):
        for stamp, code in ((older, Code.TRUST_ROLLBACK), (same, Code.TRUST_MISMATCH), (b"{}", Code.SCHEMA_MALFORMED)):
            with pytest.raises(Refused) as caught:
                node.accept_timestamp(stamp, now=fleet.now)
            assert caught.value.code is code


def test_an_expired_timestamp_is_refused(fleet: Fleet, trust: Trust) -> None:
    stamp = fleet.roles().timestamp

    with pytest.raises(Refused) as caught:
        trust.accept_timestamp(stamp, now=fleet.now + 2 * DAY)
    assert caught.value.code is Code.TRUST_EXPIRED


@pytest.mark.parametrize("names", [ROLES_COPIES, TIME_COPIES])
def test_either_copy_of_roles_and_time_is_enough(fleet: Fleet, trust: Trust, tmp_path: Path, names: tuple[str, str]) -> None:
    view = trust.accept_timestamp(fleet.roles().timestamp, now=fleet.now)
    for name in names:
        whole = (trust._directory / name).read_bytes()
        (trust._directory / name).write_bytes(whole[: len(whole) // 2])

        assert fresh(fleet, tmp_path).current(now=fleet.now) == view
        (trust._directory / name).write_bytes(whole)


def test_a_stolen_timestamp_key_is_replaced_together_with_its_versions(fleet: Fleet, trust: Trust) -> None:
    raised = forged(fleet.roles().timestamp, fleet.keys["timestamp"], version=2**40)
    trust.accept_timestamp(raised, now=fleet.now)
    fleet.replace_key("timestamp")
    fleet.rekey("timestamp")
    view = trust.accept_roles(fleet.roles(), now=fleet.now)

    assert view.timestamp_version < 2**40
    assert trust.accept_timestamp(fleet.roles().timestamp, now=fleet.now).timestamp_version == view.timestamp_version + 1


# Beside the topic of before


def test_rollouts_of_the_old_topic_stay_known_when_roles_come_alone(fleet: Fleet, tmp_path: Path) -> None:
    trust = fresh(fleet, tmp_path)
    fleet.roll("1.0.0", serial=3)
    trust.accept(fleet.refresh(), now=fleet.now)
    view = trust.accept_roles(fleet.roles(), now=fleet.now)

    assert view.rollouts["delay"].serial == 3
    assert fresh(fleet, tmp_path).current(now=fleet.now) == view


def test_a_bundle_older_than_a_timestamp_that_came_alone_is_refused(fleet: Fleet, trust: Trust) -> None:
    fleet.roll("1.0.0")
    older: TrustBundle = fleet.refresh()
    trust.accept_timestamp(fleet.roles().timestamp, now=fleet.now)

    with pytest.raises(Refused) as caught:
        trust.accept(older, now=fleet.now)
    assert caught.value.code is Code.TRUST_ROLLBACK
    assert trust.accept(fleet.refresh(after=timedelta()), now=fleet.now).rollouts["delay"].serial == 1


def test_roles_by_a_stranger_are_refused_on_first_contact(fleet: Fleet, tmp_path: Path) -> None:
    foreign: TrustRoles = Fleet.make(tmp_path / "foreign", now=NOW).roles()
    trust = fresh(fleet, tmp_path)

    with pytest.raises(Refused) as caught:
        trust.accept_roles(foreign, now=NOW + HOUR)
    assert caught.value.code is Code.TRUST_SIGNATURE
    assert trust.current(now=fleet.now) is None

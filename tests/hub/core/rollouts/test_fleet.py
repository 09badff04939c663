"""The fold of states and receipts into a fleet."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts import fleet
from hub.core.rollouts.fleet import Node, fold_receipt, fold_state
from hub.core.rollouts.listening import Listened
from schemas.errors import Code, Refused
from schemas.names import RESERVED_NODES, sha256
from schemas.receipt import Receipt
from schemas.rollout import ReleaseRef
from schemas.state import Profile, State

KEY, OTHER_KEY = b"key", b"other key"
ONE, TWO = sha256(b"1"), sha256(b"2")


def state(session: int = 1, status: str = "online", **changes: object) -> State:
    key = b"" if status == "lost" else KEY
    fields = {"node": "site-1", "session": session, "status": status, "at": 1000, "public_key": key, **changes}
    return State.model_validate(fields)


def known(*states: State) -> Node:
    node: Node | None = None
    for one in states:
        node = fold_state(node, one, now=2000, listened=Listened(2000.0)) or node
    assert node is not None
    return node


def receipt(sequence: int, outcome: str, digest: bytes = ONE, **changes: object) -> Receipt:
    fields = {"node": "site-1", "sequence": sequence, "at": 1, "outcome": outcome, "model": "delay", "version": "1.0.0", "digest": digest}
    return Receipt.model_validate({**fields, **changes})


def test_a_late_will_of_an_older_session_does_not_overwrite_a_newer_birth() -> None:
    node = known(state(session=2))

    assert fold_state(node, state(session=1, status="lost"), now=2001, listened=Listened(2001.0)) is None


def test_a_will_of_the_present_session_says_lost_and_keeps_what_the_node_said() -> None:
    node = known(state(session=2, cohort="nyc"))

    lost = fold_state(node, state(session=2, status="lost"), now=9999, listened=Listened(9999.0))

    assert lost is not None
    assert (lost.status, lost.state.cohort, lost.last_seen, lost.public_key) == ("lost", "nyc", 2000, KEY)


def test_an_older_sessions_state_is_ignored_where_the_broker_kept_it() -> None:
    assert fold_state(known(state(session=3)), state(session=2), now=2001, listened=Listened(2001.0), old=True) is None


@pytest.mark.parametrize("before", [3, 2**53])
def test_a_node_that_speaks_just_now_is_there_whatever_its_session(before: int) -> None:
    node = fold_state(known(state(session=before, status="disconnected")), state(session=2), now=2001, listened=Listened(2001.0))

    assert node is not None
    assert (node.status, node.session) == ("online", 2)


def test_an_absurd_session_shuts_out_not_even_what_the_broker_kept() -> None:
    assert known(state(session=2**53), state(session=2)).session == 2
    assert fold_state(known(state(session=2**53)), state(session=2), now=2001, listened=Listened(2001.0), old=True) is not None


def test_a_will_of_an_absurd_session_raises_no_session() -> None:
    lost = known(state(session=2), state(session=2**53, status="lost"))

    assert (lost.status, lost.session) == ("lost", 2)
    assert known(state(session=2), state(session=2**53, status="lost"), state(session=3)).status == "online"


def test_a_receipt_that_never_came_before_counts_whatever_its_number() -> None:
    node = fold_receipt(known(state()), receipt(40, "serving", ONE), received_at=1)

    assert fold_receipt(node, receipt(1, "serving", TWO), received_at=2, is_new=True).serving["delay"].digest == TWO
    assert fold_receipt(node, receipt(1, "serving", TWO), received_at=2).serving["delay"].digest == ONE


def test_a_polite_goodbye_is_not_turned_into_a_loss() -> None:
    node = known(state(session=2), state(session=2, status="disconnected"))

    assert fold_state(node, state(session=2, status="lost"), now=2001, listened=Listened(2001.0)) is None


def test_another_device_key_is_refused_and_the_first_stays() -> None:
    node = known(state())

    with pytest.raises(Refused) as refusal:
        fold_state(node, state(session=2, public_key=OTHER_KEY), now=2001, listened=Listened(2001.0))

    assert refusal.value.code == Code.RECEIPT_KEY_CHANGED
    assert node.public_key == KEY


@pytest.mark.parametrize("name", sorted(RESERVED_NODES))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        fold_state(None, state(node=name), now=2000, listened=Listened(2000.0))

    assert refusal.value.code == Code.NAME_INVALID


def test_a_retained_state_counts_from_when_it_was_said() -> None:
    node = fold_state(None, state(at=500), now=2000, listened=Listened(2000.0), old=True)

    assert node is not None
    assert (node.last_seen, node.heard_at) == (500, 500.0)


@pytest.mark.parametrize(
    ("status", "silent_seconds", "age_seconds", "expected"),
    [
        ("disconnected", 60, 59, True),
        ("disconnected", 60, 60, False),
        ("lost", 60, 60, False),
        ("online", 60, fleet.ONLINE_SECONDS - 1, True),
        ("online", 60, fleet.ONLINE_SECONDS, False),
        ("online", 3600, 3599, True),
        ("online", 3600, 3600, False),
    ],
)
def test_who_counts_as_heard_from(status: str, silent_seconds: int, age_seconds: int, expected: bool) -> None:
    node = replace(known(state()), status=status)  # type: ignore[arg-type]

    assert expected == fleet.heard(node, listened=Listened(2000.0 + age_seconds), silent_seconds=silent_seconds)


def test_only_a_receipt_says_what_is_served() -> None:
    slots = ({"model": "delay", "state": "active", "serving": ONE, "serving_version": "1.0.0"},)
    claims = known(state(slots=slots, profile=Profile(arch="x", cores=1, memory_bytes=1, labels={"site": "a"})))

    before = fleet.facts(claims, model="delay", release=ReleaseRef("1.0.0", ONE), begun=1, listened=Listened(2000.0), silent_seconds=60)
    signed = fold_receipt(claims, receipt(1, "serving"), received_at=2000, heard_at=Listened(2000.0))
    after = fleet.facts(signed, model="delay", release=ReleaseRef("1.0.0", ONE), begun=1, listened=Listened(2000.0), silent_seconds=60)

    assert (before.serving, after.serving) == (False, True)
    assert dict(after.labels) == {"site": "a"}


def test_a_rollback_ends_serving_until_the_node_signs_for_another() -> None:
    node = fold_receipt(known(state()), receipt(1, "serving", TWO), received_at=1, heard_at=Listened(1.0))

    back = fold_receipt(node, receipt(2, "rolled_back", TWO, code="probation.errors"), received_at=7, heard_at=Listened(7.0))
    again = fold_receipt(back, receipt(3, "serving", ONE), received_at=8, heard_at=Listened(8.0))

    assert "delay" not in back.serving
    assert back.failures["delay", TWO] == fleet.Failure("rolled_back", "probation.errors", 7)
    assert again.serving["delay"].digest == ONE


def test_a_refusal_leaves_what_is_served() -> None:
    node = fold_receipt(known(state()), receipt(1, "serving", ONE), received_at=1, heard_at=Listened(1.0))

    refused = fold_receipt(node, receipt(2, "refused", TWO, code="model.golden_mismatch"), received_at=2, heard_at=Listened(2.0))

    assert refused.serving["delay"].digest == ONE
    assert (
        fleet.facts(refused, model="delay", release=ReleaseRef("2.0.0", TWO), begun=1, listened=Listened(2.0), silent_seconds=60).failed_at
        == 2
    )


@given(st.lists(st.tuples(st.sampled_from(["serving", "refused", "rolled_back"]), st.sampled_from([ONE, TWO])), max_size=8), st.data())
def test_receipts_twice_or_late_change_nothing(outcomes: list[tuple[str, bytes]], data: st.DataObject) -> None:
    ordered = [receipt(number + 1, outcome, digest) for number, (outcome, digest) in enumerate(outcomes)]
    node = known(state())
    for one in ordered:
        node = fold_receipt(node, one, received_at=2000, heard_at=Listened(2000.0))

    for one in data.draw(st.lists(st.sampled_from(ordered), max_size=5)) if ordered else []:
        assert fold_receipt(node, one, received_at=2000, heard_at=Listened(2000.0)) == node


@pytest.mark.parametrize(
    ("at", "slots", "believed"),
    [
        (900, (), True),  # said before the switch
        (1001, ({"model": "delay", "state": "active", "serving": ONE, "serving_version": "1.0.0"},), True),
        (1001, ({"model": "delay", "state": "active", "serving": TWO, "serving_version": "2.0.0"},), False),
        (1001, (), False),  # a node that has lost its data
    ],
)
def test_what_a_node_itself_says_it_no_longer_serves_is_not_believed(at: int, slots: tuple[object, ...], believed: bool) -> None:
    said = ({"model": "delay", "state": "active", "serving": ONE, "serving_version": "1.0.0"},)
    node = fold_receipt(known(state(slots=said)), receipt(1, "serving", since=1000), received_at=2000)

    after = fold_state(node, state(session=2, at=at, slots=slots), now=2001, listened=Listened(2001.0))

    assert after is not None
    assert ("delay" in after.serving) is believed

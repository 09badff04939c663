"""Who gets a certificate: the rules alone, no key, no clock, no database."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.enrol.enrolment import AGAIN_SECONDS, DAY_SECONDS, Roll, Standing, TokenFacts, admit, check_statement, may_renew, signing_keys
from hub.core.enrol.throttle import ADDRESSES_MAX, Throttle
from schemas.enrolment import CHALLENGE_SECONDS_MAX, Renewal, Statement
from schemas.errors import Code, Refused
from schemas.state import State

NOW = 1_800_000_000
A, B = b"key a", b"key b"
FRESH = TokenFacts("gate-17", expires_at=NOW + 60)
STANDING = Standing("gate-17", A, None, None, not_after=NOW + 90 * DAY_SECONDS, renewed_at=NOW - 30 * DAY_SECONDS)
RENEWAL = Renewal(node="gate-17", statement=b"s", statement_signature=b"s", request=b"r")


def test_a_token_is_good_once_and_the_same_key_is_answered_again_for_a_while() -> None:
    used = replace(FRESH, used_at=NOW, public_key=A, serial="1")

    assert admit(FRESH, A, now=NOW) == "new"
    assert admit(used, A, now=NOW + AGAIN_SECONDS) == "again"
    with pytest.raises(Refused, match="s ago"):
        admit(used, A, now=NOW + AGAIN_SECONDS + 1)


@pytest.mark.parametrize(
    ("token", "now", "said"),
    [
        (None, NOW, "not known here"),
        (FRESH, NOW + 60, "expired 0 s ago"),
        (replace(FRESH, used_at=NOW, public_key=B, serial="1"), NOW, "by another device's key"),
    ],
)
def test_a_token_that_is_not_good_is_refused_and_the_sentence_says_why(token: TokenFacts | None, now: int, said: str) -> None:
    with pytest.raises(Refused, match=said) as told:
        admit(token, A, now=now)

    assert told.value.code == Code.ENROLMENT_TOKEN


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from([A, B])), max_size=30))
def test_however_often_a_token_is_tried_only_one_key_gets_in(tries: list[tuple[int, bytes]]) -> None:
    token, admitted = FRESH, set()
    for at, key in sorted(tries):
        try:
            kind = admit(token, key, now=NOW + at)
        except Refused:
            continue
        admitted.add(key)
        if kind == "new":
            token = replace(token, used_at=NOW + at, public_key=key, serial="1")

    assert len(admitted) <= 1


@pytest.mark.parametrize("away_days", [0.5, 100, 399])
def test_an_expired_certificate_is_renewed_within_the_days_of_the_way_back(away_days: float) -> None:
    granted = may_renew(STANDING, A, now=STANDING.not_after + int(away_days * DAY_SECONDS), way_back_days=400)

    assert (granted.kind, granted.key) == ("new", A)


def test_who_was_away_for_longer_or_was_revoked_needs_a_new_token() -> None:
    with pytest.raises(Refused, match="401 days ago, the way back is open for 400") as away:
        may_renew(STANDING, A, now=STANDING.not_after + 401 * DAY_SECONDS, way_back_days=400)
    with pytest.raises(Refused) as revoked:
        may_renew(replace(STANDING, revoked_at=NOW), A, now=NOW, way_back_days=400)

    assert away.value.code == Code.ENROLMENT_REQUEST
    assert revoked.value.code == Code.ENROLMENT_REVOKED


def test_a_lost_answer_is_given_again_but_never_so_long_that_a_short_life_runs_out() -> None:
    long, short = replace(STANDING, renewed_at=NOW), replace(STANDING, renewed_at=NOW, not_after=NOW + 100)

    assert may_renew(long, A, now=NOW + AGAIN_SECONDS, way_back_days=400).kind == "again"
    assert may_renew(long, A, now=NOW + AGAIN_SECONDS + 1, way_back_days=400).kind == "new"
    assert may_renew(short, A, now=NOW + 10, way_back_days=400).kind == "again"
    assert may_renew(short, A, now=NOW + 11, way_back_days=400).kind == "new"
    assert may_renew(long, B, now=NOW, way_back_days=400).kind == "new"


def test_the_earlier_key_signs_only_for_the_key_that_came_in_its_place() -> None:
    turned = replace(STANDING, public_key=B, earlier_key=A)

    assert signing_keys(turned, RENEWAL, B) == (B, A)  # the answer was lost: the device does not know yet
    assert signing_keys(turned, RENEWAL, b"key c") == (B,)
    assert signing_keys(STANDING, RENEWAL, B) == (A,)
    with pytest.raises(Refused, match="needs a token"):
        signing_keys(None, RENEWAL, A)


@pytest.mark.parametrize(("fleet", "age"), [("other", 0), ("main", CHALLENGE_SECONDS_MAX + 1), ("main", -CHALLENGE_SECONDS_MAX - 1)])
def test_an_old_statement_or_another_fleets_is_no_nonce(fleet: str, age: int) -> None:
    statement = Statement(fleet=fleet, nonce=bytes(32), at=NOW - age)

    with pytest.raises(Refused) as told:
        check_statement(statement, fleet="main", now=NOW)
    assert told.value.code == Code.ENROLMENT_REQUEST


def state(key: bytes = A, node: str = "gate-17") -> State:
    return State(node=node, session=1, status="online", at=1, public_key=key)


def test_a_node_that_was_enrolled_counts_with_its_own_key_only() -> None:
    roll = Roll()
    roll.take(replace(STANDING, earlier_key=b"before"))

    roll.check_state(state(), now=NOW)
    roll.check_state(state(b"before"), now=NOW)
    roll.check_state(state(b""), now=NOW)  # a Will names no key
    roll.check_state(state(B, "never-enrolled"), now=NOW)  # where enrolment is open, first use still counts
    with pytest.raises(Refused) as told:
        roll.check_state(state(B), now=NOW)
    assert told.value.code == Code.RECEIPT_KEY_CHANGED
    assert roll.keys("gate-17") == (A, b"before")


def test_where_enrolment_is_required_nobody_else_counts_and_a_revoked_node_never() -> None:
    roll = Roll(required=True)
    roll.take(STANDING)

    with pytest.raises(Refused) as unknown:
        roll.check("stranger")
    roll.take(replace(STANDING, revoked_at=NOW))
    with pytest.raises(Refused) as revoked:
        roll.check("gate-17")

    assert unknown.value.code == Code.RECEIPT_UNKNOWN_NODE
    assert revoked.value.code == Code.ENROLMENT_REVOKED
    assert not roll.counts("stranger")
    assert not roll.counts("gate-17")


def test_an_address_that_keeps_failing_waits_and_others_do_not() -> None:
    throttle = Throttle(failures_max=3, seconds=60)

    for at in (0.0, 1.0, 2.0):
        throttle.failed("10.0.0.1", at)

    assert throttle.wait_seconds("10.0.0.1", 2.0) == 58.0
    assert throttle.wait_seconds("10.0.0.2", 2.0) == 0.0
    assert throttle.wait_seconds("10.0.0.1", 60.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3)), max_size=60))
def test_no_address_fails_more_often_than_it_may(steps: list[tuple[float, int]]) -> None:
    throttle, at, failed = Throttle(failures_max=3, seconds=20), 0.0, list[tuple[float, str]]()
    for pause, which in steps:
        at += pause
        address = f"10.0.0.{which}"
        if throttle.wait_seconds(address, at) == 0.0:
            throttle.failed(address, at)
            failed.append((at, address))

    for moment, address in failed:
        assert sum(1 for other, who in failed if who == address and moment - 20 < other <= moment) <= 3


def test_a_flood_of_addresses_costs_a_bounded_number_of_entries() -> None:
    throttle = Throttle()

    for number in range(ADDRESSES_MAX + 100):
        throttle.failed(str(number), 0.0)

    assert len(throttle._failed) == ADDRESSES_MAX

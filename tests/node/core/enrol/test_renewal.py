"""When a device asks for its next certificate: a table of moments, and a fleet's spread over them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.enrol.renewal import AGAIN_SECONDS, OFFLINE_SECONDS, REFUSED_SECONDS, RETRY_SECONDS_MAX, Renewal
from node.core.trust.clock import SKEW_SECONDS_MAX, SignedClock

DAY = 86_400
FRESH = Renewal(begins=0, ends=90 * DAY, jitter=0.0)


def due(renewal: Renewal, *, now: int = DAY, clock_known: bool = True, offline: float = 0.0, monotonic: float = 1e6) -> str | None:
    return renewal.due(now=now, clock_known=clock_known, offline_seconds=offline, monotonic=monotonic)


def test_a_certificate_is_renewed_at_half_of_its_life_and_an_expired_one_at_once() -> None:
    assert due(FRESH, now=45 * DAY - 1) is None
    assert due(FRESH, now=45 * DAY) == "age"
    assert due(FRESH, now=400 * DAY) == "age"


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**31), st.integers(60, 400 * DAY))
def test_nobody_asks_before_four_tenths_of_a_life_nor_later_than_half(jitter: float, begins: int, life: int) -> None:
    at = Renewal(begins, begins + life, jitter).from_at

    assert begins + 0.4 * life - 1 <= at <= begins + 0.5 * life


def test_an_unknown_clock_and_a_broker_that_takes_nobody_are_reasons_too_but_not_twice_an_hour() -> None:
    renewed = FRESH.tried("renewed", monotonic=1e6, chance=0.5)

    assert due(renewed, now=400 * DAY, monotonic=1e6 + 59) is None  # nor for its age at once
    assert due(FRESH, clock_known=False) == "clock"
    assert due(FRESH, offline=OFFLINE_SECONDS) == "broker"
    assert due(renewed, clock_known=False, monotonic=1e6 + AGAIN_SECONDS - 1) is None
    assert due(renewed, offline=OFFLINE_SECONDS, monotonic=1e6 + AGAIN_SECONDS) == "broker"


def test_attempts_that_fail_come_ever_more_rarely_and_a_no_is_asked_again_after_a_day() -> None:
    renewal, pauses = FRESH, []
    for _ in range(12):
        renewal = renewal.tried("unreachable", monotonic=0.0, chance=0.5)
        pauses.append(renewal.next_at)
    refused = FRESH.tried("refused", monotonic=0.0, chance=0.5)

    assert pauses[:3] == [60.0, 120.0, 240.0]
    assert pauses[-1] == RETRY_SECONDS_MAX
    assert due(refused, now=50 * DAY, monotonic=REFUSED_SECONDS - 1) is None
    assert due(refused, now=50 * DAY, monotonic=REFUSED_SECONDS) == "age"


@pytest.mark.parametrize("wall", [0.0, 2e9])
def test_a_signed_time_stands_in_for_a_clock_that_is_wrong_until_that_is_put_right(wall: float) -> None:
    clock = SignedClock()

    assert clock.correct(1_800_000_000, wall=wall, monotonic=10.0)
    assert clock.now(wall=wall + 5, monotonic=15.0) == 1_800_000_005
    assert clock.now(wall=1_800_000_007, monotonic=15.0) == 1_800_000_007


def test_a_clock_that_is_nearly_right_is_kept() -> None:
    clock = SignedClock()

    assert not clock.correct(1_800_000_000, wall=1_800_000_000 - SKEW_SECONDS_MAX, monotonic=10.0)
    assert clock.now(wall=5.0, monotonic=11.0) == 5.0

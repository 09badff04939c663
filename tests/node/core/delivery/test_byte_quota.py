"""A budget is a hard stop, and says which rule it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from node.core.delivery.byte_quota import UNLIMITED, Claim, Policy, TransferUsage, allowance, shares
from node.core.delivery.token_bucket import TokenBucket
from schemas.errors import Code
from schemas.rollout import Carriage

NOTHING = TransferUsage(received_bytes=0, in_flight_bytes=0, missing_bytes=1000, instead_bytes=0)


def ask(
    policy: Policy, use: TransferUsage = NOTHING, carriage: Carriage | None = None, *, today: int = 0, minute: int = 0
) -> tuple[int, Code | None]:
    found = allowance(policy, carriage, use, next_bytes=100, link="metered", today_bytes=today, minute=minute)
    assert bool(found.reason) == (found.code is not None)
    return found.bytes, found.code


def test_without_a_budget_everything_is_allowed() -> None:
    assert ask(Policy()) == (UNLIMITED, None)


@pytest.mark.parametrize(
    ("today", "expected"), [(0, (500, None)), (400, (100, None)), (401, (0, Code.BUDGET_DAY)), (600, (0, Code.BUDGET_DAY))]
)
def test_a_day_s_bytes_are_spent_to_the_last_block_that_fits(today: int, expected: tuple[int, Code | None]) -> None:
    assert ask(Policy(bytes_day_max=500), today=today) == expected


def test_a_rollout_s_cap_stops_before_the_first_byte_when_the_whole_does_not_fit() -> None:
    assert ask(Policy(), carriage=Carriage(bytes_max=999)) == (0, Code.BUDGET_ROLLOUT)
    assert ask(Policy(), carriage=Carriage(bytes_max=1000))[1] is None
    late = TransferUsage(received_bytes=900, in_flight_bytes=50, missing_bytes=50, instead_bytes=0)
    assert ask(Policy(), late, Carriage(bytes_max=1000))[1] is None
    assert ask(Policy(), late, Carriage(bytes_max=999)) == (0, Code.BUDGET_ROLLOUT)


def test_a_delta_without_its_parent_asks_the_policy_and_the_rollout_may_overrule_it() -> None:
    whole = TransferUsage(received_bytes=0, in_flight_bytes=0, missing_bytes=1000, instead_bytes=1)

    assert ask(Policy.default("metered"), whole) == (0, Code.BUDGET_FULL)
    assert ask(Policy.default("free"), whole)[1] is None
    assert ask(Policy.default("metered"), whole, Carriage(full_download=True))[1] is None
    assert ask(Policy.default("free"), whole, Carriage(full_download=False)) == (0, Code.BUDGET_FULL)


@pytest.mark.parametrize(
    ("hours", "minute", "is_open"),
    [
        ("22:00-06:00", 22 * 60, True),
        ("22:00-06:00", 0, True),
        ("22:00-06:00", 6 * 60, False),
        ("22:00-06:00", 21 * 60 + 59, False),
        ("09:30-17:00", 9 * 60 + 29, False),
        ("09:30-17:00", 9 * 60 + 30, True),
        ("18:00-24:00", 23 * 60 + 59, True),
        ("18:00-24:00", 0, False),
        ("", 0, True),
    ],
)
def test_hours_are_local_and_may_pass_midnight(hours: str, minute: int, is_open: bool) -> None:
    assert ask(Policy(hours=hours), minute=minute)[1] is (None if is_open else Code.BUDGET_HOURS)


@pytest.mark.parametrize("hours", ["night", "22-6", "22:00", "25:00-06:00", "22:60-06:00", "-", "22:00-"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(ValidationError, match="22:00-06:00"):
        Policy(hours=hours)


claims = st.lists(
    st.builds(Claim, st.integers(0, 9), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**7)), min_size=1, max_size=8
)


@given(claims, st.integers(0, 10**7))
def test_shares_never_exceed_the_window_or_a_budget_and_leave_no_room_that_somebody_could_use(found: list[Claim], window: int) -> None:
    given_ = shares(found, window)

    flying = sum(claim.in_flight_bytes for claim in found)
    assert sum(given_) <= max(window, flying)
    for claim, share in zip(found, given_, strict=True):
        assert claim.in_flight_bytes <= share <= claim.in_flight_bytes + min(claim.allowed_bytes, claim.missing_bytes)
    if sum(given_) < window:
        assert all(
            share == claim.in_flight_bytes + min(claim.allowed_bytes, claim.missing_bytes)
            for claim, share in zip(found, given_, strict=True)
        )


def test_the_urgent_goes_first_then_the_small_and_nobody_waits_for_one_that_is_stopped() -> None:
    large, small, urgent = Claim(5, 10**6, 0, UNLIMITED), Claim(5, 10, 0, UNLIMITED), Claim(9, 500, 0, UNLIMITED)
    stopped = Claim(9, 500, 0, 0)

    assert shares([large, small, urgent], 600) == [90, 10, 500]
    assert shares([large, small, stopped], 600) == [590, 10, 0]
    assert shares([Claim(1, 10**6, 600, UNLIMITED), urgent], 600) == [600, 0]  # what flies is not called back


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5000)), max_size=50))
def test_a_rate_holds_on_average_whatever_comes_when(steps: list[tuple[float, int]]) -> None:
    rate, now, taken = TokenBucket(1000.0, 2000), 0.0, 0
    rate.level(now)
    for wait, size in steps:
        now += wait
        if rate.level(now) >= min(size, 2000):
            rate.spend(size, now)
            taken += size
    largest = max((size for _, size in steps), default=0)
    assert taken <= 1000.0 * now + 2000 + largest + 1e-6


def test_what_came_unasked_is_paid_off_before_more_is_allowed() -> None:
    rate = TokenBucket(1000.0, 2000)
    rate.spend(5000, 0.0)

    assert rate.level(0.0) == -3000
    assert rate.level(3.0) == 0
    assert rate.level(4.0) == 1000

"""A budget is a hard stop, and says which rule it was."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

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
    found = allowance(
        policy,
        carriage,
        use,
        next_bytes=100,
        link="metered",
        today_bytes=today,
        local=datetime(2026, 1, 7, *divmod(minute, 60), tzinfo=UTC),
    )
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


ROME, BERLIN_FORWARD, BERLIN_BACK = ZoneInfo("Europe/Rome"), datetime(2026, 3, 29), datetime(2026, 10, 25)


def opened(hours: str, day: datetime, zone: ZoneInfo = ROME) -> list[str]:
    """The minutes of a day, by its clock and offset, at which a link may be used: first and last of each run."""
    start = (day - timedelta(hours=1)).replace(tzinfo=zone).astimezone(UTC)
    moments = [(start + timedelta(minutes=minute)).astimezone(zone) for minute in range(27 * 60)]
    runs: list[list[datetime]] = []
    for moment in moments:
        if moment.date() == day.date() and Policy(hours=hours).open_at(moment):
            if not runs or moment.astimezone(UTC) - runs[-1][-1].astimezone(UTC) > timedelta(minutes=1):
                runs.append([])
            runs[-1].append(moment)
    return [f"{run[0]:%H:%M%z} {run[-1]:%H:%M%z}" for run in runs]


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ("02:15-02:45", ["03:15+0200 03:44+0200"]),  # never shown by a clock on that day
        ("02:00-03:00", ["03:00+0200 03:59+0200"]),
        ("01:30-02:30", ["01:30+0100 01:59+0100"]),
        ("02:30-04:00", ["03:00+0200 03:59+0200"]),
        ("22:00-02:30", ["00:00+0100 01:59+0100", "22:00+0200 23:59+0200"]),
        ("05:00-06:00", ["05:00+0200 05:59+0200"]),
    ],
)
def test_hours_open_on_the_day_that_skips_an_hour(hours: str, expected: list[str]) -> None:
    assert opened(hours, BERLIN_FORWARD) == expected


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ("02:15-02:45", ["02:15+0200 02:44+0200", "02:15+0100 02:44+0100"]),
        ("01:30-02:30", ["01:30+0200 02:29+0200", "02:00+0100 02:29+0100"]),
        ("22:00-02:30", ["00:00+0200 02:29+0200", "02:00+0100 02:29+0100", "22:00+0100 23:59+0100"]),
        ("05:00-06:00", ["05:00+0100 05:59+0100"]),
    ],
)
def test_hours_open_twice_on_the_day_that_repeats_an_hour(hours: str, expected: list[str]) -> None:
    assert opened(hours, BERLIN_BACK) == expected


def test_hours_that_midnight_skips_open_after_it() -> None:
    havana = ZoneInfo("America/Havana")  # Its clock is set from 00:00 to 01:00.

    assert opened("00:10-00:50", datetime(2026, 3, 8), havana) == ["01:10-0400 01:49-0400"]
    assert opened("23:30-00:30", datetime(2026, 3, 8), havana) == ["23:30-0400 23:59-0400"]


@given(
    begin=st.integers(0, 24 * 60 - 1),
    length=st.integers(1, 24 * 60 - 1),
    day=st.sampled_from([BERLIN_FORWARD, BERLIN_BACK, datetime(2026, 6, 1)]),
)
def test_hours_open_on_every_day(begin: int, length: int, day: datetime) -> None:
    end = (begin + length) % (24 * 60)

    assert opened(f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}", day)


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

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.backoff import LASTING_SECONDS, TAKEN_OVER, Backoff, Reconnection

CHANCES = st.floats(0, 1, exclude_max=True)


def test_waits_double_from_the_least_to_the_most_and_begin_again() -> None:
    backoff = Backoff(0.5, 6.0)
    waits = []
    for _ in range(6):
        waits.append(backoff.seconds)
        backoff = backoff.doubled()

    assert waits == [0.5, 1, 2, 4, 6, 6]
    assert backoff.reset().seconds == 0.5


@given(doublings=st.integers(0, 10_000), chance=CHANCES)
def test_a_wait_is_spread_over_half_to_one_and_a_half(doublings: int, chance: float) -> None:
    backoff = Backoff(5.0, 3600.0, doublings)

    assert 0.5 * backoff.seconds <= backoff.wait_seconds(chance) <= 1.5 * backoff.seconds
    assert 5.0 <= backoff.seconds <= 3600.0


@given(chance=CHANCES)
def test_the_first_attempt_after_a_good_connection_comes_soon(chance: float) -> None:
    assert 0 <= Backoff(0.5, 120.0, 9).soon_seconds(chance) < 0.5


def test_after_the_first_failure_the_wait_is_the_shortest() -> None:
    assert [Backoff(5.0, 3600.0).after(failures).seconds for failures in (0, 1, 2, 3, 40)] == [5, 5, 10, 20, 3600]


@pytest.mark.parametrize(("named", "at_most"), [(True, 6), (False, 12)])
def test_two_clients_with_one_name_connect_a_few_times_in_five_minutes(named: bool, at_most: int) -> None:
    for seed in range(20):
        early, late = _rivals(seed, 300.0, named=named), _rivals(seed, 24 * 3600.0, named=named)

        assert max(early) <= at_most  # each of them: it was 391
        assert max(late) <= (500 if named else 1500)  # in a day: less than once in a minute


def _rivals(seed: int, seconds: float, *, named: bool) -> list[int]:
    """Return how often each of two clients connects that end each other's connections; `named`: the broker says why."""
    rng, now, counts, owner = Random(seed), 0.0, [0, 0], -1
    clients = [Reconnection(Backoff(0.5, 120.0), due_at=0.0), Reconnection(Backoff(0.5, 120.0), due_at=0.1)]
    while now < seconds:
        other = next((one for one in (0, 1) if one != owner and clients[one].due_at <= now), None)
        if other is None:
            now = min(clients[one].due_at for one in (0, 1) if one != owner)
            continue
        clients[other].attempted(now, rng.random())
        clients[other].accepted(now)
        counts[other] += 1
        if owner >= 0:
            clients[owner].ended(now, rng.random(), taken_over=named)
        owner = other
    return counts


def test_a_connection_that_does_not_last_resets_no_pause() -> None:
    again, waits, now = Reconnection(Backoff(0.5, 120.0)), [], 0.0
    for _ in range(12):
        again.attempted(now, 0.5)
        again.accepted(now)
        waits.append(again.ended(now + LASTING_SECONDS / 2, 0.5))
        now = again.due_at

    assert waits == sorted(waits)
    assert waits[-1] == 120.0
    assert again.short_in_a_row == 12


def test_a_connection_that_lasted_is_followed_soon_and_begins_the_pauses_anew() -> None:
    again = Reconnection(Backoff(0.5, 120.0))
    for _ in range(12):
        again.attempted(0.0, 0.5)
    again.accepted(0.0)

    assert again.ended(LASTING_SECONDS, 0.5) <= 0.5
    again.attempted(LASTING_SECONDS, 0.5)
    assert again.ended(LASTING_SECONDS, 0.5) == 1.0
    assert again.short_in_a_row == 0


def test_who_was_taken_over_waits_even_after_a_connection_that_lasted() -> None:
    again, now = Reconnection(Backoff(0.5, 120.0)), 0.0
    for _ in range(10):
        again.attempted(now, 0.5)
        again.accepted(now)
        now += 2 * LASTING_SECONDS
        again.ended(now, 0.5, taken_over=True)

    assert again.due_at - now == TAKEN_OVER.seconds_max


def test_a_connection_that_we_give_up_on_purpose_makes_no_pause_longer() -> None:
    again = Reconnection(Backoff(0.5, 120.0))
    again.attempted(0.0, 0.5)
    again.released()

    assert again.ended(0.1, 0.5) == 0.5
    assert again.short_in_a_row == 0

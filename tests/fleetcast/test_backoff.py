from hypothesis import given
from hypothesis import strategies as st

from fleetcast.backoff import Backoff

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

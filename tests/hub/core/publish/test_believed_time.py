"""What time a hub goes by while its wall clock may be wrong: steps are held, an hour's worth, and a clock that is put right is followed."""

import pytest

from hub.core.publish.believed_time import OFF_SECONDS_MAX, START_SECONDS_HELD, STEP_SECONDS_HELD, BelievedTime

DAY, YEAR = 86_400.0, 365 * 86_400.0
NOW = 1_800_000_000.0


@pytest.mark.parametrize("step", [3 * YEAR, -5 * YEAR, 2 * DAY, -NOW])
def test_a_step_of_more_than_a_day_is_not_followed_while_it_is_short(step: float) -> None:
    time = BelievedTime(NOW)

    assert time.at(NOW, 100) == NOW
    assert time.at(NOW + 10 + step, 110) == pytest.approx(NOW + 10)
    assert time.differs == pytest.approx(step)
    assert time.at(NOW + 20, 120) == NOW + 20
    assert time.differs == 0


@pytest.mark.parametrize("step", [3 * YEAR, -5 * YEAR])
def test_a_step_that_lasts_is_followed(step: float) -> None:
    time = BelievedTime(NOW)
    time.at(NOW, 0)
    time.at(NOW + step, 1)

    assert time.at(NOW + step, STEP_SECONDS_HELD) == pytest.approx(NOW + STEP_SECONDS_HELD)
    assert time.at(NOW + step, STEP_SECONDS_HELD + 1) == NOW + step
    assert time.at(NOW + step + 5, STEP_SECONDS_HELD + 6) == NOW + step + 5
    assert time.differs == 0


def test_every_new_step_is_held_anew() -> None:
    time = BelievedTime(NOW)
    time.at(NOW, 0)
    time.at(NOW + YEAR, 1)
    time.at(NOW + 2, 2)

    assert time.at(NOW + YEAR, STEP_SECONDS_HELD + 1) == pytest.approx(NOW + STEP_SECONDS_HELD + 1)


@pytest.mark.parametrize("step", [DAY, -DAY, 3000.0, -60.0])
def test_a_smaller_step_is_followed_at_once(step: float) -> None:
    time = BelievedTime(NOW)
    time.at(NOW, 0)

    assert time.at(NOW + step, 0) == NOW + step


@pytest.mark.parametrize("wall", [NOW + OFF_SECONDS_MAX + 1, NOW - 2 * DAY, 100.0])
def test_a_clock_that_makes_no_sense_at_the_start_is_followed_once_it_does(wall: float) -> None:
    time = BelievedTime(NOW)

    assert time.at(wall, 0) == NOW
    assert time.at(wall + 60, 60) == NOW + 60
    assert time.differs
    assert time.at(NOW + 40 * DAY, 90) == NOW + 40 * DAY
    assert time.differs == 0


def test_a_clock_that_makes_no_sense_at_the_start_is_followed_if_it_stays_so() -> None:
    time = BelievedTime(NOW)
    time.at(NOW + 2 * YEAR, 0)

    assert time.at(NOW + 2 * YEAR + START_SECONDS_HELD, START_SECONDS_HELD) == NOW + 2 * YEAR + START_SECONDS_HELD


def test_a_hub_that_was_off_for_months_follows_its_clock_at_once() -> None:
    assert BelievedTime(NOW).at(NOW + 150 * DAY, 0) == NOW + 150 * DAY


def test_a_hub_that_has_signed_nothing_follows_its_clock() -> None:
    assert BelievedTime(None).at(5.0, 0) == 5.0


def test_only_a_clock_that_made_no_sense_since_the_start_leaves_a_guess() -> None:
    time = BelievedTime(NOW)
    time.at(NOW + 2 * YEAR, 0)
    assert time.is_guess
    assert time.held_seconds == START_SECONDS_HELD

    time.at(NOW + 2 * YEAR + START_SECONDS_HELD, START_SECONDS_HELD)
    assert not time.is_guess
    time.at(NOW, START_SECONDS_HELD + 1)
    assert time.differs  # A step of a clock that was believed.
    assert not time.is_guess
    assert time.held_seconds == STEP_SECONDS_HELD

"""Windows: what a text means, across midnight and where clocks change."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from schemas.errors import Code, Refused
from schemas.windows import Window, is_open, next_opening, parse_windows, windows_text

ROME = ZoneInfo("Europe/Rome")


def at(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ROME, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22:00-05:00", (Window(127, 22 * 60, 5 * 60),)),
        ("Mon-Fri 22:00-05:00", (Window(31, 22 * 60, 5 * 60),)),
        ("sat, sun 00:00-24:00", (Window(96, 0, 24 * 60),)),
        ("Sat-Mon 8:00-9:30; Wed 10:00-11:00", (Window(97, 480, 570), Window(4, 600, 660))),
    ],
)
def test_a_text_becomes_windows_and_windows_a_text(text: str, expected: tuple[Window, ...]) -> None:
    assert parse_windows(text) == expected
    assert parse_windows(windows_text(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "22-05", "25:00-26:00", "10:00-10:00", "24:00-01:00", "Mo 10:00-11:00", "10:60-11:00", "; ", "1:00-2:00;" * 9, "x" * 300]
)
def test_a_window_that_never_opens_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_windows(text)
    assert refused.value.code is Code.WINDOW_INVALID


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    night = parse_windows("Fri 22:00-05:00")
    assert is_open(night, at("2026-11-27 22:00"), ROME)  # a Friday
    assert is_open(night, at("2026-11-28 04:59"), ROME)
    assert not is_open(night, at("2026-11-28 05:00"), ROME)
    assert not is_open(night, at("2026-11-28 22:30"), ROME)
    assert not is_open(night, at("2026-11-27 04:00"), ROME)


def test_a_window_in_the_skipped_hour_opens_after_it_and_lasts_as_long() -> None:
    skipped = parse_windows("02:00-03:00")  # clocks go from 02:00 to 03:00 on 29 March 2026
    assert not is_open(skipped, at("2026-03-29 01:59"), ROME)
    assert is_open(skipped, at("2026-03-29 03:00"), ROME)
    assert is_open(skipped, at("2026-03-29 03:59"), ROME)
    assert not is_open(skipped, at("2026-03-29 04:00"), ROME)
    assert next_opening(skipped, at("2026-03-29 01:00"), ROME) == at("2026-03-29 03:00")


def test_a_window_over_the_skipped_hour_ends_when_the_clock_says_so() -> None:
    over = parse_windows("01:00-04:00")
    assert is_open(over, at("2026-03-29 03:59"), ROME)
    assert not is_open(over, at("2026-03-29 04:00"), ROME)


def test_a_window_in_the_repeated_hour_is_open_both_times() -> None:
    repeated = parse_windows("02:00-03:00")  # clocks go from 03:00 to 02:00 on 25 October 2026
    assert is_open(repeated, at("2026-10-25 02:30"), ROME)
    assert is_open(repeated, at("2026-10-25 02:30", fold=1), ROME)
    assert not is_open(repeated, at("2026-10-25 03:00"), ROME)


def test_every_window_opens_on_every_one_of_its_days_for_a_year() -> None:
    for text in ("02:00-03:00", "02:30-02:45", "23:30-00:30", "00:00-24:00"):
        windows = parse_windows(text)
        moment, opened = at("2026-01-01 12:00"), 0
        while moment < at("2027-01-01 12:00"):
            found = next_opening(windows, moment, ROME)
            assert found is not None
            assert found - moment <= 25.5 * 3600
            moment, opened = found + 12 * 3600, opened + 1
        assert opened >= 365


def test_the_next_opening_is_within_a_week() -> None:
    weekly = parse_windows("Mon 08:00-09:00")
    assert next_opening(weekly, at("2026-11-30 09:00"), ROME) == at("2026-12-07 08:00")
    assert next_opening(weekly, at("2026-11-30 08:30"), ROME) == at("2026-11-30 08:30")

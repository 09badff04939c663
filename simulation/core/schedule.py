"""Say when nodes are on and when windows are open, for many nodes at once: tables of the minutes of a week, and duty cycles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Code, Refused
from schemas.windows import EVERY_DAY, MINUTES_PER_DAY, Window, parse_windows

WEEK_MINUTES: Final = 7 * MINUTES_PER_DAY
EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday.
TICK_SECONDS: Final = 1e-3  # A node that has just gone is off, by so much at least.
NEVER_SECONDS: Final = 10 * 365 * 86_400.0  # Since a node was on that never is.
EXAMPLES: Final = "always, times such as 'Mon-Fri 08:00-18:00', or a duty cycle such as '10m every 6h'"
_DUTY = re.compile(r"(\d{1,6})\s*([smhd])\s+every\s+(\d{1,6})\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DAY_MINUTE = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Hold when nodes are on: always, in windows of the week, or for a while in every period. The text is what the operator wrote."""

    text: str = "always"
    windows: tuple[Window, ...] = ()
    on_seconds: int = 0
    period_seconds: int = 0

    @property
    def is_always(self) -> bool:
        """Return whether nodes are never off."""
        return not self.windows and not self.period_seconds


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text describes.

    Raises:
        Refused: WINDOW_INVALID: it is none, or one by which a node never is on.
    """
    if text.strip() == "always":
        return Schedule()
    duty = _DUTY.fullmatch(text.strip())
    if duty is None:
        try:
            return Schedule(text, parse_windows(text))
        except Refused as refusal:
            raise Refused(Code.WINDOW_INVALID, f"{refusal.reason}; write {EXAMPLES}") from None
    on, period = int(duty[1]) * _UNITS[duty[2]], int(duty[3]) * _UNITS[duty[4]]
    if not on:
        raise Refused(Code.WINDOW_INVALID, f"{text!r} never is on: write {EXAMPLES}")
    if on >= period:
        raise Refused(Code.WINDOW_INVALID, f"{text!r} is on for as long as its period is: write 'always', or a longer period")
    return Schedule(text, (), on, period)


def week_of(windows: Sequence[Window]) -> Bools:
    """Return for each minute of a local week, from Monday 00:00, whether a window is open; without windows always."""
    if not windows:
        return np.ones(WEEK_MINUTES, bool)
    found = np.zeros(WEEK_MINUTES, bool)
    for window in windows:
        length = (window.end_minute - window.begin_minute) % MINUTES_PER_DAY or MINUTES_PER_DAY
        for day in range(7):
            if window.days & 1 << day:
                first = day * MINUTES_PER_DAY + window.begin_minute
                found[np.arange(first, first + length) % WEEK_MINUTES] = True
    return found


def week_of_hours(hours: str) -> Bools:
    """Return the same for the hours of a node's byte budget, such as 22:00-06:00; an empty text is always."""
    found = _DAY_MINUTE.fullmatch(hours)
    if found is None:
        return week_of(())
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if begin == end:
        return np.zeros(WEEK_MINUTES, bool)
    return week_of((Window(EVERY_DAY, begin % MINUTES_PER_DAY, end),))


def minute_of_week(local_seconds: float) -> int:
    """Return the minute of the week of a local time in seconds since 1970."""
    return int(local_seconds // 60 + EPOCH_WEEKDAY * MINUTES_PER_DAY) % WEEK_MINUTES


def off_minutes(week: Bools) -> NDArray[np.int32]:
    """Return for each minute of the week since how many minutes nodes are off: 0 where they are on."""
    if not week.any():
        return np.full(WEEK_MINUTES, int(NEVER_SECONDS / 60), np.int32)
    twice = np.concatenate([week, week])
    last_on = np.maximum.accumulate(np.where(twice, np.arange(len(twice)), -1))
    return (np.arange(len(twice)) - last_on)[WEEK_MINUTES:].astype(np.int32)


class Presence:
    """Compute since when the nodes of a group are off. Each node has its own shift of the windows, or phase of the duty cycle."""

    def __init__(self, schedule: Schedule, shifts: Floats) -> None:
        self._schedule, self._shifts = schedule, shifts
        week = off_minutes(week_of(schedule.windows)) * 60.0 if schedule.windows else np.zeros(1)
        self._table = np.concatenate([week, week])  # Twice, so that a shifted minute needs no remainder.
        self._offsets = (-(shifts // 60)).astype(np.int64) % WEEK_MINUTES
        self._is_alike = not shifts.any()

    def off_seconds(self, local_seconds: float) -> Floats | float:
        """Return seconds since each node was on, 0 where it is: one number where all nodes are alike."""
        period, on = self._schedule.period_seconds, self._schedule.on_seconds
        if period:
            inside = self._shifts + local_seconds % period
            inside[inside >= period] -= period
            return np.where(inside < on, 0.0, inside - (on - TICK_SECONDS))
        if not self._schedule.windows:
            return 0.0
        at = minute_of_week(local_seconds)
        return float(self._table[at]) if self._is_alike else self._table[self._offsets + at]

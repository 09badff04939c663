"""Define times of the week in a node's own zone, such as `Mon-Fri 22:00-05:00`, and say when they are open, also where clocks change.

A window that begins inside the hour that clocks skip begins after it and lasts as long as always. One that lies in the hour that clocks
repeat is open both times.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from schemas import limits
from schemas.errors import Code, Refused

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EVERY_DAY: Final = 127
MINUTES_PER_DAY: Final = 24 * 60
EXAMPLES: Final = "such as 22:00-05:00, Mon-Fri 22:00-05:00 or Sat,Sun 00:00-24:00, several separated by ';'"
WINDOW_TEXT_CHARACTERS_MAX: Final = 256
_WINDOW: Final = re.compile(r"(?:(?P<days>[A-Za-z,\- ]+?) +)?(?P<begin>\d\d?:\d\d)-(?P<end>\d\d?:\d\d)")


class Window(NamedTuple):
    """Describe a time of the week; one that ends before it begins goes on past midnight.

    `days` has a bit for each day on which it begins, Monday first.
    """

    days: Annotated[int, Field(ge=1, le=EVERY_DAY)]
    begin_minute: Annotated[int, Field(ge=0, lt=MINUTES_PER_DAY)]
    end_minute: Annotated[int, Field(ge=0, le=MINUTES_PER_DAY)]


def _ever_opens(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    if any(one.begin_minute == one.end_minute for one in windows):
        raise ValueError("a window ends when it begins, and so never opens")
    return windows


Windows = Annotated[tuple[Window, ...], Field(min_length=1, max_length=limits.WINDOWS_MAX), AfterValidator(_ever_opens)]


def parse_windows(text: str) -> tuple[Window, ...]:
    """Return the windows that a text describes.

    Raises:
        Refused: WINDOW_INVALID: not such a syntax, too many, or a window that never opens.
    """
    parts = [part.strip() for part in text[: WINDOW_TEXT_CHARACTERS_MAX + 1].split(";")]
    if len(text) > WINDOW_TEXT_CHARACTERS_MAX or len(parts) > limits.WINDOWS_MAX:
        raise _invalid(text, f"at most {limits.WINDOWS_MAX} windows and {WINDOW_TEXT_CHARACTERS_MAX} characters are allowed")
    found = []
    for part in parts:
        matched = _WINDOW.fullmatch(part)
        if matched is None:
            raise _invalid(part, f"it is no time of the week, {EXAMPLES}")
        begin, end = (_minute(matched[name], part) for name in ("begin", "end"))
        if begin in {MINUTES_PER_DAY, end}:
            raise _invalid(part, "it ends when it begins, and so never opens; the whole day is 00:00-24:00")
        found.append(Window(_days(matched["days"], part), begin, end))
    return tuple(found)


def _minute(text: str, part: str) -> int:
    hour, minute = (int(one) for one in text.split(":"))
    if minute > 59 or hour * 60 + minute > MINUTES_PER_DAY:
        raise _invalid(part, f"{text} is no time of the day")
    return hour * 60 + minute


def _days(text: str | None, part: str) -> int:
    if text is None:
        return EVERY_DAY
    found = 0
    for item in text.replace(" ", "").split(","):
        first, dash, last = item.partition("-")
        names = [name.capitalize() for name in (first, last if dash else first)]
        if any(name not in DAYS for name in names):
            raise _invalid(part, f"{item!r} is no day or range of days; days are {', '.join(DAYS)}")
        begin, end = (DAYS.index(name) for name in names)
        for day in range(begin, end + 1 if end >= begin else end + 8):
            found |= 1 << day % 7
    return found


def windows_text(windows: Sequence[Window]) -> str:
    """Return windows as an operator writes them; what `parse_windows` makes of that is the same."""
    return "; ".join(f"{_days_text(one.days)}{_time(one.begin_minute)}-{_time(one.end_minute)}" for one in windows)


def _days_text(days: int) -> str:
    if days == EVERY_DAY:
        return ""
    return ",".join(name for bit, name in enumerate(DAYS) if days & 1 << bit) + " "


def _time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def is_open(windows: Sequence[Window], at: float, zone: tzinfo | None = None) -> bool:
    """Return whether one of the windows is open at a moment, in seconds since 1970; without a zone, in this machine's."""
    return any(begin <= at < end for begin, end in _spans(windows, at, zone, days_back=1, days_on=0))


def next_opening(windows: Sequence[Window], at: float, zone: tzinfo | None = None) -> float | None:
    """Return when a window opens next, in seconds since 1970; the moment itself where one is open."""
    if is_open(windows, at, zone):
        return at
    return min((begin for begin, _ in _spans(windows, at, zone, days_back=1, days_on=8) if begin > at), default=None)


def _spans(windows: Sequence[Window], at: float, zone: tzinfo | None, *, days_back: int, days_on: int) -> Iterator[tuple[float, float]]:
    today = datetime.fromtimestamp(at, zone).date()
    for offset in range(-days_back, days_on + 1):
        day = today + timedelta(days=offset)
        for one in windows:
            if one.days & 1 << day.weekday():
                yield _span(one, day, zone)


def _span(window: Window, day: date, zone: tzinfo | None) -> tuple[float, float]:
    length = (window.end_minute - window.begin_minute) % MINUTES_PER_DAY or MINUTES_PER_DAY
    begin, is_skipped = _instant(day, window.begin_minute, zone)
    end_day = day if window.end_minute > window.begin_minute else day + timedelta(days=1)
    end = max(_instant(end_day, window.end_minute, zone)[0], _instant(end_day, window.end_minute, zone, fold=1)[0])
    return begin, max(end, begin + 60 * length) if is_skipped else end


def _instant(day: date, minute: int, zone: tzinfo | None, *, fold: int = 0) -> tuple[float, bool]:
    """Return the moment of a local time, and whether clocks skip it; `fold` 1 is the second of two."""
    local = datetime(day.year, day.month, day.day) + timedelta(minutes=minute)  # a local time has its zone beside it
    local = local.replace(tzinfo=zone, fold=fold)
    moment = local.timestamp()
    return moment, datetime.fromtimestamp(moment, zone).replace(tzinfo=None) != local.replace(tzinfo=None, fold=0)


def _invalid(text: str, reason: str) -> Refused:
    return Refused(Code.WINDOW_INVALID, f"window {text[:80]!r}: {reason}")

"""Read durations as programs write them: seconds, a timedelta, or a text such as "90s", "1h" or "7d"."""

import re
from datetime import timedelta
from typing import Final

Duration = int | float | str | timedelta
SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_PARTS: Final = re.compile(r"(?:(\d{1,9}(?:\.\d{1,6})?)\s*(s|min|m|h|d|w)\s*)+")
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(s|min|m|h|d|w)")


def seconds_of(what: str, value: Duration) -> int:
    """Return whole seconds.

    >>> seconds_of("soak", "1h30min"), seconds_of("soak", timedelta(minutes=2)), seconds_of("soak", 0.5)
    (5400, 120, 0)

    Raises:
        TypeError: the value is of another type.
        ValueError: it is negative, infinite, or not written as a duration.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | timedelta):
        raise TypeError(f"{what} must be seconds, a timedelta or a text such as '1h', found {type(value).__name__}")
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        if not _PARTS.fullmatch(value.strip()):
            raise ValueError(f"{what} must be a duration such as '90s', '15min', '1h' or '7d', found {value[:40]!r}")
        found = sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(value))
    else:
        found = float(value)
    if not 0 <= found < 2**31:
        raise ValueError(f"{what} must be between 0 and 68 years, found {value!r}")
    return round(found)

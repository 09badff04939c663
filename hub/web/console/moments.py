"""Write moments and durations as pages show them: absolute, so that an old page does not lie, and in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def clock(at: int) -> str:
    """Return the time of day, to the second."""
    return (_EPOCH + timedelta(seconds=at)).strftime("%H:%M:%S")


def moment(at: int | None, now: int) -> str:
    """Return a moment: of today as 11:52, of this year as 27 Nov 11:52, else with its year."""
    if at is None:
        return ""
    then, today = _EPOCH + timedelta(seconds=at), _EPOCH + timedelta(seconds=now)
    if then.date() == today.date():
        return then.strftime("%H:%M")
    return f"{then.day} {then.strftime('%b %H:%M' if then.year == today.year else '%b %Y')}"


def day(at: int) -> str:
    """Return a day, such as 14 Jan."""
    then = _EPOCH + timedelta(seconds=at)
    return f"{then.day} {then.strftime('%b')}"


def lasting(seconds: float) -> str:
    """Return a duration in its two greatest units: 2 d 4 h, 5 h 10 min, 12 min, 40 s."""
    whole = max(0, int(seconds))
    if whole >= _DAY:
        return _two(whole // _DAY, "d", whole % _DAY // _HOUR, "h")
    if whole >= _HOUR:
        return _two(whole // _HOUR, "h", whole % _HOUR // _MINUTE, "min")
    return f"{whole // _MINUTE} min" if whole >= _MINUTE else f"{whole} s"


def lasting_coarse(seconds: float) -> str:
    """Return a duration to the minute, so that what shows it does not change each second."""
    return lasting(seconds) if seconds >= _MINUTE else "1 min"


def _two(first: int, unit: str, second: int, smaller: str) -> str:
    return f"{first} {unit} {second} {smaller}" if second else f"{first} {unit}"


def counted(number: int) -> str:
    """Return a number with a comma at each thousand."""
    return f"{number:,}"

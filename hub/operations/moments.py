"""Write moments for tables and for scripts, UTC, to the second; and read those until when something is to be done."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import Code, Refused

UNITS_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
DEADLINE_FORMS: Final = "36h or 7d from now, 2026-12-24T18:00 (UTC), or 2026-12-24T18:00 Europe/Berlin"


def written(seconds: int | None) -> str | None:
    """Format a moment for a table."""
    if seconds is None:
        return None
    at = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%d %H:%M") if at.second == 0 else at.strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: int | None) -> str | None:
    """Format a moment for a script."""
    return None if seconds is None else (datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def deadline_of(text: str, *, now: int) -> int:
    """Return a deadline in seconds since 1970: a span from now, or a moment with an offset, with a zone's name after a space, or in UTC.

    Raises:
        Refused: REQUEST_INVALID: it is none.
    """
    if ahead := SPAN.fullmatch(text):
        return now + int(ahead[1]) * UNITS_SECONDS[ahead[2]]
    moment, _, zone = text.partition(" ")
    try:
        found = datetime.fromisoformat(moment)
        if found.tzinfo is not None and zone:
            raise ValueError("it has an offset and a zone")
        at = found if found.tzinfo is not None else found.replace(tzinfo=ZoneInfo(zone.strip()) if zone else UTC)
        return max(0, int(at.timestamp()))
    except (ValueError, OverflowError, OSError, ZoneInfoNotFoundError):
        raise Refused(Code.REQUEST_INVALID, f"{text[:60]!r} is no deadline: write {DEADLINE_FORMS}") from None

"""What time it is for trust's sake, on a device whose clock may be wrong. Reads no clock.

Rollback safety rests on version numbers and not on time; time only says whether metadata is still fresh. A clock that lags is lifted to the
newest time that a trusted signature proves (at 1970, expired metadata would be accepted). A clock that runs ahead makes everything look
expired: then what is active keeps serving, and nothing new is activated.
"""

from datetime import datetime

TIMESTAMP_SECONDS = 86_400  # a timestamp lives a day: it was signed no earlier than that before it expires
BUILD_TIME = 1_763_900_000  # 2025-11-23: this program did not exist before


def trusted_now(wall: int, floor: int) -> int:
    """Seconds since 1970: the wall clock's, but never before what is proved."""
    return max(wall, floor, BUILD_TIME)


def floor_of(timestamp_expires: datetime) -> int:
    """The moment that a trusted timestamp proves to be past."""
    return int(timestamp_expires.timestamp()) - TIMESTAMP_SECONDS

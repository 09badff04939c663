"""Decide what time it is for trust's sake, on a device whose clock may be wrong. Reads no clock.

Rollback safety rests on version numbers and not on time; time only says whether metadata is still fresh. A clock that lags is lifted to the
newest time that a trusted signature proves (at 1970, expired metadata would be accepted). A clock that runs ahead makes everything look
expired. In both cases what is active keeps serving, and nothing new is activated. The hub's signed word on the time, given for a nonce of
ours, puts either right for as long as this process runs.

A moment of one clock never meets a moment of the other: each clock has a type of its own. To mypy the two are no numbers, and neither can
be compared with, added to or passed for the other; when the program runs both are floats, which costs nothing.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

TIMESTAMP_SECONDS = 86_400  # a timestamp lives a day: it was signed no earlier than that before it expires
BUILD_TIME = 1_763_900_000  # 2025-11-23: this program did not exist before
SKEW_SECONDS_MAX = 3_600  # a clock that is further behind a signature than this is not believed
JUMP_SECONDS_MAX = 6 * 3_600  # a thief of the timestamp key must not push the time of a device whose clock works further than this

if TYPE_CHECKING:

    class WallSeconds:
        """Mark a moment by the wall clock, in seconds since 1970. It may jump: documents and days go by it, and no pause does."""

        def __init__(self, seconds: float) -> None: ...
        def __int__(self) -> int: ...
        def __float__(self) -> float: ...
        def __add__(self, seconds: float) -> "WallSeconds": ...
        def __sub__(self, other: "WallSeconds") -> float: ...
        def __lt__(self, other: "WallSeconds") -> bool: ...
        def __le__(self, other: "WallSeconds") -> bool: ...
        def __gt__(self, other: "WallSeconds") -> bool: ...
        def __ge__(self, other: "WallSeconds") -> bool: ...

    class MonotonicSeconds:
        """Mark a moment by the clock that only rises, from a beginning that nobody knows: every pause goes by it, and it is never kept."""

        def __init__(self, seconds: float) -> None: ...
        def __float__(self) -> float: ...
        def __add__(self, seconds: float) -> "MonotonicSeconds": ...
        def __sub__(self, other: "MonotonicSeconds") -> float: ...
        def __lt__(self, other: "MonotonicSeconds") -> bool: ...
        def __le__(self, other: "MonotonicSeconds") -> bool: ...
        def __gt__(self, other: "MonotonicSeconds") -> bool: ...
        def __ge__(self, other: "MonotonicSeconds") -> bool: ...

else:
    WallSeconds = MonotonicSeconds = float

WallClock = Callable[[], WallSeconds]
MonotonicClock = Callable[[], MonotonicSeconds]
NEVER = MonotonicSeconds(float("-inf"))  # before every moment: what is due `NEVER` is due, what was done `NEVER` is to be done


def trusted_now(wall: int, floor: int, *, jump_seconds_max: int = JUMP_SECONDS_MAX) -> int:
    """Return seconds since 1970: the wall clock's, but never before what is proved.

    A wall clock before `BUILD_TIME` was never set, and the floor is all there is. One that was set is lifted by at most
    `jump_seconds_max`, so that a signature from the far future expires nothing: it is the signature that is wrong then.
    """
    if wall < BUILD_TIME:
        return max(floor, BUILD_TIME)
    return max(wall, min(floor, wall + jump_seconds_max))


def is_known(wall: int, floor: int) -> bool:
    """Return whether the wall clock can be believed; while it cannot, what is active keeps serving and nothing new is activated."""
    return wall >= BUILD_TIME and wall + SKEW_SECONDS_MAX >= floor


def floor_of(timestamp_expires: datetime) -> int:
    """Return the moment that a trusted timestamp proves to be past."""
    return int(timestamp_expires.timestamp()) - TIMESTAMP_SECONDS


class SignedClock:
    """Give the wall clock's time, unless the hub's issuer has signed that it is wrong: then that time, carried on by the monotonic
    clock.
    """

    def __init__(self) -> None:
        self._anchor: tuple[WallSeconds, MonotonicSeconds] | None = None  # what was signed, and when by the monotonic clock

    def correct(self, at: int, *, wall: WallSeconds, monotonic: MonotonicSeconds) -> bool:
        """Take a signed time; True when the wall clock is too far from it to be believed."""
        signed = WallSeconds(at)
        self._anchor = (signed, monotonic) if abs(wall - signed) > SKEW_SECONDS_MAX else None
        return self._anchor is not None

    def now(self, *, wall: WallSeconds, monotonic: MonotonicSeconds) -> WallSeconds:
        """Return seconds since 1970; a wall clock that has been put right meanwhile is believed again."""
        if self._anchor is None:
            return wall
        at, then = self._anchor
        signed = at + (monotonic - then)
        return wall if abs(wall - signed) <= SKEW_SECONDS_MAX else signed

    def over(self, wall: WallClock, monotonic: MonotonicClock) -> WallClock:
        """Return a wall clock that is put right by the signed time."""
        return lambda: self.now(wall=wall(), monotonic=monotonic())

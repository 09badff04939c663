"""Decides what time a hub goes by while its wall clock may be wrong. Reads no clock.

What a hub signs proves a time to its nodes. One signature from a clock that is years ahead would keep a device, which has no better clock,
from believing its own for all these years; one from a clock that is years behind has expired when it arrives. So a wall clock that steps by
more than a day is not followed at once: until the step has lasted for a while, time goes on as it was. An operator, or NTP, who sets a
clock right within that time has lost nothing, and one who meant it waits that long.
"""

STEP_SECONDS_MIN = 86_400.0  # A smaller step is followed at once: metadata lives a day or longer.
STEP_SECONDS_HELD = 3600.0  # A step is followed once it has lasted so long.
START_SECONDS_HELD = 600.0  # So is a clock that makes no sense at the start, where a hub may as well have been off for half a year.
OFF_SECONDS_MAX = 180 * 86_400.0  # A hub that was off for longer has to have its targets signed anew by a person anyway.


class BelievedTime:
    """Hold the time that is believed: a wall clock's, unless it has just stepped."""

    def __init__(self, newest_signed: float | None) -> None:
        """Begin with the time at which the newest metadata was signed; None: the first reading is believed, whatever it says."""
        self._newest_signed = newest_signed
        self._anchor: tuple[float, float] | None = None  # What was believed last, and when by the clock that only rises.
        self._since: float | None = None  # When the step was noticed.
        self._is_start = True
        self.differs = 0.0  # Seconds by which the wall clock is ahead of what is believed; 0 while it is believed.

    @property
    def is_guess(self) -> bool:
        """Return whether the time is only that of the newest signature, because the clock has made no sense since the start."""
        return self._is_start and self.differs != 0.0

    @property
    def held_seconds(self) -> float:
        """Return how long a step is held before it is followed."""
        return START_SECONDS_HELD if self._is_start else STEP_SECONDS_HELD

    def at(self, wall: float, elapsed: float) -> float:
        """Return the time. `elapsed` is of a clock that only rises, also while the machine sleeps."""
        if self._anchor is None:
            self._anchor = (wall if self._newest_signed is None or self._makes_sense(wall) else self._newest_signed, elapsed)
        believed, then = self._anchor
        expected = believed + (elapsed - then)
        if abs(wall - expected) <= STEP_SECONDS_MIN or (self._is_start and self._makes_sense(wall)):
            return self._follow(wall, elapsed)
        if self._since is None:
            self._since = elapsed
        if elapsed - self._since >= self.held_seconds:
            return self._follow(wall, elapsed)
        self.differs = wall - expected
        return expected

    def _follow(self, wall: float, elapsed: float) -> float:
        self._anchor, self._since, self._is_start, self.differs = (wall, elapsed), None, False, 0.0
        return wall

    def _makes_sense(self, wall: float) -> bool:
        signed = self._newest_signed
        return signed is None or signed - STEP_SECONDS_MIN <= wall <= signed + OFF_SECONDS_MAX

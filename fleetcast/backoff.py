"""Decide how long to wait before the next attempt. Pure: randomness is an argument."""

from dataclasses import dataclass, replace

DOUBLINGS_MAX = 64  # beyond every maximum, and still a finite number


@dataclass(frozen=True, slots=True)
class Backoff:
    """Hold a wait that doubles with every failure, from `seconds_min` up to `seconds_max`."""

    seconds_min: float
    seconds_max: float
    doublings: int = 0

    @property
    def seconds(self) -> float:
        """Return the wait before it is spread."""
        return min(self.seconds_max, self.seconds_min * 2.0 ** min(DOUBLINGS_MAX, self.doublings))

    def after(self, failures: int) -> "Backoff":
        """Return the wait after `failures` attempts in a row: the shortest after the first."""
        return replace(self, doublings=max(0, failures - 1))

    def doubled(self) -> "Backoff":
        """Return the wait after one more failure."""
        return replace(self, doublings=self.doublings + 1)

    def reset(self) -> "Backoff":
        """Return the wait after a success: the shortest."""
        return replace(self, doublings=0)

    def wait_seconds(self, chance: float) -> float:
        """Return the wait, spread by `chance` in [0, 1)."""
        return spread(self.seconds, chance)

    def soon_seconds(self, chance: float) -> float:
        """Return a wait below the shortest, for the first attempt after a connection that worked."""
        return self.seconds_min * chance


def spread(seconds: float, chance: float) -> float:
    """Return between half and one and a half of a wait, by `chance` in [0, 1).

    Many clients that lose one peer at the same moment would otherwise come back at the same moment.
    """
    return seconds * (0.5 + chance)

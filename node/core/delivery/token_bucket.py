"""Limit a rate by a token bucket: a number of bytes a second on average, and no more than a burst at once. Knows no clock."""

from dataclasses import dataclass

from node.core.trust.clock import MonotonicSeconds


@dataclass(slots=True)
class TokenBucket:
    """Describe what may still be asked for or has come; `now` is seconds of any clock that only rises.

    The level may fall below zero: what came was asked for earlier, and is paid off before more is asked.
    """

    bytes_per_second: float
    burst_bytes: int
    _level: float = 0.0
    _at: MonotonicSeconds | None = None

    def level(self, now: MonotonicSeconds) -> float:
        """Return how many bytes may come now."""
        if self._at is None:
            self._level = float(self.burst_bytes)
        else:
            self._level = min(float(self.burst_bytes), self._level + max(0.0, now - self._at) * self.bytes_per_second)
        self._at = now
        return self._level

    def spend(self, size_bytes: int, now: MonotonicSeconds) -> None:
        """Count bytes that came, allowed or not."""
        self._level = self.level(now) - size_bytes

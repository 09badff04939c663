"""Keep to a rate of bytes and of publishes a second, for brokers that drop or end what is faster. Knows no clock."""

from typing import Final

from schemas.limits import BLOCK_BYTES_MAX

PUBLISHES_PER_SECOND_MAX: Final = 100


class BlockPace:
    """Hold what may be published now: one block at most, so that no second has more than the rate and one block."""

    def __init__(self, bytes_per_second: float | None) -> None:
        """Begin with room for a block; None is no limit."""
        self._rate = bytes_per_second
        self._left, self._at = float(BLOCK_BYTES_MAX), float("-inf")

    def room(self, now: float, at_most: int) -> int:
        """Return how many blocks may be published now; each may be of the largest size."""
        if self._rate is None:
            return at_most
        self._refill(now)
        return max(0, min(at_most, int(self._left // BLOCK_BYTES_MAX)))

    def spent(self, size_bytes: int) -> None:
        """Take in that a block was published. A small one counts as a hundredth of a second."""
        if self._rate is not None:
            self._left -= max(size_bytes, self._rate / PUBLISHES_PER_SECOND_MAX)

    def wait_seconds(self, now: float) -> float:
        """Return how long until the next block may be published."""
        if self._rate is None:
            return 0.0
        self._refill(now)
        return max(0.0, (BLOCK_BYTES_MAX - self._left) / self._rate)

    def _refill(self, now: float) -> None:
        if self._rate is not None:
            self._left = min(float(BLOCK_BYTES_MAX), self._left + self._rate * max(0.0, now - self._at))
            self._at = now  # The clock may be set back: then nothing is added, and the next second is one of the new clock.

"""Decides whether an object store is away, slow or well, by how its requests end. Reads no clock.

A store that times out now and then is not well again with the next answer: it is so when all went well for a while. So one spell of
trouble is one alert, however often the store answers in between.
"""

from dataclasses import dataclass, replace
from typing import Literal

SLOW_SECONDS = 5.0  # A payload, which has at most 120 KiB, that takes this long is slow.
WELL_SECONDS = 30.0  # Without trouble, before a store is well again.

Trouble = Literal["away", "slow"]


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Hold what is known of a store: `trouble` is None while it is well."""

    trouble: Trouble | None = None
    reason: str = ""
    failures: int = 0  # In a row.
    is_strained: bool = False  # It has failed, and not answered quickly since: it is asked for one payload at a time.
    troubled_at: float = float("-inf")

    def failed(self, reason: str, *, now: float) -> "StoreHealth":
        """Take in that a request was not answered, or not whole."""
        return StoreHealth("away", reason, self.failures + 1, True, now)

    def answered(self, seconds: float, *, now: float) -> "StoreHealth":
        """Take in that a request was answered after this time."""
        if seconds >= SLOW_SECONDS:
            return replace(self, trouble="slow", reason=f"a block took {seconds:.0f} s", failures=0, troubled_at=now)
        if self.trouble is None or now - self.troubled_at >= WELL_SECONDS:
            return StoreHealth()
        return replace(self, failures=0, is_strained=False)

    def waited(self, seconds: float, *, now: float) -> "StoreHealth":
        """Take in for how long the oldest request under way has waited."""
        if self.trouble is not None or seconds < SLOW_SECONDS:
            return self
        return replace(self, trouble="slow", reason=f"a block was not there after {seconds:.0f} s", troubled_at=now)

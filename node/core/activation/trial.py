"""Measure how long a release has really been on trial: served, or compared. Reads no clock.

A probation is time in which clients were answered, and a comparison time in which two releases answered. Neither runs while the device is
off, its worker is being replaced, or nobody looks; and no setting of a wall clock makes it longer or shorter.
"""

from dataclasses import dataclass
from typing import Final

from node.core.trust.clock import MonotonicSeconds

STEP_SHARE: Final = 20  # Steps of a trial, each written down: what a power cut may cost
STEP_SECONDS_MIN, STEP_SECONDS_MAX = 1.0, 60.0  # a flash card is spared in short trials, and a power cut costs little in long ones
UNSEEN_SECONDS_MAX: Final = 5.0  # between two looks: a process that was stopped for longer has not seen what it was on trial for


@dataclass(slots=True)
class Trial:
    """Hold seconds so far, and how many of them are on disk."""

    seconds: float = 0.0
    kept_seconds: float = 0.0
    _seen_at: MonotonicSeconds | None = None  # while it runs

    def look(self, *, running: bool, now: MonotonicSeconds) -> None:
        """Count the time since the last look, if the trial ran then and runs now."""
        if running and self._seen_at is not None:
            self.seconds += min(max(0.0, now - self._seen_at), UNSEEN_SECONDS_MAX)
        self._seen_at = now if running else None

    def is_due(self, *, terms_seconds: float) -> bool:
        """Return whether enough was counted since the last time to write it down again."""
        step = min(STEP_SECONDS_MAX, max(STEP_SECONDS_MIN, terms_seconds / STEP_SHARE))
        return self.seconds - self.kept_seconds >= step

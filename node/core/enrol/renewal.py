"""Decide when a device asks for its next certificate, and how long it waits after an attempt. Reads no clock.

A certificate is renewed at half of its life, a little earlier by chance, so that a fleet enrolled on one day does not ask in one minute.
One that has expired is renewed at once: the hub knows the device by its key. So is the time asked for, where the clock cannot be believed.
"""

from dataclasses import dataclass
from typing import Literal

from fleetcast.backoff import Backoff, spread
from node.core.trust.clock import NEVER, MonotonicSeconds

SHARE_MAX, JITTER_SHARE = 0.5, 0.1  # asked for between 0.4 and 0.5 of a life
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 60.0, 3600.0  # doubling; for 90 days there are 45 left to try in
REFUSED_SECONDS = 24 * 3600.0  # the hub refused: only a person can change that, and somebody may have
AGAIN_SECONDS = 3600.0  # between two tries for a reason other than age
OFFLINE_SECONDS = 300.0  # a broker that did not take us for this long may be refusing our certificate

Reason = Literal["age", "clock", "broker"]
Outcome = Literal["renewed", "unreachable", "refused"]


@dataclass(frozen=True, slots=True)
class Renewal:
    """Hold one certificate's renewal: its life in seconds since 1970, and what the last attempt came to, by a monotonic clock."""

    begins: int
    ends: int
    jitter: float  # in [0, 1)
    next_at: MonotonicSeconds = NEVER  # not before this, whatever the reason
    settled_at: MonotonicSeconds = NEVER  # when an attempt went well
    failures: int = 0

    @property
    def from_at(self) -> int:
        """Return when it is old enough to be renewed."""
        return self.begins + int((self.ends - self.begins) * (SHARE_MAX - JITTER_SHARE * self.jitter))

    def due(self, *, now: int, clock_known: bool, offline_seconds: float, monotonic: MonotonicSeconds) -> Reason | None:
        """Return why to ask the hub now; None when there is no reason, or it is too soon after an attempt."""
        if monotonic < self.next_at:
            return None
        if now >= self.from_at:
            return "age"
        if monotonic - self.settled_at < AGAIN_SECONDS:
            return None
        if not clock_known:
            return "clock"
        return "broker" if offline_seconds >= OFFLINE_SECONDS else None

    def tried(self, outcome: Outcome, *, monotonic: MonotonicSeconds, chance: float) -> "Renewal":
        """Return the renewal after an attempt; `chance` in [0, 1) spreads the next one. A renewed certificate has a `Renewal` of its
        own.
        """
        if outcome == "renewed":
            # Whatever the hub's clock or ours makes of the new one's age, not again at once.
            pause = min(RETRY_SECONDS_MIN, (self.ends - self.begins) * JITTER_SHARE)
            return Renewal(self.begins, self.ends, self.jitter, next_at=monotonic + pause, settled_at=monotonic)
        retry = Backoff(RETRY_SECONDS_MIN, RETRY_SECONDS_MAX, self.failures)
        pause = REFUSED_SECONDS if outcome == "refused" else retry.seconds
        failures = self.failures + 1
        return Renewal(self.begins, self.ends, self.jitter, monotonic + spread(pause, chance), self.settled_at, failures)

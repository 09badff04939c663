"""Which retained messages the broker is asked for again, and when. Reads no clock and knows no broker.

A message is asked for again when its handling failed, and when it was refused because of the time and the clock has changed since. The
pauses grow until it has had its effect, so that a fault that stays costs a metered link a message every ten minutes.
"""

from random import Random

from node.core.trust.clock import NEVER, MonotonicSeconds

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 2.0, 600.0
CLOCK_SET_SECONDS = 60.0  # a wall clock that has moved further than this against the monotonic one was set
# Names beside those of models, which have no slash.
TRUST = ""  # The trust bundle.
TIME, ROLES, INDEX = "trust/time", "trust/roles", "deployed/"
DEPLOY = "deploy/"  # Before the name of a model: its deployments.


class RetainedRequests:
    """Schedule requests for the retained messages of one node, named by model; those about trust and deployments have the names above."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._wanted: set[str] = set()
        self._put_off: set[str] = set()
        self._due_at, self._pause = NEVER, PAUSE_SECONDS_MIN
        self._clock: tuple[bool, float] | None = None  # whether it is usable, and its distance from the monotonic one

    def failed(self, name: str, now: MonotonicSeconds) -> None:
        """Ask for a message again: its handling failed, and it has had no effect."""
        self._want(name, now)

    def put_off(self, name: str) -> None:
        """Wait for another clock: by the present one the message was refused."""
        self._wanted.discard(name)
        self._put_off.add(name)

    def settled(self, name: str) -> None:
        """Forget a message that has had its effect, or was refused for good."""
        self._wanted.discard(name)
        self._put_off.discard(name)
        if not self._wanted and not self._put_off:
            self._due_at, self._pause = NEVER, PAUSE_SECONDS_MIN

    def clock_changed(self, *, usable: bool, distance_seconds: float, now: MonotonicSeconds) -> bool:
        """Return whether the wall clock was set, or came to be believed, since the last call; then want what was put off."""
        before = self._clock
        if before is None:
            self._clock = (usable, distance_seconds)
            return False
        was_set = abs(distance_seconds - before[1]) > CLOCK_SET_SECONDS
        if not was_set and usable == before[0]:
            return False  # the distance is kept as it was, so that a clock that is slewed counts as set in the end
        self._clock = (usable, distance_seconds if was_set else before[1])
        for name in tuple(self._put_off):
            self._put_off.discard(name)
            self._want(name, now)
        return True

    def due(self, now: MonotonicSeconds) -> frozenset[str]:
        """Return what is to be asked for now; each answer that fails makes the next pause longer."""
        if not self._wanted or now < self._due_at:
            return frozenset()
        self._pause = min(PAUSE_SECONDS_MAX, self._pause * 2)
        self._due_at = now + self._jittered()
        return frozenset(self._wanted)

    def _want(self, name: str, now: MonotonicSeconds) -> None:
        if not self._wanted and self._due_at <= now:
            self._due_at = now + self._jittered()
        self._wanted.add(name)

    def _jittered(self) -> float:
        return self._pause * (0.5 + self._rng.random())

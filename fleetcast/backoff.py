"""Decide how long to wait before the next attempt. Pure: randomness is an argument."""

from dataclasses import dataclass, field, replace

DOUBLINGS_MAX = 64  # beyond every maximum, and still a finite number
LASTING_SECONDS = 60.0  # A connection that has lasted this long was a success.
ENDED_SECONDS = 1800  # Time in which ended connections are counted: a device whose copy pauses longer and longer keeps each for minutes.
SHORT_CONNECTIONS_MIN = 4  # Shorter connections in a row from which on a status says that something is wrong.


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


# Two clients with one name end each other's connections. Each pauses longer, until one of them keeps the connection for most of the time.
TAKEN_OVER = Backoff(10.0, 900.0)
TAKEN_OVER_LASTING_SECONDS = 3600.0  # More than the longest pause: a connection that lasted this long has no rival.


@dataclass(slots=True)
class Reconnection:
    """Decide when a client connects again. A success that does not last resets no back-off.

    A broker that accepts a client and drops it at once is asked as rarely as one that does not answer. Times are on a monotonic clock.
    """

    shortest: Backoff
    due_at: float = float("-inf")
    short_in_a_row: int = 0  # Connections that the broker accepted and that ended before they had lasted.
    _retry: Backoff = field(init=False)
    _taken_over: Backoff = TAKEN_OVER
    _accepted_at: float | None = None

    def __post_init__(self) -> None:
        self._retry = self.shortest

    def attempted(self, now: float, chance: float) -> None:
        """Take in that an attempt begins, which may fail at once."""
        self._retry = self._retry.doubled()
        self.due_at = now + self._retry.wait_seconds(chance)

    def answering(self, now: float, seconds_max: float) -> None:
        """Take in that something answers there: it is given time to accept us."""
        self.due_at = now + seconds_max

    def accepted(self, now: float) -> None:
        """Take in that the connection has begun."""
        self._accepted_at = now

    def released(self) -> None:
        """Take in that we end a connection at once and on purpose, to begin another: the attempt does not count."""
        self._retry = replace(self._retry, doublings=max(0, self._retry.doublings - 1))

    def ended(self, now: float, chance: float, *, taken_over: bool = False) -> float:
        """Take in that the connection, or the attempt, has ended; return the wait.

        `taken_over`: another client with our name has connected.
        """
        lasted = None if self._accepted_at is None else now - self._accepted_at
        self._accepted_at = None
        if lasted is not None and lasted >= LASTING_SECONDS:
            self._retry, self.short_in_a_row = self.shortest, 0
            wait = self.shortest.soon_seconds(chance)
        else:
            self.short_in_a_row += lasted is not None
            wait = self._retry.wait_seconds(chance)
        if taken_over:
            if lasted is not None and lasted >= TAKEN_OVER_LASTING_SECONDS:
                self._taken_over = TAKEN_OVER
            wait = max(wait, self._taken_over.wait_seconds(chance))
            self._taken_over = self._taken_over.doubled()
        self.due_at = now + wait
        return wait

    def fail(self, now: float) -> None:
        """Take in a failure of our own, such as a full disk: the next attempt comes later."""
        self.due_at = now + self._retry.seconds

    def hurry(self) -> None:
        """Have the next attempt made at once: the broker was started again by us."""
        self.due_at = float("-inf")

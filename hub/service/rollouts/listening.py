"""Keeps the clock of listening in the running hub: the loop reports the connection to it; it is durable in small steps."""

from collections.abc import Callable

import structlog

from hub.core.rollouts import listening as core
from hub.core.rollouts.listening import Listened, Listening
from hub.database.hearing import Hearing

log = structlog.get_logger()

KEEP_SECONDS = 5.0  # the most listening that a crash of the hub takes away again


class ListeningClock:
    """Measure how long this fleet's hub has listened to its nodes, over all its lives."""

    def __init__(self, hearing: Hearing, *, monotonic: Callable[[], float]) -> None:
        self._hearing, self._monotonic = hearing, monotonic
        self._kept = hearing.listened()
        self._state = Listening(seconds=self._kept, at=monotonic())

    @property
    def seconds(self) -> Listened:
        """Return how long the hub has listened, up to the last look."""
        return self._state.seconds

    @property
    def runs(self) -> bool:
        """Return whether the hub hears its nodes now."""
        return self._state.runs

    @property
    def deaf(self) -> str:
        """Return why nodes are not heard, where it is not this process's own connection; empty otherwise."""
        return ""

    @property
    def is_subscribed(self) -> bool:
        """Return whether all that nodes say comes to this process, or will."""
        return self._state.is_subscribed

    def connected(self, subscriptions: int) -> None:
        """Begin a connection, on which this number of subscriptions was asked for."""
        self._become(core.connected(self._state, subscriptions=subscriptions, now=self._monotonic()))

    def subscribed(self, *, denied: bool) -> None:
        """Take the broker's answer to one of them."""
        self._become(core.subscribed(self._state, denied=denied, now=self._monotonic()))

    def disconnected(self) -> None:
        """End the connection."""
        self._become(core.disconnected(self._state, now=self._monotonic()))

    def took(self, events: int, *, waited: float, full: bool) -> None:
        """Take note of a turn: how many events it found, how long it waited for the first; `full`: it left some for the next."""
        self._become(core.took(self._state, events, waited=waited, full=full, now=self._monotonic()))

    def tick(self) -> None:
        """Count, and make it durable when enough has come together."""
        self._become(core.looked(self._state, now=self._monotonic()))
        if self._state.seconds - self._kept >= KEEP_SECONDS:
            self.save()

    def save(self) -> None:
        """Make it durable."""
        if self._state.seconds != self._kept:
            self._hearing.keep_listened(self._state.seconds)
            self._kept = self._state.seconds

    def _become(self, after: Listening) -> None:
        if after.runs != self._state.runs:
            log.info("listening.started" if after.runs else "listening.paused", seconds=round(after.seconds, 1))
        self._state = after

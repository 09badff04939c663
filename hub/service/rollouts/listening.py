"""The clock of listening, as the running hub keeps it: told of the connection by the loop, durable in small steps."""

from collections.abc import Callable

import structlog

from hub.core.rollouts import listening as core
from hub.core.rollouts.listening import Listened, Listening
from hub.database.hearing import Hearing

log = structlog.get_logger()

KEEP_SECONDS = 5.0  # of listening, at most, that a crash of the hub takes away again


class ListeningClock:
    """How long this fleet's hub has listened to its nodes, over all its lives."""

    def __init__(self, hearing: Hearing, *, monotonic: Callable[[], float]) -> None:
        self._hearing, self._monotonic = hearing, monotonic
        self._kept = hearing.listened()
        self._state = Listening(seconds=self._kept, at=monotonic())

    @property
    def seconds(self) -> Listened:
        """How long, up to the last look."""
        return self._state.seconds

    @property
    def runs(self) -> bool:
        """Whether the hub hears its nodes now."""
        return self._state.runs

    def connected(self, subscriptions: int) -> None:
        """A connection is up, on which so many subscriptions were asked for."""
        self._become(core.connected(self._state, subscriptions=subscriptions, now=self._monotonic()))

    def subscribed(self, *, denied: bool) -> None:
        """The broker has answered one of them."""
        self._become(core.subscribed(self._state, denied=denied, now=self._monotonic()))

    def disconnected(self) -> None:
        """The connection is gone."""
        self._become(core.disconnected(self._state, now=self._monotonic()))

    def took(self, events: int, *, waited: float, full: bool) -> None:
        """A turn of the loop found so many events, after such a wait for the first; `full`: it left some for the next."""
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
            log.info("listening.began" if after.runs else "listening.paused", seconds=round(after.seconds, 1))
        self._state = after

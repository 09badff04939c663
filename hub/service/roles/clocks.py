"""Have all processes of a hub go by one clock of listening: the leader's runs while every shard is heard, and the others follow it.

What is compared, when a node was heard and how long the hub has listened since, is of one clock whichever process took it down.
"""

from collections.abc import Callable
from dataclasses import replace

from hub.core.rollouts import listening as core
from hub.core.rollouts.listening import Listened
from hub.database.hearing import Hearing
from hub.service.rollouts.listening import KEEP_SECONDS, ListeningClock

FOLLOW_SECONDS = 1.0


class LeadersClock(ListeningClock):
    """Run while all that nodes say is taken in, by whichever processes."""

    def __init__(self, hearing: Hearing, *, monotonic: Callable[[], float], unheard: Callable[[], str]) -> None:
        """Make it; `unheard` is what of the nodes' reports no process takes in now, and empty where all is."""
        super().__init__(hearing, monotonic=monotonic)
        self._unheard = unheard

    @property
    def deaf(self) -> str:
        """Return which process is missing or hears nothing."""
        return self._unheard()

    def connected(self, subscriptions: int) -> None:
        """Do nothing: this process hears no node."""

    def subscribed(self, *, denied: bool) -> None:
        """Do nothing."""

    def disconnected(self) -> None:
        """Do nothing."""

    def took(self, events: int, *, waited: float, full: bool) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Count what has passed, if nodes were heard by all; make it durable when enough has come together."""
        heard = not self._unheard()
        after = core.looked(self._state, now=self._monotonic())
        self._become(replace(after, subscriptions=0 if heard else None, caught_up=heard))
        if self._state.seconds - self._kept >= KEEP_SECONDS:
            self.save()


class FollowersClock(ListeningClock):
    """Show the leader's time, and whether this process hears its own part of the nodes."""

    def __init__(self, hearing: Hearing, *, monotonic: Callable[[], float]) -> None:
        super().__init__(hearing, monotonic=monotonic)
        self._followed, self._followed_at = self._kept, monotonic()

    @property
    def seconds(self) -> Listened:
        """Return how long the hub has listened, as the leader has kept it."""
        return self._followed

    def tick(self) -> None:
        """Count, and read the leader's time once in a while."""
        now = self._monotonic()
        self._become(core.looked(self._state, now=now))
        if now - self._followed_at >= FOLLOW_SECONDS:
            self._followed, self._followed_at = max(self._followed, self._hearing.listened()), now

    def save(self) -> None:
        """Do nothing: it is the leader's."""

"""Subscribe again to topics: to those that the broker denied, and to those that were ended so that what is retained there comes again.

An access list may come into force only after the broker has let us in, or be mended: rmqttd puts a client's name into its rules beside the
connection, and takes it out at the end of the connection before, whichever is later. And a cluster of rmqttd may carry out an UNSUBSCRIBE
after the SUBSCRIBE that followed it at once: it grants the subscription, and nothing ever comes.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

import structlog

from fleetcast.backoff import Backoff
from node.core.trust.clock import NEVER, MonotonicSeconds

log = structlog.get_logger()

DENIED_PAUSE = Backoff(5.0, 3600.0)  # A list that stays as it is costs an hourly packet for each topic.
ENDED_SECONDS = 1.0  # Between the end of a subscription and the next: time for a cluster to agree on the end.


class Reader(Protocol):
    """Subscribe to exact topics, and name the one that an answer is about."""

    @property
    def ended(self) -> Mapping[str, int]:
        """Return the topics that are to be read again, each with the number of its end."""

    def read(self, topics: Sequence[str], *, only_if_new: bool = False) -> int | None:
        """Subscribe, with one SUBSCRIBE each; they are no longer among the ended."""

    def answered(self, mid: int) -> str | None:
        """Return the topic that an answer is about, once; None where it is about blocks, or an earlier connection."""


class Resubscriptions:
    """Hold what the broker denies on the present connection and what was ended, and when it is subscribed to again."""

    def __init__(self, link: Reader, rng: Random, report: Callable[[int], None]) -> None:
        self._link, self._rng, self._report = link, rng, report
        self._denied: set[str] = set()
        self._blocks = 0  # Denied filters of blocks, which their transfer subscribes to again.
        self._pause, self._due_at = DENIED_PAUSE, NEVER
        self._ended_at: dict[tuple[str, int], MonotonicSeconds] = {}

    def connected(self) -> None:
        """Forget what another connection was denied."""
        self._denied.clear()
        self._blocks, self._pause = 0, DENIED_PAUSE

    def answered(self, mid: int, refused: int, now: MonotonicSeconds) -> None:
        """Take in the broker's answer to a SUBSCRIBE."""
        topic = self._link.answered(mid)
        if refused:
            log.error("subscribe.denied", filters=refused, topic=topic)
        if topic is None:
            self._blocks += refused
        elif not refused:
            self._denied.discard(topic)
        else:
            if not self._denied:
                self._put_off(now)
            self._denied.add(topic)
        self._report(len(self._denied) + self._blocks)

    def tick(self, now: MonotonicSeconds) -> None:
        """Subscribe again where that is due; to what is denied, after ever longer pauses."""
        if ended := self._link.ended:
            self._ended_at = {end: self._ended_at.get(end, now) for end in ended.items()}
            if due := [topic for (topic, _), at in self._ended_at.items() if now - at >= ENDED_SECONDS]:
                self._link.read(due)
        if self._denied and self._due_at <= now:
            self._put_off(now)
            self._link.read(sorted(self._denied))

    def _put_off(self, now: MonotonicSeconds) -> None:
        self._due_at = now + self._pause.wait_seconds(self._rng.random())
        self._pause = self._pause.doubled()

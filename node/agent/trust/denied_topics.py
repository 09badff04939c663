"""Subscribe again to topics that the broker denied. An access list may come into force only after the broker has let us in, or be mended.

rmqttd puts a client's name into its rules beside the connection, and forgets it at the end of the connection before, whichever is later.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

import structlog

from fleetcast.backoff import Backoff
from node.core.trust.clock import NEVER, MonotonicSeconds

log = structlog.get_logger()

PAUSE = Backoff(5.0, 3600.0)  # A list that stays as it is costs an hourly packet for each topic.


class Reader(Protocol):
    """Subscribe to exact topics, and name the one that an answer is about."""

    def read(self, topics: Sequence[str], *, only_if_new: bool = False) -> int | None:
        """Subscribe, with one SUBSCRIBE each."""

    def answered(self, mid: int) -> str | None:
        """Return the topic that an answer is about, once; None where it is about blocks, or an earlier connection."""


class DeniedTopics:
    """Hold what the broker denies on the present connection, and when topics are subscribed to again."""

    def __init__(self, link: Reader, rng: Random, report: Callable[[int], None]) -> None:
        self._link, self._rng, self._report = link, rng, report
        self._topics: set[str] = set()
        self._blocks = 0  # Filters of blocks, which their transfer subscribes to again.
        self._pause, self._due_at = PAUSE, NEVER

    def connected(self) -> None:
        """Forget what another connection was denied."""
        self._topics.clear()
        self._blocks, self._pause = 0, PAUSE

    def answered(self, mid: int, refused: int, now: MonotonicSeconds) -> None:
        """Take in the broker's answer to a SUBSCRIBE."""
        topic = self._link.answered(mid)
        if refused:
            log.error("subscribe.denied", filters=refused, topic=topic)
        if topic is None:
            self._blocks += refused
        elif not refused:
            self._topics.discard(topic)
        else:
            if not self._topics:
                self._put_off(now)
            self._topics.add(topic)
        self._report(len(self._topics) + self._blocks)

    def tick(self, now: MonotonicSeconds) -> None:
        """Subscribe again where that is due; each time the next pause is longer."""
        if self._topics and self._due_at <= now:
            self._put_off(now)
            self._link.read(sorted(self._topics))

    def _put_off(self, now: MonotonicSeconds) -> None:
        self._due_at = now + self._pause.wait_seconds(self._rng.random())
        self._pause = self._pause.doubled()

"""Decides which losses of nodes are news: a node that is lost again soon after it was back is reported once more, with a count. No clock.

The first loss is news at once. Those that follow within STEADY_SECONDS of the one before are counted, and are one report: when the node has
been steady for that long, lost or not, or when EPISODE_SECONDS have passed since the last report.
"""

from collections.abc import Iterator
from dataclasses import dataclass

STEADY_SECONDS = 600.0
EPISODE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Flaps:
    """Hold how often a node was lost beyond the loss that was reported, and in which time."""

    node: str
    losses: int
    seconds: float


@dataclass(slots=True)
class _Episode:
    reported: float
    last: float
    losses: int = 0


class Flapping:
    """Follow the nodes that were lost of late."""

    def __init__(self) -> None:
        self._episodes: dict[str, _Episode] = {}

    def lost(self, node: str, now: float) -> bool:
        """Count a loss, and return whether it is to be reported by itself."""
        episode = self._episodes.get(node)
        if episode is None:
            self._episodes[node] = _Episode(now, now)
            return True
        episode.last, episode.losses = now, episode.losses + 1
        return False

    def due(self, now: float) -> Iterator[Flaps]:
        """Yield what is to be reported now, and forget the nodes that are steady."""
        for node, episode in list(self._episodes.items()):
            steady = now - episode.last >= STEADY_SECONDS
            if episode.losses and (steady or now - episode.reported >= EPISODE_SECONDS):
                yield Flaps(node, episode.losses, episode.last - episode.reported)
                episode.losses, episode.reported = 0, now
            if steady:
                del self._episodes[node]

    def forget(self, node: str) -> None:
        """Forget a node that left the fleet."""
        self._episodes.pop(node, None)

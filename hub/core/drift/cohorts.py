"""Decides which cohorts count, by whom they are named, and which windows of the others go when there is no room. No clock, no database.

A topic shows no sender, so a client that may send windows may invent cohorts. One that an operator has named counts: in an enrolment or a
setting. So does one that a node names in its own state, a few a node and day. Windows of others wait in a small pool.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

POOL_MAX: Final = 512  # Windows of all unknown cohorts together: 6 MiB at the most.
POOL_SECONDS: Final = 86_400  # A node reports its state at each connection, and then every few minutes.
NODE_COHORTS_MAX: Final = 8  # Cohorts that one node may bring within NODE_COHORTS_SECONDS.
NODE_COHORTS_SECONDS: Final = 86_400


class Waiting(Protocol):
    """Hold a window that waits."""

    @property
    def cohort(self) -> str:
        """Return its cohort."""


def surplus(waiting: Sequence[Waiting], *, at_most: int = POOL_MAX) -> list[int]:
    """Return the places of those that go, of `waiting`, the oldest first: each time the oldest of the cohort with the most.

    So a flood of one name goes before anything else, and among many names the oldest.
    """
    counts, gone = Counter(one.cohort for one in waiting), set[int]()
    while len(waiting) - len(gone) > at_most:
        most = max(counts.values())
        at = next(at for at, one in enumerate(waiting) if at not in gone and counts[one.cohort] == most)
        gone.add(at)
        counts[waiting[at].cohort] -= 1
    return sorted(gone)


@dataclass(slots=True)
class Named:
    """Hold the cohorts that nodes have named in their states."""

    _by_node: dict[str, dict[str, float]] = field(default_factory=dict)
    _nodes: Counter[str] = field(default_factory=Counter)  # by cohort

    def __contains__(self, cohort: str) -> bool:
        return self._nodes[cohort] > 0 if cohort in self._nodes else False

    def take(self, node: str, cohort: str, *, now: float) -> bool:
        """Take in what a node says; False if that is nothing new, or one cohort too many of it."""
        mine = self._by_node.setdefault(node, {})
        if cohort in mine:
            return False
        if len(mine) >= NODE_COHORTS_MAX:
            oldest = min(mine, key=lambda one: mine[one])
            if now - mine[oldest] < NODE_COHORTS_SECONDS:
                return False
            del mine[oldest]
            self._nodes[oldest] -= 1
        mine[cohort] = now
        self._nodes[cohort] += 1
        return True

    def forget(self, node: str) -> None:
        """Forget what a node has named."""
        for cohort in self._by_node.pop(node, {}):
            self._nodes[cohort] -= 1

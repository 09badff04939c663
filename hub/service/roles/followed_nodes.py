"""Follows in the database what other processes take in of nodes, so that the leader judges by it. Bounded work a turn."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from hub.core.enrol.enrolment import Roll
from hub.core.rollouts import fleet
from hub.database.hearing import Hearing
from hub.database.known_nodes import known_nodes
from hub.database.store import Store
from hub.database.writers import touched_since
from hub.service.rollouts.listening import ListeningClock

log = structlog.get_logger()

LOOK_SECONDS = 1.0  # Between two looks for nodes that were written of.
HEARD_SECONDS = 30.0  # Between two looks at when each node was heard.
TURN_SECONDS = 0.3  # A turn's share.
AT_ONCE = 200  # Nodes that are read together.


class FollowedNodes:
    """Hold every node that counts, as other processes have kept it."""

    def __init__(
        self, store: Store, roll: Roll, *, listening: ListeningClock, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._store, self._roll, self._listening, self._wall, self._monotonic = store, roll, listening, wall, monotonic
        self._hearing = Hearing(store.database)
        self._since, self._left = self._touched(0)[0], list[str]()
        self.nodes: dict[str, fleet.Node] = dict(known_nodes(store, roll, listened=listening.seconds, now=wall()).nodes)
        self._looked_at = self._heard_at = monotonic()

    def forget(self, name: str) -> None:
        """Forget a node that was revoked, forgotten or replaced."""
        self.nodes.pop(name, None)
        self._left.append(name)

    def tick(self) -> None:
        """Read what is new."""
        now = self._monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._since, found = self._touched(self._since)
            self._left = list(dict.fromkeys([*self._left, *found]))
        while self._left and self._monotonic() - now < TURN_SECONDS:
            self._left, names = self._left[AT_ONCE:], self._left[:AT_ONCE]
            self._read(names)
        if now - self._heard_at >= HEARD_SECONDS:
            self._heard_at = now
            for name, heard_at in self._hearing.heard().items():
                node = self.nodes.get(name)
                if node is not None and heard_at > node.heard_at:
                    self.nodes[name] = replace(node, heard_at=heard_at)

    def _touched(self, since: int) -> tuple[int, list[str]]:
        with self._store.database.read() as db:
            return touched_since(db, since)

    def _read(self, names: list[str]) -> None:
        known = known_nodes(self._store, self._roll, listened=self._listening.seconds, now=self._wall(), names=names).nodes
        for name in names:
            if name in known:
                node, before = known[name], self.nodes.get(name)
                heard_at = max(node.heard_at, before.heard_at) if before is not None else node.heard_at
                self.nodes[name] = replace(node, heard_at=heard_at)
            else:
                self.nodes.pop(name, None)

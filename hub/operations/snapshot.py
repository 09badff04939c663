"""Keep what is known of all nodes for a moment, for everybody who asks: to read ten thousand nodes takes a second, and many may ask."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hub.core.rollouts.node_class import BY_NEED
from hub.core.rollouts.node_filter import chosen, nobody
from hub.operations.node_classes import Fleet, NodeLine, all_lines, worst
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused

SHARE = 10  # It is kept at least this many times as long as it took to read, so that reading takes no more of the hub's processor.
SORTS = ("node", "state", "last_seen", "-last_seen")


@dataclass(frozen=True)
class Snapshot:
    """Hold every node with its class in each deployment that decides for it, as one moment has them."""

    at: int
    seen: Fleet
    lines: Sequence[NodeLine]

    @cached_property
    def by_node(self) -> Mapping[str, Sequence[NodeLine]]:
        """Return the lines of each node."""
        found: dict[str, list[NodeLine]] = {}
        for line in self.lines:
            found.setdefault(line.node.name, []).append(line)
        return found

    @cached_property
    def worst(self) -> Mapping[str, NodeLine]:
        """Return for each node the line of the model that needs somebody most."""
        return worst(self.lines)

    def key(self, sort: str, name: str) -> tuple[int, str]:
        """Return the key by which a node has its place in an order."""
        match sort:
            case "state":
                line = self.worst.get(name)
                return (BY_NEED.index(line.found.name) if line is not None else len(BY_NEED)), name
            case "last_seen":
                return self.seen.nodes[name].last_seen, name
            case "-last_seen":
                return -self.seen.nodes[name].last_seen, name
            case _:
                return 0, name

    def nodes(self, where: str | None, sort: str) -> tuple[list[tuple[int, str]], str]:
        """Return the keys of the nodes that a selector matches, in their order, and the sentence for when there are none.

        Raises:
            Refused: SELECTOR_INVALID, or there is no such order.
        """
        if sort not in SORTS:
            raise Refused(Code.REQUEST_INVALID, f"sort {sort[:40]!r} is none of {', '.join(SORTS)}")
        nodes, sentence = list(self.seen.nodes.values()), ""
        if where is not None:
            classes = {name: line.found.name for name, line in self.worst.items()}
            found = chosen(nodes, where, facts=lambda node: node.facts, state=lambda node: classes.get(node.name, ""))
            sentence = nobody(where, [node.facts for node in nodes]) if not found else ""
            nodes = found
        return sorted(self.key(sort, node.name) for node in nodes), sentence


class Snapshots:
    """Read a snapshot where the last one is too old; several that ask at once wait for the same one. Any thread may ask."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._kept: Snapshot | None = None
        self._until = float("-inf")

    def get(self, fleet: OpenedFleet) -> Snapshot:
        """Return what is known of all nodes."""
        with self._lock:
            began = self._monotonic()
            if self._kept is None or began >= self._until:
                seen = Fleet(fleet.store, required=fleet.needs_enrolment)
                self._kept = Snapshot(int(time.time()), seen, all_lines(fleet, seen))
                self._until = self._monotonic() + SHARE * (self._monotonic() - began)
            return self._kept

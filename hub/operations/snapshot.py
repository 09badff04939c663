"""Keep what is known of all nodes for a moment, for everybody who asks: to read ten thousand nodes takes a second, and many may ask."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hub.core.rollouts.node_class import BY_NEED
from hub.core.rollouts.node_filter import chosen, nobody
from hub.operations.node_classes import Fleet, NodeLine, all_lines, worst
from hub.operations.opened_fleet import OpenedFleet
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, FleetcastError, Refused

SHARE = 10  # It is kept at least this many times as long as it took to read, so that reading takes no more of the hub's processor.
WAIT_SECONDS = 0.05  # What those who ask wait for.
OVERDUE = 20  # How long a snapshot is shown while a new one is read, in times of what reading took.
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

    def of_deployment(self, model: str, deployment: str) -> "Snapshot":
        """Return the same nodes, each in the class that it has in one deployment; those that it does not decide for have none."""
        return Snapshot(self.at, self.seen, [line for line in self.lines if (line.model, line.deployment) == (model, deployment)])

    @cached_property
    def _orders(self) -> dict[str, list[tuple[int, str]]]:
        """Return the keys of all nodes in the orders that were asked for."""
        return {}

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
        check_sort(sort)
        if where is None:
            return self.ordered(sort, self.seen.nodes), ""
        nodes = list(self.seen.nodes.values())
        classes = {name: line.found.name for name, line in self.worst.items()}
        found = chosen(nodes, where, facts=lambda node: node.facts, state=lambda node: classes.get(node.name, ""))
        sentence = nobody(where, [node.facts for node in nodes]) if not found else ""
        return self.ordered(sort, [node.name for node in found]), sentence

    def ordered(self, sort: str, names: Collection[str]) -> list[tuple[int, str]]:
        """Return the keys of these nodes in their order; that of all nodes is made once for all who ask."""
        if len(names) < len(self.seen.nodes):
            return sorted(self.key(sort, name) for name in names)
        if sort not in self._orders:
            self._orders[sort] = sorted(self.key(sort, name) for name in self.seen.nodes)
        return self._orders[sort]


def check_sort(sort: str) -> None:
    """Check that there is such an order of nodes.

    Raises:
        Refused: REQUEST_INVALID.
    """
    if sort not in SORTS:
        raise Refused(Code.REQUEST_INVALID, f"sort {sort[:40]!r} is none of {', '.join(SORTS)}")


class Snapshots:
    """Read a snapshot where the last one is too old; several that ask at once wait for the same one. Any thread may ask.

    Where reading takes long, those who ask get the one that there is while a new one is read beside them.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._kept: Snapshot | None = None
        self._took, self._until = 0.0, float("-inf")
        self._reading: threading.Thread | None = None

    def get(self, fleet: OpenedFleet) -> Snapshot:
        """Return what is known of all nodes."""
        with self._lock:
            now = self._monotonic()
            if self._kept is not None and now < self._until:
                return self._kept
            if self._kept is not None and self._took > WAIT_SECONDS and now < self._until + OVERDUE * self._took:
                if self._reading is None:
                    self._reading = threading.Thread(target=self._read_beside, args=(fleet,), name="snapshot", daemon=True)
                    self._reading.start()
                return self._kept
            return self._read(fleet)

    def _read(self, fleet: OpenedFleet) -> Snapshot:
        began = self._monotonic()
        seen = Fleet(fleet.store, required=fleet.needs_enrolment)
        found = Snapshot(int(time.time()), seen, all_lines(fleet, seen))
        self._took = self._monotonic() - began
        self._kept, self._until = found, self._monotonic() + SHARE * self._took
        return found

    def _read_beside(self, fleet: OpenedFleet) -> None:
        try:
            self._read(replace(fleet, repository=Repository(fleet.directory / "trust")))  # Who asked goes on with theirs.
        except FleetcastError:  # The next who asks reads it, and is answered with what is wrong.
            self._until = float("-inf")
            self._took = 0.0
        finally:
            self._reading = None

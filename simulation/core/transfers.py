"""Run real transfers in virtual time: the block server and each node's delivery core, over a broker and roads that misbehave.

A road is a queue: what the broker sends to a node waits behind what it sent before, so asking too often costs what it costs in the field.
Nodes take a turn when something came or is due, and never to look whether it is.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

from fleetcast.block_server import BlockServer, Clear, Send
from node.core.delivery.byte_quota import Claim, shares
from node.core.delivery.transfer import PROBE_SECONDS, Ask, Command, Complete, Piece, Subscribe, Transfer, Unsubscribe
from node.core.trust.clock import MonotonicSeconds
from schemas.manifest import Payload

TURN_SECONDS = 0.5  # A node's loop takes a turn at least so often while something is due.
PACKET_BYTES = 100  # Size of a packet that is not a block.


@dataclass(frozen=True, slots=True)
class Road:
    """Describe what lies between the broker and one node; the shares are chances, for each packet or for each second."""

    bytes_per_second: float = 1e7
    latency_seconds: float = 0.02
    lose: float = 0.0  # Share of the packets: a broker whose queue is full drops without a word.
    repeat: float = 0.0
    reorder_seconds: float = 0.0  # the most that one packet is held up behind others
    drop: float = 0.0  # Chance a second that the connection ends; the broker keeps the session, and what waits in it.
    forget: float = 0.0  # Chance a second that it ends, and the broker keeps nothing.
    outage_seconds: float = 10.0  # Mean time until the connection is back.


@dataclass(slots=True)
class Node:
    """Hold one transfer, and what its road carried. `quota` says how many more bytes may be asked for; without it nothing limits them."""

    number: int
    road: Road
    wanted: Sequence[Piece]
    payloads: Mapping[int, Payload]  # by the number of their block
    quota: "Callable[[Node, float], int] | None" = None
    transfer: Transfer | None = None
    is_on: bool = False  # Whether the device is on; it may be without a connection all the same.
    online: bool = False
    parked: bool = False  # Its quota lets nothing more come now.
    epoch: int = 0  # Number of the session: what was sent to an older one never arrives.
    connection: int = 0
    subscribed: set[bytes] = field(default_factory=set)
    free_at: float = 0.0  # when the road has carried what was sent
    waiting: list[tuple[str, object, int, float]] = field(default_factory=list)  # in the session, while there is no connection
    taken: list[bytes] = field(default_factory=list)
    asked: Counter[bytes] = field(default_factory=Counter)
    asked_again: int = 0
    carried_bytes: int = 0  # Bytes of blocks, wanted or not.
    arrived_bytes: int = 0
    today_bytes: int = 0
    day: int = 0
    drops: int = 0
    window_bytes_seen: int = 0
    done_at: float | None = None
    busy_seconds: float = 0.0  # Time in which nothing but the road kept it from fetching.
    busy_since: float | None = None
    ticking: bool = False


class Fleet:
    """Let nodes fetch. `wanted` and `roads` are of nodes that begin at once; others are added, begun and switched on and off."""

    def __init__(
        self,
        seed: int,
        wanted: Sequence[Piece] = (),
        roads: Sequence[Road] = (),
        *,
        window_bytes: int,
        filters_per_subscribe: int = 8,
        cache_bytes_max: int = 2**30,
        forget_broker_at: Sequence[float] = (),
        damage: Callable[[Random], bool] = lambda rng: False,
    ) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.now = 0.0
        self.damage = damage
        self.server = BlockServer(cache_bytes_max=cache_bytes_max, expiry_seconds=600, linger_seconds=0.05)
        self.published: Counter[bytes] = Counter()
        self.retained: dict[bytes, float] = {}  # until when the broker keeps what it retains
        self.nodes: list[Node] = []
        self.events = 0
        self._busy: dict[int, Node] = {}
        self._window_bytes, self._filters = window_bytes, filters_per_subscribe
        self._subscribers: dict[bytes, dict[int, Node]] = {}
        self._bytes: dict[bytes, int] = {}
        self._plans: dict[int, Mapping[int, Payload]] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._due_at = inf
        for road in roads:
            self.switch(self.begin(self.add(road, wanted)), on=True)
        for when in forget_broker_at:
            self._at(when, self._forget_broker)

    @property
    def done(self) -> bool:
        """Return whether every node has everything."""
        return all(node.done_at is not None for node in self.nodes)

    def add(self, road: Road, wanted: Sequence[Piece], *, quota: Callable[[Node, float], int] | None = None) -> Node:
        """Add a node that is off and has not begun; nodes that want the same pieces are given the same sequence."""
        if id(wanted) not in self._plans:
            self._plans[id(wanted)] = {piece.number: piece.payload for piece in wanted}
            self._bytes |= {piece.payload.digest: piece.payload.bytes for piece in wanted}
        node = Node(len(self.nodes), road, wanted, self._plans[id(wanted)], quota)
        self.nodes.append(node)
        return node

    def begin(self, node: Node) -> Node:
        """Begin a node's transfer."""
        node.transfer, commands = Transfer.start(
            node.wanted,
            window_bytes=self._window_bytes,
            filters_per_subscribe=self._filters,
            rng=Random(self.rng.random()),
            now=MonotonicSeconds(self.now),
            online=node.online,
        )
        self._share(node)
        self._carry_out(node, commands)
        if not node.wanted:
            node.done_at = self.now
        self._keep_time(node)
        return node

    def switch(self, node: Node, *, on: bool) -> None:
        """Switch a node on, which connects it, or off; its session stays at the broker."""
        if on == node.is_on:
            return
        node.is_on = on
        if on:
            self._connect(node, session_present=True)
        else:
            node.online = False
            node.connection += 1
            if node.transfer is not None:
                node.transfer.disconnected()
        self._keep_time(node)

    def look(self, node: Node) -> None:
        """Let a node look at its quota again."""
        if node.transfer is not None and node.done_at is None:
            self._share(node)

    def run(self, *, seconds_max: float = 1e6, until: Callable[[], bool] | None = None) -> "Fleet":
        """Go on until every node has everything, or `until` holds, or time is up."""
        while self._queue and self.now < seconds_max and not (until or (lambda: self.done))():
            self._next()
        return self

    def advance(self, until: float) -> None:
        """Let happen what happens until this moment."""
        while self._queue and self._queue[0][0] <= until:
            self._next()
        self.now = until
        for node in self._busy.values():
            node.busy_seconds += until - (node.busy_since if node.busy_since is not None else until)
            node.busy_since = until

    def _next(self) -> None:
        self.now, _, do = heapq.heappop(self._queue)
        self.events += 1
        do()

    def _at(self, when: float, do: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, do))

    # The node

    def _arm(self, node: Node) -> None:
        transfer = node.transfer
        if transfer is None or node.ticking or node.done_at is not None or not node.online or not transfer.asked:
            return
        node.ticking = True
        is_probing = transfer.probe is not None
        due = float(transfer.probed_at) + PROBE_SECONDS if is_probing else float(transfer.quiet_since) + transfer.quiet_seconds
        self._at(max(due, self.now) + self.rng.random() * TURN_SECONDS, lambda: self._tick(node))

    def _tick(self, node: Node) -> None:
        node.ticking = False
        if node.done_at is None and node.online and node.transfer is not None:
            self._carry_out(node, node.transfer.tick(MonotonicSeconds(self.now)))

    def _share(self, node: Node) -> None:
        """Divide the window as the node's agent does, within its quota."""
        transfer = node.transfer
        if transfer is None or node.quota is None:
            return
        more = node.quota(node, self.now) if transfer.missing_bytes else 0
        claim = Claim(5, transfer.missing_bytes, transfer.in_flight_bytes, more)
        node.parked = bool(transfer.missing_bytes) and not more and not transfer.in_flight_bytes
        self._carry_out(node, transfer.allow(shares([claim], self._window_bytes)[0], now=MonotonicSeconds(self.now)))
        self._keep_time(node)

    def _keep_time(self, node: Node) -> None:
        is_busy = node.is_on and node.transfer is not None and node.done_at is None and not node.parked
        if is_busy and node.busy_since is None:
            node.busy_since = self.now
            self._busy[node.number] = node
        elif not is_busy and node.busy_since is not None:
            node.busy_seconds += self.now - node.busy_since
            node.busy_since = None
            self._busy.pop(node.number, None)

    def _carry_out(self, node: Node, commands: Sequence[Command]) -> None:
        if node.transfer is not None:
            node.window_bytes_seen = max(node.window_bytes_seen, node.transfer.in_flight_bytes)
        for command in commands:
            match command:
                case Subscribe(digests, only_if_new):
                    self._up(node, lambda digests=digests, only_if_new=only_if_new: self._subscribe(node, digests, only_if_new))  # type: ignore[misc]
                case Unsubscribe(digests):
                    self._up(node, lambda digests=digests: self._unsubscribe(node, digests))  # type: ignore[misc]
                case Ask(ranges, again, _):
                    payloads = [node.payloads[number] for first, length in ranges for number in range(first, first + length)]
                    node.asked.update(payload.digest for payload in payloads)
                    node.asked_again += again
                    self._up(node, lambda payloads=payloads, again=again: self._wanted(payloads, again))  # type: ignore[misc]
                case Complete():
                    node.done_at = self.now
                    self._keep_time(node)
        self._arm(node)

    def _up(self, node: Node, do: Callable[[], None]) -> None:
        epoch = node.epoch
        if node.online and self.rng.random() >= node.road.lose:
            self._at(self.now + node.road.latency_seconds, lambda: do() if node.epoch == epoch else None)

    def _break(self, node: Node, connection: int) -> None:
        if not node.online or node.connection != connection or node.done_at is not None:
            return
        road = node.road
        self._disconnect(node, forget=self.rng.random() * (road.drop + road.forget) < road.forget)

    def _disconnect(self, node: Node, *, forget: bool) -> None:
        node.online = False
        node.connection += 1
        node.drops += 1
        if node.transfer is not None:
            node.transfer.disconnected()
        if forget:
            node.epoch += 1
            self._unsubscribe(node, tuple(node.subscribed))
            node.waiting.clear()
        connection = node.connection
        self._at(
            self.now + self.rng.random() * 2 * node.road.outage_seconds,
            lambda: self._connect(node, session_present=not forget) if node.is_on and node.connection == connection else None,
        )

    def _connect(self, node: Node, *, session_present: bool) -> None:
        node.online = True
        node.connection += 1
        node.free_at = self.now
        waiting, node.waiting = node.waiting, []
        if rate := node.road.drop + node.road.forget:
            connection = node.connection
            self._at(self.now + self.rng.expovariate(rate), lambda: self._break(node, connection))
        if node.transfer is not None:
            self._share(node)
            self._carry_out(node, node.transfer.connected(session_present=session_present, now=MonotonicSeconds(self.now)))
        for kind, what, size_bytes, expires_at in waiting:
            if expires_at > self.now:  # Blocks are published with an expiry, after which a session does not hold them any more.
                self._down(node, kind, what, size_bytes, expires_at)

    # The broker

    def _subscribe(self, node: Node, digests: tuple[bytes, ...], only_if_new: bool) -> None:
        known = set(node.subscribed) if only_if_new else set()
        node.subscribed.update(digests)
        for digest in digests:
            self._subscribers.setdefault(digest, {})[node.number] = node
        self._down(node, "granted", digests, PACKET_BYTES)
        for digest in digests:
            if self.retained.get(digest, 0.0) > self.now and digest not in known:
                self._down(node, "block", digest, self._bytes[digest], self.retained[digest])

    def _unsubscribe(self, node: Node, digests: Sequence[bytes]) -> None:
        node.subscribed.difference_update(digests)
        for digest in digests:
            self._subscribers.get(digest, {}).pop(node.number, None)

    def _publish(self, digest: bytes, *, retain: bool, expires_at: float) -> None:
        self.published[digest] += 1
        if retain:
            self.retained[digest] = expires_at
        for number in sorted(self._subscribers.get(digest, ())):
            self._down(self.nodes[number], "block", digest, self._bytes[digest], expires_at)

    def _down(self, node: Node, kind: str, what: object, size_bytes: int, expires_at: float = inf) -> None:
        if not node.online:
            node.waiting.append((kind, what, size_bytes, expires_at))
            return
        for _ in range((self.rng.random() >= node.road.lose) + (self.rng.random() < node.road.repeat)):
            node.free_at = max(self.now, node.free_at) + size_bytes / node.road.bytes_per_second
            if kind == "block":
                node.carried_bytes += size_bytes
            late = node.road.latency_seconds + self.rng.random() * node.road.reorder_seconds
            epoch = node.epoch
            self._at(node.free_at + late, lambda epoch=epoch: self._arrive(node, kind, what, size_bytes, epoch, expires_at))  # type: ignore[misc]

    def _arrive(self, node: Node, kind: str, what: object, size_bytes: int, epoch: int, expires_at: float) -> None:
        transfer, now = node.transfer, MonotonicSeconds(self.now)
        if node.epoch != epoch or transfer is None:
            return
        if not node.online:
            node.waiting.append((kind, what, size_bytes, expires_at))
        elif isinstance(what, tuple):
            self._carry_out(node, transfer.granted(what, now=now))
        elif isinstance(what, bytes):
            node.arrived_bytes += size_bytes
            node.today_bytes += size_bytes
            if transfer.piece(what) is None:
                return
            if self.damage(self.rng):
                self._carry_out(node, transfer.rejected(what, now=now))
                return
            node.taken.append(what)
            if node.quota is not None:
                self._carry_out(node, transfer.allow(0, now=now))  # what this makes room for is divided below
            self._carry_out(node, transfer.took(what, now=now))
            self._share(node)

    def _forget_broker(self) -> None:
        self.retained.clear()
        self.server.forgot()
        for node in self.nodes:
            if node.done_at is None and node.online:
                self._disconnect(node, forget=True)

    # The hub, beside the broker

    def _wanted(self, payloads: list[Payload], again: bool) -> None:
        self.server.wanted(payloads, again=again, now=self.now)
        self._due()

    def _due(self) -> None:
        self._due_at = inf
        for command in self.server.due(self.now, room=48):
            match command:
                case Send(digest, retain, expiry_seconds):
                    self._publish(digest, retain=retain, expires_at=self.now + expiry_seconds)
                case Clear(digest):
                    self.retained.pop(digest, None)
        due = self.server.next_due
        if due is not None and (at := max(self.now + 0.001, due)) < self._due_at:
            self._due_at = at
            self._at(at, self._due)

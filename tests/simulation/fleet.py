"""A fleet in virtual time: the real block server and real transfers, over a broker and roads that misbehave as a seed says.

A road is a queue: what the broker sends to a node waits behind what it sent before, so asking too often costs what it costs in the field.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from fleetcast.block_server import BlockServer, Clear, Send
from node.core.delivery.transfer import Ask, Command, Complete, Piece, Subscribe, Transfer, Unsubscribe
from schemas.manifest import Payload

TICK_SECONDS = 0.5
PACKET_BYTES = 100  # of whatever is not a block


@dataclass(frozen=True, slots=True)
class Road:
    """Between the broker and one node; the shares are chances, for each packet or for each second."""

    bytes_per_second: float = 1e7
    latency_seconds: float = 0.02
    lose: float = 0.0  # of the packets: a broker whose queue is full drops without a word
    repeat: float = 0.0
    reorder_seconds: float = 0.0  # the most that one packet is held up behind others
    drop: float = 0.0  # of the connection, a second; the broker keeps the session, and what waits in it
    forget: float = 0.0  # of the connection, a second; the broker keeps nothing of it


@dataclass(slots=True)
class Node:
    """One transfer, and what its road carried."""

    number: int
    road: Road
    transfer: Transfer
    online: bool = True
    epoch: int = 0  # of the session: what was sent to an older one never arrives
    subscribed: set[bytes] = field(default_factory=set)
    free_at: float = 0.0  # when the road has carried what was sent
    waiting: list[tuple[str, object, int]] = field(default_factory=list)  # in the session, while there is no connection
    taken: list[bytes] = field(default_factory=list)
    asked: Counter[bytes] = field(default_factory=Counter)
    asked_again: int = 0
    carried_bytes: int = 0  # of blocks, wanted or not
    drops: int = 0
    window_bytes_seen: int = 0
    done_at: float | None = None


class Fleet:
    """`nodes` fetch the same pieces; `step` handles the next event, `run` all of them."""

    def __init__(
        self,
        seed: int,
        wanted: Sequence[Piece],
        roads: Sequence[Road],
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
        self.retained: set[bytes] = set()
        self._by_number = {piece.number: piece.payload for piece in wanted}
        self._bytes = {piece.payload.digest: piece.payload.bytes for piece in wanted}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.nodes: list[Node] = []
        for number, road in enumerate(roads):
            transfer, commands = Transfer.start(
                wanted,
                window_bytes=window_bytes,
                filters_per_subscribe=filters_per_subscribe,
                rng=Random(self.rng.random()),
                now=0.0,
                online=True,
            )
            node = Node(number, road, transfer)
            self.nodes.append(node)
            self._carry_out(node, commands)
            self._at(self.rng.random() * TICK_SECONDS, lambda node=node: self._tick(node))  # type: ignore[misc]
        for when in forget_broker_at:
            self._at(when, self._forget_broker)

    @property
    def done(self) -> bool:
        """Whether every node has everything."""
        return all(node.done_at is not None for node in self.nodes)

    def run(self, *, seconds_max: float = 1e6, until: Callable[[], bool] | None = None) -> "Fleet":
        """Until every node has everything, or `until` holds, or time is up."""
        while self._events and self.now < seconds_max and not (until or (lambda: self.done))():
            self.now, _, do = heapq.heappop(self._events)
            do()
        return self

    def _at(self, when: float, do: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, do))

    # The node

    def _tick(self, node: Node) -> None:
        if node.done_at is not None:
            return
        if node.online and self.rng.random() < node.road.drop * TICK_SECONDS:
            self._disconnect(node, forget=False)
        elif node.online and self.rng.random() < node.road.forget * TICK_SECONDS:
            self._disconnect(node, forget=True)
        else:
            self._carry_out(node, node.transfer.tick(self.now))
        self._at(self.now + TICK_SECONDS, lambda: self._tick(node))

    def _carry_out(self, node: Node, commands: Sequence[Command]) -> None:
        node.window_bytes_seen = max(node.window_bytes_seen, node.transfer.in_flight_bytes)
        for command in commands:
            match command:
                case Subscribe(digests, only_if_new):
                    self._up(node, lambda digests=digests, only_if_new=only_if_new: self._subscribe(node, digests, only_if_new))  # type: ignore[misc]
                case Unsubscribe(digests):
                    self._up(node, lambda digests=digests: node.subscribed.difference_update(digests))  # type: ignore[misc]
                case Ask(ranges, again, _):
                    payloads = [self._by_number[number] for first, length in ranges for number in range(first, first + length)]
                    node.asked.update(payload.digest for payload in payloads)
                    node.asked_again += again
                    self._up(node, lambda payloads=payloads, again=again: self._wanted(payloads, again))  # type: ignore[misc]
                case Complete():
                    node.done_at = self.now

    def _up(self, node: Node, do: Callable[[], None]) -> None:
        epoch = node.epoch
        if node.online and self.rng.random() >= node.road.lose:
            self._at(self.now + node.road.latency_seconds, lambda: do() if node.epoch == epoch else None)

    def _disconnect(self, node: Node, *, forget: bool) -> None:
        node.online = False
        node.drops += 1
        node.transfer.disconnected()
        if forget:
            node.epoch += 1
            node.subscribed.clear()
            node.waiting.clear()
        self._at(self.now + self.rng.random() * 20, lambda: self._reconnect(node, session_present=not forget))

    def _reconnect(self, node: Node, *, session_present: bool) -> None:
        node.online = True
        node.free_at = self.now
        waiting, node.waiting = node.waiting, []
        self._carry_out(node, node.transfer.connected(session_present=session_present, now=self.now))
        for kind, what, size_bytes in waiting:
            self._down(node, kind, what, size_bytes)

    # The broker

    def _subscribe(self, node: Node, digests: tuple[bytes, ...], only_if_new: bool) -> None:
        known = set(node.subscribed) if only_if_new else set()
        node.subscribed.update(digests)
        self._down(node, "granted", digests, PACKET_BYTES)
        for digest in digests:
            if digest in self.retained and digest not in known:
                self._down(node, "block", digest, self._bytes[digest])

    def _publish(self, digest: bytes, *, retain: bool) -> None:
        self.published[digest] += 1
        if retain:
            self.retained.add(digest)
        for node in self.nodes:
            if digest in node.subscribed:
                self._down(node, "block", digest, self._bytes[digest])

    def _down(self, node: Node, kind: str, what: object, size_bytes: int) -> None:
        if not node.online:
            node.waiting.append((kind, what, size_bytes))
            return
        for _ in range((self.rng.random() >= node.road.lose) + (self.rng.random() < node.road.repeat)):
            node.free_at = max(self.now, node.free_at) + size_bytes / node.road.bytes_per_second
            if kind == "block":
                node.carried_bytes += size_bytes
            late = node.road.latency_seconds + self.rng.random() * node.road.reorder_seconds
            epoch = node.epoch
            self._at(node.free_at + late, lambda epoch=epoch: self._arrive(node, kind, what, size_bytes, epoch))  # type: ignore[misc]

    def _arrive(self, node: Node, kind: str, what: object, size_bytes: int, epoch: int) -> None:
        if node.epoch != epoch:
            return
        if not node.online:
            node.waiting.append((kind, what, size_bytes))
        elif kind == "granted":
            assert isinstance(what, tuple)
            self._carry_out(node, node.transfer.granted(what, now=self.now))
        else:
            assert isinstance(what, bytes)
            if node.transfer.piece(what) is None:
                return
            if self.damage(self.rng):
                self._carry_out(node, node.transfer.rejected(what, now=self.now))
                return
            node.taken.append(what)
            self._carry_out(node, node.transfer.took(what, now=self.now))

    def _forget_broker(self) -> None:
        self.retained.clear()
        self.server.forgot()
        for node in self.nodes:
            if node.done_at is None:
                self._disconnect(node, forget=True)

    # The hub, beside the broker

    def _wanted(self, payloads: list[Payload], again: bool) -> None:
        self.server.wanted(payloads, again=again, now=self.now)
        self._due()

    def _due(self) -> None:
        for command in self.server.due(self.now, room=48):
            match command:
                case Send(digest, retain, _):
                    self._publish(digest, retain=retain)
                case Clear(digest):
                    self.retained.discard(digest)
        if self.server.next_due is not None:
            self._at(max(self.now + 0.001, self.server.next_due), self._due)

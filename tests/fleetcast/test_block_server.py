"""One publish for all who want a block, and none that is missed: the block server alone, and before a simulated broker."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcast.block_server import AGAIN_SECONDS, EXPIRY_MARGIN_SECONDS, BlockServer, Clear, Send
from schemas.manifest import Payload
from schemas.names import sha256

EXPIRY = 600
KB = 1000


def payload(number: int, size_bytes: int = 100 * KB) -> Payload:
    return Payload("raw", sha256(str(number).encode()), size_bytes)


def server(cache_bytes_max: int = 10_000 * KB, **changes: bool) -> BlockServer:
    return BlockServer(cache_bytes_max=cache_bytes_max, expiry_seconds=EXPIRY, linger_seconds=0.05, **changes)


def test_wants_that_come_together_cause_one_publish() -> None:
    blocks = server(cache_bytes_max=0)

    blocks.wanted([payload(1)], again=False, now=0.0)
    blocks.wanted([payload(1)], again=False, now=0.04)

    assert blocks.due(0.049, room=48) == []
    assert blocks.due(0.05, room=48) == [Send(payload(1).digest, False, EXPIRY)]
    assert blocks.due(9.0, room=48) == []


def test_a_retained_block_needs_no_second_publish_until_it_is_about_to_expire() -> None:
    blocks = server()
    blocks.wanted([payload(1)], again=False, now=0.0)
    assert blocks.due(1.0, room=48) == [Send(payload(1).digest, True, EXPIRY)]

    blocks.wanted([payload(1)], again=False, now=1.0 + EXPIRY - EXPIRY_MARGIN_SECONDS - 1)
    assert blocks.next_due is None
    blocks.wanted([payload(1)], again=False, now=1.0 + EXPIRY - EXPIRY_MARGIN_SECONDS)

    assert blocks.next_due is not None


def test_what_is_wanted_again_is_sent_though_it_is_retained() -> None:
    blocks = server()
    blocks.wanted([payload(1)], again=False, now=0.0)
    blocks.due(1.0, room=48)

    blocks.wanted([payload(1)], again=True, now=1.0 + AGAIN_SECONDS)

    assert blocks.due(10.0, room=48) == [Send(payload(1).digest, True, EXPIRY)]


def test_a_block_that_is_sent_again_is_counted_once() -> None:
    blocks = server(cache_bytes_max=200 * KB)
    for now in (0.0, 1.0 + AGAIN_SECONDS):
        blocks.wanted([payload(1)], again=now > 0, now=now)
        blocks.due(now + 1.0, room=48)

    blocks.wanted([payload(2)], again=False, now=20.0)

    assert blocks.due(30.0, room=48) == [Send(payload(2).digest, True, EXPIRY)]  # nothing is cleared for it


def test_many_that_ask_again_at_once_cost_one_publish() -> None:
    blocks = server()
    for node in range(20):
        blocks.wanted([payload(1)], again=True, now=node * 0.1)
        blocks.due(node * 0.1, room=48)

    assert blocks.due(5.0, room=48) == []


def test_the_oldest_is_cleared_before_the_budget_is_exceeded() -> None:
    blocks = server(cache_bytes_max=250 * KB)
    for number in range(3):
        blocks.wanted([payload(number)], again=False, now=float(number))

    commands = blocks.due(10.0, room=48)

    sent = [Send(payload(number).digest, True, EXPIRY) for number in range(3)]
    assert commands == [sent[0], sent[1], Clear(payload(0).digest), sent[2]]


def test_an_expired_block_is_cleared_once() -> None:
    blocks = server()
    blocks.wanted([payload(1)], again=False, now=0.0)
    blocks.due(1.0, room=48)

    assert blocks.due(EXPIRY + 0.9, room=48) == []
    assert blocks.due(EXPIRY + 1.1, room=0) == [Clear(payload(1).digest)]
    assert blocks.due(EXPIRY + 2.0, room=48) == []


def test_a_restarted_hub_clears_what_it_had_retained() -> None:
    blocks = server()

    blocks.restored([(payload(2).digest, 5, 20.0), (payload(1).digest, 7, 10.0)])

    assert blocks.due(15.0, room=0) == [Clear(payload(1).digest)]
    assert blocks.due(25.0, room=0) == [Clear(payload(2).digest)]


def test_what_was_retained_before_a_restart_counts() -> None:
    blocks = server(cache_bytes_max=100 * KB + 11)
    blocks.restored([(payload(2).digest, 5, 20.0), (payload(1).digest, 7, 10.0)])

    blocks.wanted([payload(3)], again=False, now=0.0)

    assert blocks.due(1.0, room=48) == [Clear(payload(1).digest), Send(payload(3).digest, True, EXPIRY)]


def test_a_broker_that_retains_nothing_is_served_all_the_same() -> None:
    blocks = server(retain_available=False)

    for now in (0.0, 10.0):
        blocks.wanted([payload(1)], again=False, now=now)
        assert blocks.due(now + 1, room=48) == [Send(payload(1).digest, False, EXPIRY)]


def test_no_more_than_the_room_is_sent_and_the_longest_waiting_goes_first() -> None:
    blocks = server()
    for number in range(10):
        blocks.wanted([payload(number)], again=False, now=float(number))
    blocks.wanted([payload(0)], again=True, now=11.0)

    first, second = blocks.due(20.0, room=4), blocks.due(20.0, room=48)

    assert [command.digest for command in first + second] == [payload(number).digest for number in range(10)]
    assert len(first) == 4


class Broker:
    """Retains and expires as MQTT 5 says; delivers at once to whoever is subscribed, and on subscribing what is retained."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.retained, self.subscribed = rng, {}, {}  # type: ignore[var-annotated]
        self.publishes: Counter[bytes] = Counter()
        self.retained_bytes_most = 0

    def carry_out(self, commands: list[Send | Clear], now: float, lost: float) -> None:
        for command in commands:
            if isinstance(command, Clear):
                self.retained.pop(command.digest, None)
                continue
            self.publishes[command.digest] += 1
            if command.retain:
                self.retained[command.digest] = now + command.expiry_seconds
                self.retained_bytes_most = max(self.retained_bytes_most, len(self.retained) * 100 * KB)
            for node in list(self.subscribed.get(command.digest, ())):
                if self.rng.random() >= lost:
                    node.arrived(command.digest)


class Node:
    """Subscribes a window of 8 blocks, then wants it; wants again what has not come after 10 s."""

    def __init__(self, broker: Broker, blocks: BlockServer, wanted: list[Payload]) -> None:
        self.broker, self.blocks, self.missing, self.asked = broker, blocks, {one.digest: one for one in wanted}, {}  # type: ignore[var-annotated]

    def arrived(self, digest: bytes) -> None:
        self.missing.pop(digest, None)
        self.asked.pop(digest, None)
        self.broker.subscribed.get(digest, set()).discard(self)

    def turn(self, now: float) -> None:
        late = [digest for digest, at in self.asked.items() if now - at >= 10]
        for digest in late:
            self.asked[digest] = now
        if late:
            self.blocks.wanted([self.missing[digest] for digest in late], again=True, now=now)
        fresh = [digest for digest in self.missing if digest not in self.asked][: 8 - len(self.asked)]
        for digest in fresh:
            self.asked[digest] = now
            self.broker.subscribed.setdefault(digest, set()).add(self)
        wants = [self.missing[digest] for digest in fresh]
        for digest in fresh:
            if self.broker.retained.get(digest, -1.0) > now:
                self.arrived(digest)
        if wants:
            self.blocks.wanted(wants, again=False, now=now)


def simulate(
    blocks: BlockServer, *, seed: int, nodes: int, count: int, start_seconds: float, lost: float = 0.0, forgets_at: float = -1.0
) -> Broker:
    rng = random.Random(seed)
    broker = Broker(rng)
    wanted = [payload(number) for number in range(count)]
    fleet = [(rng.uniform(0, start_seconds), Node(broker, blocks, wanted)) for _ in range(nodes)]
    now = 0.0
    while any(node.missing for _, node in fleet):
        now += 0.02
        assert now < 900, f"seed {seed}: {sum(len(node.missing) for _, node in fleet)} blocks never came"
        if 0 <= forgets_at <= now:
            forgets_at = -1.0
            broker.retained.clear()
            broker.subscribed.clear()
            blocks.forgot()
            for _, node in fleet:
                node.asked.clear()  # its session is gone: it subscribes and asks anew
        for at, node in fleet:
            if at <= now and node.missing:
                node.turn(now)
        broker.carry_out(blocks.due(now, room=48), now, lost)
    return broker


def test_a_hundred_nodes_within_a_minute_cost_one_publish_a_block() -> None:
    broker = simulate(server(), seed=1, nodes=100, count=50, start_seconds=60.0)

    assert sum(broker.publishes.values()) / 50 <= 1.05
    assert set(broker.publishes) == {payload(number).digest for number in range(50)}


def test_a_hundred_nodes_at_once_cost_few_publishes_without_retained_blocks() -> None:
    broker = simulate(server(retain_available=False), seed=2, nodes=100, count=50, start_seconds=0.04)

    assert sum(broker.publishes.values()) / 50 <= 1.05


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cache=st.sampled_from([0, 300 * KB, 100_000 * KB]),
    retain=st.booleans(),
    lost=st.sampled_from([0.0, 0.2]),
    forgets_at=st.floats(0, 5),
)
def test_every_node_gets_every_block_whatever_the_broker_loses(seed: int, cache: int, retain: bool, lost: float, forgets_at: float) -> None:
    blocks = server(cache, retain_available=retain)

    broker = simulate(blocks, seed=seed, nodes=6, count=12, start_seconds=4.0, lost=lost, forgets_at=forgets_at)

    assert all(broker.publishes[payload(number).digest] >= 1 for number in range(12))
    assert broker.retained_bytes_most <= cache

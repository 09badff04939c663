"""Every transfer ends, within its window, whatever the broker loses, repeats or forgets."""

from collections import Counter, deque
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.delivery.transfer import GIVE_UP_SECONDS, Ask, Complete, GaveUp, Piece, Place, Subscribe, Transfer, Unsubscribe, pieces
from schemas.manifest import Block, Payload
from schemas.names import sha256

WINDOW, FILTERS = 1_000_000, 8


def block(number: int, size: int = 100_000) -> Block:
    return Block(sha256(b"block %d" % number), size)


def plan(count: int, size: int = 100_000) -> tuple[Piece, ...]:
    return pieces([[block(number, size) for number in range(count)]], ("raw", "zstd"))


class World:
    """A hub that answers wants, behind a broker that loses, repeats and forgets as a seed says."""

    def __init__(self, seed: int, wanted: tuple[Piece, ...], *, lose: float, repeat: float, forget: float) -> None:
        self.rng, self.lose, self.repeat, self.forget = Random(seed), lose, repeat, forget
        self.by_number = {piece.number: piece for piece in wanted}
        self.subscribed: set[bytes] = set()
        self.events: deque[tuple[str, object]] = deque()
        self.asked: Counter[bytes] = Counter()
        self.again = 0
        self.taken: list[bytes] = []
        self.now = 0.0
        self.largest = max(piece.payload.bytes for piece in wanted)
        self.transfer, commands = Transfer.start(
            wanted, window_bytes=WINDOW, filters_per_subscribe=FILTERS, rng=Random(seed + 1), now=0.0, online=True
        )
        self.done = False
        self.carry_out(commands)

    def carry_out(self, commands: list[object]) -> None:
        for command in commands:
            match command:
                case Subscribe(digests, _):
                    assert len(digests) <= FILTERS
                    self.subscribed.update(digests)
                    if self.rng.random() >= self.lose:
                        self.events.append(("granted", digests))
                case Unsubscribe(digests):
                    self.subscribed.difference_update(digests)
                case Ask(ranges, again, _):
                    self.again += again
                    for first, length in ranges:
                        for number in range(first, first + length):
                            digest = self.by_number[number].payload.digest
                            self.asked[digest] += 1
                            copies = (self.rng.random() >= self.lose) + (self.rng.random() < self.repeat)
                            self.events.extend([("payload", digest)] * copies)
                case Complete():
                    self.done = True

    def step(self) -> None:
        assert self.transfer.in_flight_bytes <= max(WINDOW, self.largest)
        if self.rng.random() < self.forget:
            self.subscribed.clear()
            self.events.clear()
            self.transfer.disconnected()
            self.now += self.rng.random() * 20
            self.carry_out(self.transfer.connected(session_present=False, now=self.now))
        elif self.events:
            if self.repeat:
                self.events.rotate(self.rng.randrange(len(self.events)))
            kind, what = self.events.popleft()
            self.now += 0.01
            if kind == "granted":
                self.carry_out(self.transfer.granted(what, now=self.now))  # type: ignore[arg-type]
            elif what in self.subscribed and self.transfer.piece(what) is not None:  # type: ignore[arg-type]
                self.taken.append(what)  # type: ignore[arg-type]
                self.carry_out(self.transfer.took(what, now=self.now))  # type: ignore[arg-type]
        else:
            self.now += 1.0
            self.carry_out(self.transfer.tick(self.now))


@pytest.mark.parametrize("seed", range(200))
def test_every_transfer_ends_and_takes_each_piece_once(seed: int) -> None:
    rng = Random(seed)
    wanted = plan(rng.randint(1, 60), rng.choice([1, 100_000, 122_880]))
    world = World(seed, wanted, lose=rng.choice([0, 0.1, 0.5]), repeat=rng.choice([0, 0.3]), forget=rng.choice([0, 0.02]))

    for _ in range(200_000):
        if world.done:
            break
        world.step()

    assert world.done, f"seed {seed}: {len(world.taken)} of {len(wanted)} taken"
    assert sorted(world.taken) == sorted(piece.payload.digest for piece in wanted), f"seed {seed}"


def test_on_a_perfect_road_each_piece_is_asked_for_once_and_nothing_again() -> None:
    world = World(7, plan(300), lose=0, repeat=0, forget=0)

    while not world.done:
        world.step()

    assert set(world.asked.values()) == {1}
    assert world.again == 0
    assert world.subscribed == set()


@pytest.mark.parametrize("seed", range(5))
def test_few_subscriptions_are_enough_where_a_broker_allows_few(seed: int) -> None:
    world = World(seed, plan(200, 1000), lose=0.1, repeat=0, forget=0.01)
    world.transfer.pieces_max = 20
    most = 0
    while not world.done:
        world.step()
        most = max(most, len(world.subscribed))

    assert 20 <= most <= 30


def test_what_was_taken_is_not_asked_for_after_the_broker_forgot_everything() -> None:
    world = World(3, plan(40), lose=0, repeat=0, forget=0)
    while len(world.taken) < 20:
        world.step()
    before = dict(world.asked)
    taken = set(world.taken)

    world.subscribed.clear()
    world.events.clear()
    world.transfer.disconnected()
    world.carry_out(world.transfer.connected(session_present=False, now=world.now))
    while not world.done:
        world.step()

    assert all(world.asked[digest] == before[digest] for digest in taken)


def test_subscriptions_that_a_broker_lost_in_silence_are_all_repeated_at_once() -> None:
    """A cluster of brokers that took over a session without all of it: one quiet time heals it, not one for each block."""
    world = World(5, plan(40), lose=0, repeat=0, forget=0)
    while len(world.taken) < 20:
        world.step()
    world.subscribed.clear()
    world.events.clear()
    awaited, quiet = len(world.transfer.asked), world.transfer.quiet_seconds
    lost_at = world.now
    assert awaited > 2

    while not world.done:
        world.step()

    assert world.again == 1
    assert world.now - lost_at < 2 * quiet


def test_a_damaged_payload_is_asked_for_again() -> None:
    (piece,) = plan(1)
    transfer, _ = Transfer.start([piece], window_bytes=WINDOW, filters_per_subscribe=8, rng=Random(0), now=0.0, online=True)
    transfer.granted([piece.payload.digest], now=0.0)

    commands = transfer.rejected(piece.payload.digest, now=1.0)

    assert commands == [Ask(((0, 1),), again=True, choice=0)]  # type: ignore[arg-type,comparison-overlap]


def test_a_want_is_sent_only_when_the_broker_has_granted_the_subscription() -> None:
    wanted = plan(2)

    transfer, commands = Transfer.start(wanted, window_bytes=WINDOW, filters_per_subscribe=8, rng=Random(0), now=0.0, online=True)
    granted = transfer.granted([piece.payload.digest for piece in wanted], now=0.1)

    assert [type(command) for command in commands] == [Subscribe]
    assert granted == [Ask(((0, 2),), again=False, choice=0)]  # type: ignore[arg-type,comparison-overlap]


def test_a_cancelled_transfer_leaves_every_topic() -> None:
    wanted = plan(5)
    transfer, _ = Transfer.start(wanted, window_bytes=WINDOW, filters_per_subscribe=8, rng=Random(0), now=0.0, online=True)

    left = {digest for command in transfer.cancel() if isinstance(command, Unsubscribe) for digest in command.digests}

    assert left == {piece.payload.digest for piece in wanted[:2]}  # what it had subscribed to
    assert transfer.tick(1000.0) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_a_block_that_stands_in_many_places_is_one_piece(numbers: list[int]) -> None:
    found = pieces([[block(number) for number in numbers]], ("raw",))

    assert len(found) == len(set(numbers))
    places = {place for piece in found for place in piece.places}
    assert places == {Place(0, 100_000 * at) for at in range(len(numbers))}


def test_the_cheapest_encoding_that_the_node_can_decode_is_chosen() -> None:
    small = Payload("zstd", sha256(b"z"), 10)
    smaller = Payload("planes", sha256(b"p"), 5)
    one = Block(sha256(b"raw"), 100, (small, smaller))

    assert pieces([[one]], ("raw", "zstd"))[0].payload == small
    assert pieces([[one]], ("raw",))[0].payload == Payload("raw", one.digest, 100)


def test_what_never_comes_is_told_once_and_still_asked_for() -> None:
    wanted = plan(3)
    transfer, _ = Transfer.start(wanted, window_bytes=WINDOW, filters_per_subscribe=8, rng=Random(0), now=0.0, online=True)
    transfer.granted([piece.payload.digest for piece in wanted[:2]], now=0.0)
    told = asked = 0
    for step in range(0, 10 * 3600, 5):
        commands = transfer.tick(float(step))
        told += sum(isinstance(command, GaveUp) for command in commands)
        asked += any(isinstance(command, Ask) for command in commands)
        assert told == 0 or step >= GIVE_UP_SECONDS

    assert told == 1
    assert 60 < asked < 200  # every five minutes, after the first
    transfer.took(wanted[0].payload.digest, now=36_000.0)
    assert not transfer.gave_up


def test_what_is_allowed_is_never_exceeded_and_nothing_paused_is_asked_for() -> None:
    wanted = plan(20)
    transfer, _ = Transfer.start(wanted, window_bytes=WINDOW, filters_per_subscribe=8, rng=Random(0), now=0.0, online=False)
    assert transfer.allow(0, now=0.0) == []
    assert transfer.connected(session_present=True, now=0.0) == []
    now = 0.0
    for allowed in (250_000, 100_000, 0, 350_000):
        now += 0.1
        transfer.allow(allowed, now=now)
        before = transfer.in_flight_bytes
        for digest in list(transfer.asked)[:1]:
            transfer.took(digest, now=now)
        assert transfer.in_flight_bytes <= max(allowed, before)
    assert transfer.missing_bytes == sum(piece.payload.bytes for piece in transfer.missing)


def test_a_transfer_that_has_to_wait_leaves_the_topics_of_what_has_come() -> None:
    """A copy that is published for another node would cost a parked one bytes of its budget."""
    transfer, commands = Transfer.start(plan(6), window_bytes=WINDOW, filters_per_subscribe=FILTERS, rng=Random(0), now=0.0, online=True)
    subscribed = {digest for one in commands if isinstance(one, Subscribe) for digest in one.digests}
    transfer.granted(tuple(subscribed), now=0.0)
    for digest in sorted(subscribed):
        transfer.allow(0, now=1.0)
        transfer.took(digest, now=1.0)

    left = [digest for one in transfer.allow(0, now=1.0) if isinstance(one, Unsubscribe) for digest in one.digests]

    assert set(left) == subscribed
    assert any(isinstance(one, Subscribe) for one in transfer.allow(WINDOW, now=2.0)), "it goes on when it may"

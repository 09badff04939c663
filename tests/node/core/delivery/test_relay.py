"""A relay fetches every payload once, whoever wants it and however often, and never more than it may have on its way."""

from collections import Counter
from random import Random

import pytest

from fleetcast.block_server import BlockServer, Send
from node.core.delivery.relay import AskUp, Relaying, Source
from node.core.delivery.transfer import Piece, Subscribe
from schemas.manifest import Block, Payload
from schemas.names import sha256

SIZE, WINDOW = 50_000, 200_000


def piece(number: int, content: int | None = None) -> Piece:
    digest = sha256(b"%d" % (number if content is None else content))
    return Piece(number, Payload("raw", digest, SIZE), Block(digest, SIZE), ())


def source(name: str) -> Source:
    return Source(sha256(name.encode()), "v", index=False)


class Site:
    """A relay with a disk that forgets nothing, and an uplink that answers when it is told to."""

    def __init__(self) -> None:
        self.disk: set[bytes] = set()
        server = BlockServer(cache_bytes_max=10 * SIZE, expiry_seconds=600, linger_seconds=0.0)
        self.relay = Relaying(server, self.disk.__contains__, WINDOW, 8, Random(0), online=True)
        self.asked: Counter[tuple[Source, int]] = Counter()
        self.road: list[bytes] = []
        self.served: Counter[bytes] = Counter()
        self.now = 0.0

    def carry_out(self, acts: list[object]) -> None:
        for act in acts:
            if isinstance(act, Subscribe):
                self.road += act.digests
                self.carry_out(list(self.relay.granted(self.relay.coming[act.digests[0]], act.digests, now=self.now)))
            elif isinstance(act, AskUp):
                for first, length in act.ask.ranges:
                    self.asked.update((act.source, number) for number in range(first, first + length))

    def turn(self) -> None:
        self.now += 0.1
        self.carry_out(list(self.relay.tick(allowed_bytes=WINDOW, now=self.now)))
        assert sum(transfer.in_flight_bytes for transfer in self.relay.transfers.values()) <= WINDOW
        road, self.road = self.road, []
        for digest in road:
            found = self.relay.piece(digest)
            if found is not None:
                self.disk.add(digest)
                self.carry_out(list(self.relay.took(found.payload, now=self.now)))
        for command in self.relay.server.due(self.now, room=100):
            if isinstance(command, Send):
                self.served[command.digest] += 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_nodes_want_each_payload_crosses_the_uplink_once(seed: int) -> None:
    rng, site = Random(seed), Site()
    wanted: set[bytes] = set()
    for _ in range(60):
        if rng.random() < 0.5:
            chosen = [piece(number, number % 30) for number in sorted(rng.sample(range(40), rng.randint(1, 10)))]  # some content twice
            wanted |= {one.payload.digest for one in chosen}
            site.carry_out(list(site.relay.wanted(source(rng.choice("ab")), chosen, again=False, now=site.now)))
        site.turn()
    for _ in range(200):
        site.turn()

    assert site.disk == wanted, f"seed {seed}"
    assert set(site.asked.values()) == {1}, f"seed {seed}"
    assert sum(site.asked.values()) == len(wanted), f"seed {seed}"
    assert site.served.keys() == wanted, f"seed {seed}"
    assert not site.relay.coming, f"seed {seed}"
    assert not site.relay.transfers, f"seed {seed}"


def test_what_is_on_disk_is_served_without_the_road() -> None:
    site = Site()
    site.disk.update(piece(number).payload.digest for number in range(3))
    site.relay.disconnected()

    acts = site.relay.wanted(source("a"), [piece(number) for number in range(3)], again=False, now=0.0)
    site.turn()

    assert acts == []
    assert set(site.served.values()) == {1}
    assert not site.asked


def test_what_was_wanted_while_the_road_was_closed_is_asked_for_when_it_opens() -> None:
    site = Site()
    site.relay.disconnected()
    assert site.relay.wanted(source("a"), [piece(1)], again=False, now=0.0) == []

    site.carry_out(list(site.relay.connected(session_present=False, now=1.0)))
    site.turn()

    assert site.disk == {piece(1).payload.digest}

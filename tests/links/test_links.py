"""Transfers over roads that are slow, late, torn and silent, to a real broker: each ends, and little comes twice."""

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from bench.roads import Road, Weather
from node.broker.mqtt import TrustArrived
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.topics import Topics
from tests.behind_roads import behind
from tests.broker.client import Client
from tests.brokers import FLEET, Broker
from tests.node.agent.hubs import BLOCK, Hub, Node, release, serving, target
from tools.examples import EXAMPLES

WINDOW = 400_000  # of the nodes in these tests, at the most
TRUST = next(one for one in EXAMPLES if isinstance(one, TrustBundle))


@pytest.fixture
def roads() -> Iterator[list[Road]]:
    made: list[Road] = []
    yield made
    for road in made:
        road.close()


def test_a_road_with_long_delay_and_little_room_wastes_nothing(mosquitto: Broker, tmp_path: Path, roads: list[Road]) -> None:
    data = Random(1).randbytes(6 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=60_000, latency=1.0))
    with serving(Hub(mosquitto, manifest, payloads)) as hub:
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert set(hub.published.values()) == {1}
        assert node.store.usage_of(target(manifest).digest).wasted == 0
        assert road.road.down_bytes < 1.03 * len(data)
        node.die()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_road_that_is_torn_again_and_again_costs_at_most_a_window_a_cut(
    mosquitto: Broker, tmp_path: Path, roads: list[Road], seed: int
) -> None:
    data = Random(seed).randbytes(40 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=600_000, latency=0.02, reset_every=1.0, stall_every=1.5, stall=0.3), seed)
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        node.until(lambda: node.ended, seconds=200)

        assert node.file(manifest) == data
        ledger = node.store.usage_of(target(manifest).digest)
        assert ledger.received == len(data)
        assert road.road.cuts > 0, f"seed {seed}: nothing was torn"
        assert ledger.wasted <= road.road.cuts * WINDOW + 0.03 * len(data)
        assert road.road.down_bytes <= 1.03 * len(data) + road.road.cuts * (WINDOW + 20_000)  # and a TLS handshake
        node.die()


def test_a_road_that_falls_silent_and_comes_back_goes_on(mosquitto: Broker, tmp_path: Path, roads: list[Road]) -> None:
    data = Random(4).randbytes(20 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=300_000))
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        node.until(lambda: node.store.usage_of(target(manifest).digest).received >= 4 * BLOCK)
        road.road.fall_silent()
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            node.turn()
        before = node.store.usage_of(target(manifest).digest).received
        road.road.fall_silent(False)
        node.until(lambda: node.ended)

        assert before < len(data)
        assert node.file(manifest) == data
        node.die()


def test_what_the_hub_says_is_not_starved_by_blocks(mosquitto: Broker, tmp_path: Path, roads: list[Road]) -> None:
    data = Random(5).randbytes(30 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=150_000))
    with serving(Hub(mosquitto, manifest, payloads)) as hub:
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.until(lambda: node.connected)
        node.link.subscribe_trust(only_if_new=False)
        node.fetch(manifest)
        received = lambda: node.store.usage_of(target(manifest).digest).received  # noqa: E731
        node.until(lambda: received() >= 8 * BLOCK)
        assert hub.client is not None
        before = received()
        hub.client.link.publish(Topics(FLEET).trust, codec.encode(TRUST))
        node.until(lambda: any(isinstance(event, TrustArrived) for event in node.heard))

        assert not node.ended
        assert received() - before <= WINDOW + 2 * BLOCK  # what had been asked for, and what came while we looked
        node.die()


def test_a_broker_that_accepts_late_is_waited_for(mosquitto: Broker, roads: list[Road]) -> None:
    road = behind(mosquitto, roads, Weather(latency=1.5))
    client = Client.of(road, "node-a")  # type: ignore[arg-type]
    client.open()  # TLS alone takes three journeys

    assert road.road.cuts == 0
    client.link.close()

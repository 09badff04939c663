"""Fleets in virtual time: whatever brokers and roads do, every transfer ends, within its window, and little is sent twice."""

from collections import Counter
from random import Random

import pytest

from node.core.delivery.transfer import Piece, pieces
from schemas.manifest import Block
from schemas.names import sha256
from simulation.core.transfers import Fleet, Road

SIZE = 100_000


def plan(count: int, size: int = SIZE) -> tuple[Piece, ...]:
    return pieces([[Block(sha256(b"block %d" % number), size) for number in range(count)]], ("raw",))


def run(fleet: Fleet, seconds_max: float = 1e6) -> Fleet:
    fleet.run(seconds_max=seconds_max)
    assert fleet.done, f"seed {fleet.seed}: {sum(node.done_at is None for node in fleet.nodes)} transfers have not ended"
    return fleet


@pytest.mark.parametrize("seed", range(30))
def test_every_transfer_ends_within_its_window_whatever_the_road_does(seed: int) -> None:
    rng = Random(seed)
    wanted = plan(rng.randint(1, 40))
    window = rng.choice([2 * SIZE, 1_000_000])
    roads = [
        Road(
            bytes_per_second=10 ** rng.uniform(3.5, 7),
            latency_seconds=10 ** rng.uniform(-2.5, 0.3),
            lose=rng.choice([0.0, 0.02, 0.1]),
            repeat=rng.choice([0.0, 0.05]),
            reorder_seconds=rng.choice([0.0, 0.5]),
            drop=rng.choice([0.0, 0.02]),
            forget=rng.choice([0.0, 0.01]),
        )
        for _ in range(rng.randint(1, 6))
    ]
    fleet = run(Fleet(seed, wanted, roads, window_bytes=window, damage=lambda rng: rng.random() < 0.01))

    for node in fleet.nodes:
        assert Counter(node.taken) == Counter(piece.payload.digest for piece in wanted), f"seed {seed}"
        assert node.window_bytes_seen <= max(window, 2 * 120 * 1024), f"seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_slow_and_late_roads_that_lose_nothing_carry_nothing_twice(seed: int) -> None:
    wanted = plan(20, 16_384)
    road = Road(bytes_per_second=2_500, latency_seconds=2.0)

    fleet = run(Fleet(seed, wanted, [road], window_bytes=8_000_000))

    node = fleet.nodes[0]
    assert node.carried_bytes == 20 * 16_384, f"seed {seed}"
    assert node.asked_again == 0, f"seed {seed}"
    assert node.done_at is not None
    assert node.done_at < 1.35 * 20 * 16_384 / 2_500, f"seed {seed}: the road stood empty"


@pytest.mark.parametrize("seed", range(5))
def test_a_wave_within_a_minute_costs_a_publish_a_block(seed: int) -> None:
    rng = Random(seed)
    roads = [Road(bytes_per_second=10 ** rng.uniform(5, 7)) for _ in range(100)]

    fleet = run(Fleet(seed, plan(30), roads, window_bytes=1_000_000))

    assert sum(fleet.published.values()) <= 1.05 * 30, f"seed {seed}: {sum(fleet.published.values()) / 30}"


@pytest.mark.parametrize("seed", range(5))
def test_torn_connections_cost_at_most_their_windows_and_three_in_a_hundred(seed: int) -> None:
    wanted = plan(60)
    roads = [Road(bytes_per_second=200_000, latency_seconds=0.1, drop=0.03) for _ in range(5)]

    fleet = run(Fleet(seed, wanted, roads, window_bytes=1_000_000))

    for node in fleet.nodes:
        wasted = node.carried_bytes - 60 * SIZE
        assert wasted <= 0.03 * 60 * SIZE + node.drops * 1_000_000, f"seed {seed}"


def test_a_thousand_nodes_end_about_when_their_roads_allow() -> None:
    wanted = plan(10)
    rng = Random(0)
    roads = [Road(bytes_per_second=10 ** rng.uniform(4, 6), latency_seconds=0.1) for _ in range(1000)]

    fleet = run(Fleet(0, wanted, roads, window_bytes=1_000_000))

    assert sum(fleet.published.values()) <= 1.05 * 10
    late = [
        node.done_at / (10 * SIZE / node.road.bytes_per_second) for node in fleet.nodes if node.done_at and node.road.bytes_per_second < 1e5
    ]
    assert sorted(late)[len(late) // 2] < 1.1


def test_a_broker_that_forgets_everything_in_the_midst_of_a_wave_is_whole_again() -> None:
    fleet = run(Fleet(3, plan(30), [Road(bytes_per_second=300_000)] * 20, window_bytes=1_000_000, forget_broker_at=(3.0, 6.0)))

    assert all(len(node.taken) == 30 for node in fleet.nodes)

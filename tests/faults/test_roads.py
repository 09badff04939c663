"""Roads that break under a real transfer from a real mosquitto: outages, half-open connections, a broker that is swapped, a stop."""

import contextlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.neural_network import MLPRegressor

from bench.roads import Road, Weather
from node.core.delivery.transfer import pieces
from schemas.manifest import Block
from schemas.names import sha256
from simulation.core import transfers as simulated
from tests.behind_roads import behind
from tests.brokers import Broker
from tests.e2e.test_path import Plant, until
from tests.node.agent.hubs import BLOCK, Hub, Node, release, serving, target

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
RATE_64_KBIT = 8_000.0  # bytes a second
WINDOW = 400_000

Count = Callable[[int, int], None]


@pytest.fixture
def roads() -> Iterator[list[Road]]:
    made: list[Road] = []
    yield made
    for road in made:
        road.close()


def received(node: Node, manifest: object) -> int:
    return node.store.usage_of(target(manifest).digest).received  # type: ignore[arg-type]


def wait(node: Node, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        node.turn()


def test_an_outage_of_90_seconds_at_64_kbit_costs_no_block_twice(
    mosquitto: Broker, tmp_path: Path, roads: list[Road], count: Count
) -> None:
    """In real time, and with a tenth of what is sent held up, as it is where packets are lost and sent again."""
    data = Random(1).randbytes(8 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=RATE_64_KBIT, latency=0.3, stall_every=5.0, stall=0.5))
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        node.until(lambda: received(node, manifest) >= 2 * BLOCK)
        road.road.fall_silent()
        wait(node, 90.0)
        road.road.fall_silent(False)
        node.until(lambda: node.ended, seconds=400)

        assert node.file(manifest) == data
        assert received(node, manifest) == len(data)
        assert road.road.down_bytes <= 1.1 * len(data) + WINDOW
        node.die()
    count(1, 0)


@pytest.mark.parametrize("seed", range(60))
def test_outages_with_repeated_and_late_packets_cost_at_most_their_share(seed: int, count: Count) -> None:
    """64 kbit/s, 10 % repeated, 10 % lost, up to 30 s late, an outage of 90 s in each ten minutes, in virtual time."""
    blocks = [Block(sha256(b"block %d" % number), BLOCK) for number in range(30)]
    road = simulated.Road(
        bytes_per_second=RATE_64_KBIT, latency_seconds=0.5, lose=0.1, repeat=0.1, reorder_seconds=30.0, drop=1 / 600, forget=1 / 3000
    )
    fleet = simulated.Fleet(seed, pieces([blocks], ("raw",)), [road, road], window_bytes=WINDOW)
    outage(fleet, every_seconds=600.0, seconds=90.0)

    fleet.run(seconds_max=24 * 3600)

    assert fleet.done, f"seed {seed}: not done after a day"
    for node in fleet.nodes:
        assert set(node.taken) == {block.digest for block in blocks}, f"seed {seed}: a block is missing"
        carried = len(blocks) * BLOCK
        assert node.carried_bytes <= 2.5 * carried + (node.drops + 1) * WINDOW, f"seed {seed}: {node.carried_bytes} bytes for {carried}"
    count(1, 0)


def outage(fleet: simulated.Fleet, *, every_seconds: float, seconds: float) -> None:
    """Have nothing get through for a while, again and again, as where a modem has no reception."""

    def begin() -> None:
        for node in fleet.nodes:
            node.free_at = max(node.free_at, fleet.now) + seconds
        fleet._at(fleet.now + every_seconds, begin)

    fleet._at(every_seconds, begin)


def test_a_connection_that_is_half_open_is_given_up_and_the_transfer_goes_on(
    mosquitto: Broker, tmp_path: Path, roads: list[Road], count: Count
) -> None:
    """The broker has ended it, and the node is not told: no FIN, no reset, and what it sends goes nowhere."""
    data = Random(2).randbytes(12 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=200_000))
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        node.until(lambda: received(node, manifest) >= 3 * BLOCK)
        with road.road._lock:
            pairs = list(road.road._pairs)
        road.road.fall_silent()
        for _, far in pairs:
            far.close()  # The broker sees the end; the node's side stays open.
        wait(node, 3.0)
        road.road._pairs.clear()
        for near, _ in pairs:
            near.close()
        road.road.fall_silent(False)
        node.until(lambda: node.ended, seconds=300)

        assert node.file(manifest) == data
        assert received(node, manifest) == len(data)
        node.die()
    count(1, 0)


@pytest.mark.parametrize("times", [1, 4])
def test_a_broker_that_is_swapped_in_mid_transfer_costs_a_window(
    mosquitto: Broker, tmp_path: Path, roads: list[Road], times: int, count: Count
) -> None:
    """Another broker answers at the same address, which knows no session and has retained nothing."""
    data = Random(3).randbytes(20 * BLOCK)
    manifest, payloads = release(data)
    road = behind(mosquitto, roads, Weather(rate=300_000))
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(road, tmp_path)  # type: ignore[arg-type]
        node.fetch(manifest)
        for number in range(times):
            node.until(lambda number=number: received(node, manifest) >= (number + 1) * 3 * BLOCK)  # type: ignore[misc]
            mosquitto.restart()
        node.until(lambda: node.ended, seconds=300)

        assert node.file(manifest) == data
        usage = node.store.usage_of(target(manifest).digest)
        assert usage.received == len(data)
        assert usage.wasted <= times * WINDOW
        node.die()
    count(times, 0)


def test_a_node_stopped_in_mid_fetch_ends_within_10_s_and_goes_on_with_what_it_has(
    mosquitto: Broker, tmp_path: Path, roads: list[Road], count: Count
) -> None:
    inputs, target = load_diabetes(return_X_y=True)
    with warnings.catch_warnings(action="ignore"):  # that it has not converged
        model = MLPRegressor(hidden_layer_sizes=(300, 300), max_iter=1, random_state=1).fit(inputs, target)
    (tmp_path / "large.onnx").write_bytes(to_onnx(model, inputs[:1].astype(np.float32)).SerializeToString())
    plant = Plant(tmp_path, mosquitto, cohort_nodes_min=1)
    try:
        plant.start()
        passphrase = ["--passphrase-file", str(tmp_path / "secret")]
        plant.cli("publish", str(tmp_path / "large.onnx"), "--name", "diabetes", "--version", "1.0.0", *passphrase)
        plant.cli("rollout", "start", "diabetes@1.0.0", "--force")
        road = behind(mosquitto, roads, Weather(rate=RATE_64_KBIT))
        plant.broker = road  # type: ignore[assignment]
        payload = (tmp_path / "large.onnx").stat().st_size  # weights do not compress
        stops = 3
        for stop in range(1, stops + 1):
            plant.start_node("node-a")
            until("a part of the release", lambda stop=stop: road.road.down_bytes > payload * stop / (stops + 2))  # type: ignore[misc]
            process, _ = plant.nodes["node-a"]
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert time.monotonic() - began < 10
        plant.start_node("node-a")

        def serves() -> bool:
            with contextlib.suppress(httpx.TransportError, AssertionError):
                return bool(plant.infer("node-a", inputs[:3].astype(np.float32))["model_version"] == "1.0.0")
            return False

        until("the release", serves, seconds=300)
        assert plant.cli("ledger", "diabetes@1.0.0")["nodes"][0]["received"] <= payload + stops * WINDOW
        count(stops, 0)
    finally:
        plant.stop()

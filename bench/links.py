"""Transfers over bad links, by the real programs over mosquitto: that each ends, and its bytes over those on a good link."""

import contextlib
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.coalescing import publish
from bench.delivery import BIN, MOSQUITTO, _answers, _Fleet, _wait
from bench.figures import Figure
from bench.roads import Road, Weather
from node.core.delivery.transfer import GROW_SECONDS, WINDOW_PIECES_MIN

KIB = 1024
TIMEOUT_SECONDS = 600
GOOD = Weather()


@dataclass(frozen=True, slots=True)
class Link:
    """What is fetched over what; `meanwhile` is done once some of it has arrived."""

    name: str
    weather: Weather
    blocks: int
    block_bytes: int
    meanwhile: str = ""


LINKS = (
    Link("20kbit", Weather(rate=2_500, latency=2.0), 12, 16 * KIB),
    Link("1mbit-stalls", Weather(rate=125_000, latency=0.05, stall_every=5.0, stall=3.0, reset_every=8.0), 32, 120 * KIB),
    Link("30s-up-30s-down", Weather(rate=125_000, latency=0.05, up=30.0, down=30.0), 40, 120 * KIB),
    Link("broker-restart", Weather(rate=500_000, latency=0.02), 48, 120 * KIB, "broker"),
    Link("hub-restart", Weather(rate=500_000, latency=0.02), 48, 120 * KIB, "hub"),
)


def measure() -> list[Figure]:
    """Every link once; the ideal is the same release over a road without weather."""
    figures: list[Figure] = []
    for number, link in enumerate(LINKS):
        with _world() as world:
            publish(world.fleet, "1.0.0", blocks=link.blocks, block_bytes=link.block_bytes)
            world.fleet.cli("rollout", "start", "m@1.0.0", "--stages", "100")
            ideal = world.fetch(Road(world.fleet.port, GOOD), "ideal", lambda: None)
            road = Road(world.fleet.port, link.weather, seed=number)
            found = world.fetch(road, "node", lambda link=link, world=world: world.disturb(link.meanwhile))  # type: ignore[misc]
        cuts = found.cuts + (link.meanwhile == "broker")
        over = found.road_bytes - ideal.road_bytes
        window = max(WINDOW_PIECES_MIN * link.block_bytes, 2 * GROW_SECONDS * link.weather.rate)  # the most that a transfer asks for here
        beyond = max(0, over - cuts * window) / ideal.road_bytes
        figures += [
            Figure(
                f"delivery.waste_ratio.{link.name}",
                beyond,
                f"of the ideal, beyond {cuts} cuts of {window / KIB:.0f} KiB in flight",
                "<= 0.03",
                "all over the ideal",
                over / ideal.road_bytes,
            ),
            Figure(f"delivery.seconds.{link.name}", found.seconds, "s", "", "the road's own time, s", ideal.road_bytes / link.weather.rate),
        ]
    return figures


@dataclass(frozen=True, slots=True)
class _Fetched:
    road_bytes: int  # to the node
    seconds: float
    cuts: int
    wasted_bytes: int  # of payloads, by the node's ledger


@dataclass
class _World:
    folder: Path
    fleet: _Fleet
    broker: subprocess.Popen[bytes]
    conf: Path

    def fetch(self, road: Road, name: str, disturb: Callable[[], None]) -> _Fetched:
        directory = self.folder / name
        directory.mkdir()
        (directory / "node.toml").write_text(
            f'id = "{name}"\nfleet = "bench"\nbroker = "mqtt://127.0.0.1:{road.port}"\ndata = "data"\n'
            'root = "../fleet/root.json"\nport = 0\n'
        )
        log = directory / "log"
        settings = ["--settings", str(directory / "node.toml")]
        with log.open("wb") as target:
            node = subprocess.Popen([str(BIN / "fleetcast-node"), "run", *settings], stderr=target)
        began = time.monotonic()
        try:
            _wait(lambda: b"fetch.planned" in log.read_bytes(), TIMEOUT_SECONDS)
            threading.Timer(2.0, disturb).start()
            _wait(lambda: b"fetch.completed" in log.read_bytes(), TIMEOUT_SECONDS)
            seconds, road_bytes, cuts = time.monotonic() - began, road.down_bytes, road.cuts
        finally:
            road.close()
            node.terminate()
            node.wait(20)
        said = subprocess.run(
            [str(BIN / "fleetcast-node"), "ledger", "--json", *settings], check=True, capture_output=True, text=True
        ).stdout
        wasted = sum(row["wasted"] for row in json.loads(said)["releases"])
        shutil.rmtree(directory)
        return _Fetched(road_bytes, seconds, cuts, wasted)

    def disturb(self, what: str) -> None:
        if what == "hub":
            self.fleet.stop()
            time.sleep(2.0)
            self.fleet.run_hub()
        elif what == "broker":
            self.broker.kill()
            self.broker.wait()
            time.sleep(1.0)
            self.broker = _start(self.conf, self.fleet.port)


@contextlib.contextmanager
def _world() -> Iterator[_World]:
    import socket

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        conf = folder / "mosquitto.conf"
        conf.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 65000\nmax_inflight_messages 64\n"
        )
        fleet = _Fleet(folder, port)
        world = _World(folder, fleet, _start(conf, port), conf)
        fleet.begin()
        try:
            yield world
        finally:
            fleet.stop()
            world.broker.terminate()
            world.broker.wait(10)


def _start(conf: Path, port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([MOSQUITTO, "-c", str(conf)], stderr=subprocess.DEVNULL)
    _wait(lambda: _answers(port), 10)
    return process

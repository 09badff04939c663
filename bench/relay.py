"""What a site of many nodes behind a relay costs its uplink, beside what one node costs that fetches for itself."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.coalescing import publish
from bench.delivery import BIN, _CountingRoad, _Fleet, _mosquitto, _wait
from bench.figures import Figure
from bench.light import Errand, fetch

NODES = (1, 10, 50)
BLOCKS, BLOCK_BYTES = 40, 120 * 1024


def measure() -> list[Figure]:
    """Bytes of both directions on the uplink, for the same release; each site begins with an empty disk."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name, _mosquitto(Path(name)) as port:
        fleet = _Fleet(Path(name), port)
        fleet.begin()
        errand = publish(fleet, "1.0.0", blocks=BLOCKS, block_bytes=BLOCK_BYTES)
        fleet.cli("rollout", "start", "m@1.0.0", "--stages", "100")
        time.sleep(2.0)  # the relay reads which models have rollouts
        direct = _direct(errand, port)
        for nodes in NODES:
            with tempfile.TemporaryDirectory() as site:
                crossed = _behind_a_relay(errand, port, Path(site), nodes)
            figures.append(
                Figure(
                    f"relay.wan_ratio.{nodes}",
                    crossed / direct,
                    f"of one node's bytes, {nodes} nodes",
                    "<= 1.02",
                    "one node, bytes",
                    direct,
                )
            )
        fleet.stop()
    return figures


def _direct(errand: Errand, port: int) -> int:
    road = _CountingRoad(port)
    fetch(replace(errand, port=road.port), 1)
    return road.bytes


def _behind_a_relay(errand: Errand, port: int, folder: Path, nodes: int) -> int:
    road = _CountingRoad(port)
    with _mosquitto(folder) as site, _relay(folder, road.port, site):
        fetch(replace(errand, port=site), nodes)
        return road.bytes


@contextlib.contextmanager
def _relay(folder: Path, up: int, site: int) -> Iterator[None]:
    (folder / "relay.toml").write_text(
        'id = "site-7"\nfleet = "bench"\ndata = "relay"\n'
        f'[upstream]\nbroker = "mqtt://127.0.0.1:{up}"\n[site]\nbroker = "mqtt://127.0.0.1:{site}"\n'
    )
    log = folder / "relay.log"
    with log.open("wb") as target:
        process = subprocess.Popen([str(BIN / "fleetcast-node"), "relay", "--settings", str(folder / "relay.toml")], stderr=target)
    try:
        _wait(lambda: log.read_bytes().count(b"broker.connected") == 2, 30)
        time.sleep(1.0)
        yield
    finally:
        process.terminate()
        process.wait(20)

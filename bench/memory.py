"""How much memory a node takes while it fetches a file of 500 MB, over what it takes when it idles; and the publisher while it cuts it."""

import contextlib
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.delivery import BIN, MOSQUITTO, _Fleet, _mosquitto, _wait
from bench.figures import Figure

FILE_BYTES = 500_000_000
IDLE_SECONDS = 5.0
LOOK_SECONDS = 0.01


def measure() -> list[Figure]:
    """One run: the real programs over mosquitto; the kernel's own counts of each process."""
    if not Path(MOSQUITTO).exists():
        raise SystemExit("bench memory needs mosquitto: apt-get install mosquitto")
    with tempfile.TemporaryDirectory() as name, _mosquitto(Path(name)) as port:
        folder = Path(name)
        fleet = _Fleet(folder, port)
        fleet.begin()
        _file(folder / "large.bin")
        small, large = _publish(fleet, "small.bin", "0.1.0"), _publish(fleet, "large.bin", "1.0.0")
        idle, peak, seconds = _fetch(fleet)
        fleet.stop()
    return [
        Figure("delivery.node_rss_mib.500mb", (peak - idle) / 2**20, "MiB over idle", "<= 32", "idle node, MiB", idle / 2**20),
        Figure("delivery.node_seconds.500mb", seconds, "s, verified and synced", "", "", None),
        Figure("delivery.publish_rss_mib.500mb", (large - small) / 2**20, "MiB of its own over publishing 1 KB", "", "", None),
    ]


def _file(path: Path) -> None:
    rng = np.random.default_rng(0)
    with path.open("wb") as target:
        for _ in range(FILE_BYTES // 10_000_000):
            target.write(rng.bytes(10_000_000))
    path.with_name("small.bin").write_bytes(rng.bytes(1000))


def _publish(fleet: _Fleet, name: str, version: str) -> int:
    """The most memory of its own that `fleetcast publish` holds, in bytes; pages of files that it maps are the kernel's to take back."""
    command = [str(BIN / "fleetcast"), "publish", str(fleet.folder / name), "--name", "m", "--version", version, *fleet.secret]
    publishing, most = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=fleet.environment), 0
    while publishing.poll() is None:
        with contextlib.suppress(OSError, AssertionError):  # it has just ended
            most = max(most, _resident(publishing.pid, "RssAnon"))
        time.sleep(LOOK_SECONDS)
    if publishing.returncode:
        raise SystemExit(f"fleetcast publish {name}: exit {publishing.returncode}")
    return most


def _fetch(fleet: _Fleet) -> tuple[int, int, float]:
    """A node's resident bytes when it idles, the most while it fetches, and the seconds that took."""
    directory = fleet.folder / "node"
    directory.mkdir()
    (directory / "node.toml").write_text(
        f'id = "node"\nfleet = "bench"\nbroker = "mqtt://127.0.0.1:{fleet.port}"\ndata = "data"\nroot = "../fleet/root.json"\nport = 0\n'
    )
    log = directory / "log"
    with log.open("wb") as target:
        node = subprocess.Popen([str(BIN / "fleetcast-node"), "run", "--settings", str(directory / "node.toml")], stderr=target)
    try:
        _wait(lambda: b"trust.accepted" in log.read_bytes(), 60)
        time.sleep(IDLE_SECONDS)
        idle = _resident(node.pid, "VmRSS")
        began = time.monotonic()
        fleet.cli("rollout", "start", "m@1.0.0", "--stages", "100")
        _wait(lambda: b"fetch.completed" in log.read_bytes(), 600)
        seconds = time.monotonic() - began
        peak = _resident(node.pid, "VmHWM")
    finally:
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(20)
    return idle, peak, seconds


def _resident(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024

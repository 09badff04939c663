"""What a year of history costs a hub of ten thousand nodes: a real hub over a seeded database, beside the same fleet after a day.

The hub's process is measured from outside: processor time and memory of its own, without the embedded broker's. No node is connected, so
that what is measured is what a hub does by itself.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure
from tools import seed_fleet
from tools.seed_fleet import Plan

NODES, DAYS = 10_000, 365
IDLE_SECONDS, CALM_SECONDS, RECONNECT_SECONDS, WAIT_SECONDS = 60.0, 15.0, 20.0, 600.0
RUNS = 5
BIN = Path(sys.executable).parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured on one fleet."""

    start_cpu_s: float
    idle_ratio: float
    reconnect_cpu_s: float
    rss_mib: float
    page_s: float


def measure() -> list[Figure]:
    """Seed both fleets, run a hub over each, restart its broker, and list a page of nodes."""
    with tempfile.TemporaryDirectory() as folder:
        base = _fleet(Path(folder))
        day, year = (_measured(base, Path(folder) / str(days), days) for days in (1, DAYS))
    peer = f"the same {NODES} nodes after a day"
    return [
        Figure("hub.start_cpu_s.year", year.start_cpu_s, "s of CPU until it serves", "<= 10", peer, day.start_cpu_s),
        Figure("hub.idle_cpu_ratio.year", year.idle_ratio, "of a core", "<= 0.02", peer, day.idle_ratio),
        Figure(
            "hub.reconnect_cpu_s.year",
            year.reconnect_cpu_s,
            "s of CPU above idle in 20 s after the broker was killed",
            "<= 2",
            peer,
            day.reconnect_cpu_s,
        ),
        Figure("hub.rss_mib.10000", year.rss_mib, "MiB", "", peer, day.rss_mib),
        Figure(
            "cli.nodes_page_s.10000", year.page_s, "s of CPU of `fleetcast nodes`, compiled, the least of five", "<= 0.5", peer, day.page_s
        ),
    ]


def _fleet(folder: Path) -> Path:
    """A fleet whose one release was published and rolled out, without a database."""
    fleet, secret = folder / "fleet", folder / "secret"
    secret.write_text("bench\n")
    secret.chmod(0o600)
    os.environ["FLEETCAST_PASSPHRASE_FILE"] = str(secret)
    subprocess.run([sys.executable, "-m", "tools.example", str(folder / "example")], check=True, stdout=subprocess.DEVNULL)
    _cli("init", str(fleet), "--fleet", "bench", "--model", "delay")
    example = folder / "example"
    published = ["publish", str(example / "model.onnx"), "--reference", str(example / "reference.parquet"), "--blocks", "day"]
    _cli(*published, "--name", "delay", "--version", "1.0.0", "--dir", str(fleet))
    with _hub(fleet):
        _cli("rollout", "start", "delay@1.0.0", "--dir", str(fleet))
    for file in fleet.glob("hub.sqlite*"):
        file.unlink()
    return fleet


def _measured(base: Path, folder: Path, days: int) -> Costs:
    subprocess.run(["cp", "-r", str(base), str(folder)], check=True)
    seed_fleet.seed(folder / "hub.sqlite", seed_fleet.released(folder), Plan(nodes=NODES, days=days))
    with _hub(folder) as hub:
        start = _cpu(hub.pid)
        time.sleep(CALM_SECONDS)
        idle = _spent(hub.pid, IDLE_SECONDS) / IDLE_SECONDS
        before = _cpu(hub.pid)
        broker = int(_ready(folder)["broker_pid"])
        os.kill(broker, signal.SIGKILL)
        _until(lambda: _ready(folder).get("broker_pid") not in {broker, None})
        time.sleep(RECONNECT_SECONDS)
        reconnect = _cpu(hub.pid) - before - idle * RECONNECT_SECONDS
        rss = _rss(hub.pid)
        page = min(_cli("nodes", "--dir", str(folder), compiled=folder.parent / "compiled") for _ in range(RUNS))
    (folder / "hub.sqlite").unlink()
    return Costs(start, idle, max(0.0, reconnect), rss, page)


@contextmanager
def _hub(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen([str(BIN / "fleetcast"), "hub", str(folder)], stdout=log, stderr=log)
    try:
        _until(lambda: (folder / "hub.ready").exists() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError((folder.parent / f"{folder.name}.log").read_text()[-2000:])
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)


def _ready(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "hub.ready").read_text())
    except (OSError, ValueError):
        return {}
    return found


def _cli(*arguments: str, compiled: Path | None = None) -> float:
    """Run a command; return its processor time. With a folder for compiled modules it finds them there, as installed programs do."""
    environment = dict(os.environ)
    if compiled is not None:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(compiled)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command, nowhere = [str(BIN / "fleetcast"), *arguments], subprocess.DEVNULL
    subprocess.run(command, check=True, env=environment, stdout=nowhere, stderr=nowhere)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _spent(pid: int, seconds: float) -> float:
    before = _cpu(pid)
    time.sleep(seconds)
    return _cpu(pid) - before


def _rss(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _until(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)

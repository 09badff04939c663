"""The real programs over mosquitto, killed by shim.c at changes of their files, with and without what they had not synced."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from tests.brokers import Broker
from tests.e2e.test_path import BIN, Plant, until
from tests.faults import shim
from tests.faults.disk import Disk, changes

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shim.compiler() is None, reason="no C compiler: `apt-get install gcc libc6-dev`"),
]
KILLS = (2, 9, 17, 30, 44, 61, 83, 110, 150, 210, 320)  # changes after a start, each with a jitter from the seed
SEED = int(os.environ.get("FAULTS_SEED", "1"))
DAY = 1_000_000_020  # of the rows that are asked with

Count = Callable[[int, int], None]


@pytest.fixture
def plant(mosquitto: Broker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path, mosquitto, cohort_nodes_min=1)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Struck:
    """Starts a program again and again, and has it killed at a change of its files."""

    def __init__(self, folder: Path, scratch: Path, count: Count) -> None:
        self.folder, self.scratch, self.count = folder, scratch, count
        self.rng = Random(SEED)

    def start(self, start: Callable[[], None], at: int) -> Callable[[], None]:
        """Start it; return what rebuilds the folder once it is dead, without what was not synced in every second case."""
        self.folder.mkdir(exist_ok=True)
        disk, journal = Disk(self.folder), self.scratch / "journal"
        journal.unlink(missing_ok=True)
        with environment(shim.environment(self.folder, journal=journal, at=at)):
            start()

        def rebuild() -> None:
            self.count(1, 0)
            if at % 2:
                disk.replay(changes(journal))
                disk.leave(self.folder, self.rng if self.rng.random() < 0.5 else None)

        return rebuild


def asked(plant: Plant, start: int) -> None:
    """Ask the node, if it can be asked."""
    rows = load_diabetes().data.astype(np.float32)[:50]
    with contextlib.suppress(httpx.TransportError, AssertionError):
        plant.infer("node-a", rows, event_time=start)


def counted(plant: Plant) -> tuple[int, int]:
    """Return how many windows the hub has seen, and how many its intervals count."""
    with contextlib.closing(sqlite3.connect(plant.fleet / "hub.sqlite")) as db:
        seen = db.execute("SELECT count(*) FROM windows_seen").fetchone()[0]
        return int(seen), int(db.execute("SELECT coalesce(sum(windows), 0) FROM merged_intervals").fetchone()[0])


def test_a_node_that_is_killed_at_its_writes_serves_and_loses_no_window(plant: Plant, tmp_path: Path, count: Count) -> None:
    plant.publish("1.0.0", 1.0)
    plant.cli("rollout", "start", "diabetes@1.0.0", "--force")
    (tmp_path / "node-a").mkdir(exist_ok=True)
    (tmp_path / "node-a").rmdir()
    plant.start_node("node-a")  # The first start makes its settings; the node is new in all that follows.
    plant.nodes["node-a"][0].kill()
    plant.nodes["node-a"][0].wait(100)
    struck = Struck(tmp_path / "node-a" / "data", tmp_path, count)
    for number, change in enumerate(KILLS):
        rebuild = struck.start(lambda: plant.start_node("node-a"), change + struck.rng.randrange(6))
        process = plant.nodes["node-a"][0]

        def ended(number: int = number, process: object = process) -> bool:
            asked(plant, DAY + 60 * number)
            return process.poll() is not None  # type: ignore[attr-defined]

        with contextlib.suppress(AssertionError):  # It may have no more changes to make: then it is killed at rest.
            until("the kill", ended, seconds=15)
        process.kill()
        process.wait(100)
        rebuild()

    plant.start_node("node-a")

    def serves() -> bool:
        rows = load_diabetes().data.astype(np.float32)[:3]
        with contextlib.suppress(httpx.TransportError, AssertionError):
            return bool(plant.infer("node-a", rows)["model_version"] == "1.0.0")
        return False

    until("the release", serves)
    plant.infer("node-a", load_diabetes().data.astype(np.float32)[:200], event_time=DAY + 86_400)
    rows = lambda: plant.node_cli("node-a", "telemetry", "show", "--json")  # noqa: E731
    until("all windows to be sent", lambda: rows() and all(row["sent"] for row in rows()))
    sent = len(rows())
    until("the hub to count them", lambda: counted(plant)[0] >= sent)
    seen, merged = counted(plant)
    assert seen == merged
    for day in plant.node_cli("node-a", "telemetry", "budget", "--json"):
        assert day["rho"] <= day["rho_day_max"] * (1 + 1e-9)


def test_a_hub_that_is_killed_at_its_writes_finishes_the_rollout(plant: Plant, tmp_path: Path, count: Count) -> None:
    plant.start_node("node-a")
    until("the node", lambda: len(plant.cli("nodes")) == 1)
    plant.publish("1.0.0", 1.0)
    hub, command = plant.processes[0], [str(BIN / "fleetcast"), "hub", str(plant.fleet)]
    command += ["--passphrase-file", str(tmp_path / "secret"), "--json-logs"]
    hub.kill()
    hub.wait(100)
    plant.cli("rollout", "start", "diabetes@1.0.0", "--force")
    struck = Struck(plant.fleet, tmp_path, count)
    for change in KILLS:
        made: list[object] = []
        rebuild = struck.start(lambda made=made: made.append(plant.run("hub", command)), change + struck.rng.randrange(6))  # type: ignore[misc]
        process = made[0]
        with contextlib.suppress(AssertionError):
            until("the kill", lambda process=process: process.poll() is not None, seconds=15)  # type: ignore[misc]
        process.kill()  # type: ignore[attr-defined]
        process.wait(100)  # type: ignore[attr-defined]
        rebuild()

    (plant.fleet / "hub.ready").unlink(missing_ok=True)
    plant.run("hub", command)
    until("the hub", (plant.fleet / "hub.ready").exists)

    rows = load_diabetes().data.astype(np.float32)

    def serves() -> bool:
        with contextlib.suppress(httpx.TransportError, AssertionError):
            return bool(plant.infer("node-a", rows[:3])["model_version"] == "1.0.0")
        return False

    until("the release", serves)
    plant.infer("node-a", rows[:200], event_time=DAY)
    until("the window", lambda: counted(plant)[0] >= 1)
    seen, merged = counted(plant)
    assert seen == merged
    assert [model["serving_version"] for node in plant.cli("nodes") for model in node["models"]] == ["1.0.0"]

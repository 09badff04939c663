"""A device whose database is damaged or whose disk is full, by the real commands: it serves what it has, says so, and recovers."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.brokers import Broker
from tests.e2e.test_device import device, status_when
from tests.e2e.test_path import Plant, until
from tests.small_disk import small_disk

pytestmark = pytest.mark.timeout(400)
ROW = np.zeros((1, 10), np.float32)
DISK_BYTES = 4 * 1024 * 1024


@pytest.fixture
def plant(mosquitto: Broker, tmp_path: Path) -> Iterator[Plant]:
    """A node on a small disk that serves 1.0.0, and has ended."""
    made = Plant(tmp_path, mosquitto, cohort_nodes_min=1, node_settings=("state_seconds = 1",))
    try:
        made.start()
        made.start_node("node-a")
        made.publish("1.0.0", 1.0)
        made.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
        made.infer("node-a", ROW)
        status_when(made, "serving", connected=True)
        yield made
    finally:
        made.stop()


@pytest.fixture
def full(tmp_path: Path, plant: Plant) -> Iterator[Path]:
    """The node's data on a disk of its own, which is filled to its last byte; the node has ended."""
    end(plant, signal.SIGKILL)
    data = tmp_path / "node-a" / "data"
    kept = data.rename(data.with_name("kept"))
    with small_disk(data, size_bytes=DISK_BYTES) as disk:
        if not os.path.ismount(disk):
            pytest.skip("needs a disk of its own: may not mount a tmpfs here")
        for path in kept.rglob("*"):
            copy = disk / path.relative_to(kept)
            if path.is_symlink():
                copy.symlink_to(path.readlink())
            elif path.is_dir():
                copy.mkdir()
            else:
                copy.write_bytes(path.read_bytes())
        fill(disk)
        try:
            yield disk
        finally:
            plant.stop()


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def end(plant: Plant, how: int) -> None:
    plant.nodes["node-a"][0].send_signal(how)
    plant.nodes["node-a"][0].wait(100)


def version_of(plant: Plant) -> str | None:
    with suppress(Exception):
        return str(plant.infer("node-a", ROW)["model_version"])
    return None


def known(plant: Plant) -> dict[str, Any]:
    return dict(plant.cli("nodes", "node-a"))


@pytest.mark.parametrize("how", ["overwritten", "truncated", "gone"])
def test_a_damaged_database_is_set_aside_and_the_node_serves_what_it_served(plant: Plant, how: str) -> None:
    before = known(plant)
    end(plant, signal.SIGTERM)
    store = plant.directory / "node-a" / "data" / "node.sqlite"
    if how == "gone":
        store.unlink()
    else:
        store.write_bytes(b"\xff" * 16 + store.read_bytes()[16:] if how == "overwritten" else store.read_bytes()[:5000])
    plant.publish("1.1.0", 2.0)

    plant.start_node("node-a")
    until("the release that was served", lambda: version_of(plant) == "1.0.0")

    after = until("the hub to hear of it", lambda: found if (found := known(plant))["session"] > before["session"] else None)
    assert after["models"][0]["serving_version"] == "1.0.0"
    assert store.with_name("node.sqlite.damaged").exists() == (how != "gone")
    status = status_when(plant, "serving", connected=True)
    assert (status["verdict"], status["models"][0]["serving"]) == ("serving", "1.0.0")
    assert status["telemetry"]["code"] == "ledger.rolled_back"  # what the lost ledger allowed is not spent twice
    assert status["telemetry"]["ledger_entries"] > 0
    codes = [finding["code"] for finding in device(plant, "doctor", code={0, 1})]
    assert ("store.set_aside" in codes) == (how != "gone")

    plant.cli("rollout", "start", "diabetes@1.1.0")  # what the lost store knew of releases is asked for again
    until("the next release", lambda: version_of(plant) == "1.1.0")


def test_on_a_full_disk_a_node_starts_serves_and_says_so_and_goes_on_with_room(plant: Plant, full: Path) -> None:
    plant.publish("1.1.0", 2.0)
    plant.start_node("node-a")

    until("the release that was served", lambda: version_of(plant) == "1.0.0")
    said = status_when(plant, "serving", connected=False)
    assert said["disk"]["read_only"]
    assert (said["verdict"], said["broker"]["connected"], said["models"][0]["serving"]) == ("serving", False, "1.0.0")
    assert said["agent"]["pid"] == plant.nodes["node-a"][0].pid
    codes = [finding["code"] for finding in device(plant, "doctor", code=2)]
    assert "disk.full" in codes
    assert "store.unreadable" not in codes

    (full / "filler").unlink()
    status_when(plant, "serving", connected=True)
    assert not device(plant, "status")["disk"]["read_only"]
    plant.cli("rollout", "start", "diabetes@1.1.0")
    until("the next release", lambda: version_of(plant) == "1.1.0")
    with closing(sqlite3.connect(full / "node.sqlite")) as db:
        assert "1.1.0" in db.execute("SELECT document FROM slot").fetchone()[0]


def test_a_fetch_that_met_a_full_disk_is_tried_again_once_there_is_room(plant: Plant, full: Path) -> None:
    (full / "filler").unlink()
    plant.start_node("node-a")
    status_when(plant, "serving", connected=True)
    fill(full)
    plant.publish("1.1.0", 2.0)
    plant.cli("rollout", "start", "diabetes@1.1.0")
    until("the full disk in the status", lambda: "disk.full" in device(plant, "status", code={0, 12})["agent"]["error"])
    assert plant.infer("node-a", ROW)["model_version"] == "1.0.0"

    (full / "filler").unlink()

    until("the next release", lambda: version_of(plant) == "1.1.0", seconds=150)

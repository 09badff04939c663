"""Devices with a damaged database or model file or a full disk, by the real commands: they serve what they have, say so, and recover.

One hub serves all of this file: each test has a device of its own, and what it rolls out is newer than what the tests before it left.
"""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import brokers
from tests.brokers import Mosquitto
from tests.e2e.test_device import device, status_when
from tests.e2e.test_path import Plant, until
from tests.small_disk import small_disk

pytestmark = pytest.mark.timeout(400)
ROW = np.zeros((1, 10), np.float32)
DISK_BYTES = 4 * 1024 * 1024
WAITS = ("--wait", "--timeout-seconds", "200")


@dataclass
class Hub:
    """A running hub, and the version that its newest rollout is of."""

    plant: Plant
    served: str = "1.0.0"
    published: int = 0
    devices: int = 0

    def publish(self) -> str:
        """A release that is not rolled out yet; its version."""
        version, self.published = f"1.{self.published}.0", self.published + 1
        self.plant.publish(version, 1.0 + self.published)
        return version

    def roll_out(self, version: str, *more: str) -> None:
        self.plant.cli("rollout", "start", f"diabetes@{version}", *more)
        self.served = version

    def pause(self, how: int) -> None:
        assert isinstance(self.plant.broker, Mosquitto)
        assert self.plant.broker._process is not None
        self.plant.broker._process.send_signal(how)


@dataclass
class Device:
    """A node of this hub, for one test; `served` is what it served when the test began."""

    hub: Hub
    name: str
    served: str = ""

    @property
    def folder(self) -> Path:
        return self.hub.plant.directory / self.name

    def start(self) -> None:
        self.hub.plant.start_node(self.name)

    def end(self, how: int) -> None:
        self.hub.plant.nodes[self.name][0].send_signal(how)
        self.hub.plant.nodes[self.name][0].wait(100)

    def run(self, *arguments: str, code: int | set[int] = 0) -> Any:
        return device(self.hub.plant, *arguments, node=self.name, code=code)

    def status_when(self, verdict: str, *, connected: bool) -> dict[str, Any]:
        return status_when(self.hub.plant, verdict, node=self.name, connected=connected)

    def infer(self) -> dict[str, Any]:
        return self.hub.plant.infer(self.name, ROW)

    def version(self) -> str | None:
        with suppress(Exception):
            return str(self.infer()["model_version"])
        return None

    def serves(self, version: str, *, seconds: float = 100) -> None:
        until(f"{version} in an answer", lambda: self.version() == version, seconds=seconds)

    def known(self) -> dict[str, Any]:
        """What the hub knows of it."""
        return dict(self.hub.plant.cli("nodes", self.name))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a release that is rolled out to whatever device there will be."""
    folder = tmp_path_factory.mktemp("storage")
    with brokers.running("mosquitto", folder / "broker") as broker:
        made = Hub(Plant(folder, broker, cohort_nodes_min=1, node_settings=("state_seconds = 1",)))
        try:
            made.plant.start()
            first = made.publish()
            made.plant.start_node("first")
            until("a node", lambda: made.plant.cli("nodes"))
            made.roll_out(first, *WAITS)
            Device(made, "first").end(signal.SIGTERM)
            yield made
        finally:
            made.plant.stop()


@pytest.fixture
def one(hub: Hub) -> Iterator[Device]:
    """A device that serves what is rolled out, and is connected."""
    hub.devices += 1
    made = Device(hub, f"node-{hub.devices}", hub.served)
    try:
        made.start()
        made.serves(hub.served)
        made.status_when("serving", connected=True)
        yield made
    finally:
        hub.pause(signal.SIGCONT)
        made.end(signal.SIGTERM)


@pytest.fixture
def full(one: Device) -> Iterator[Path]:
    """The device's data on a disk of its own, which is filled to its last byte; the device has ended."""
    one.end(signal.SIGKILL)
    data = one.folder / "data"
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
            one.end(signal.SIGTERM)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.mark.parametrize("how", [pytest.param("overwritten", marks=pytest.mark.slow), "truncated", "gone"])
def test_a_damaged_database_is_set_aside_and_the_node_serves_what_it_served(one: Device, how: str) -> None:
    before = one.known()
    one.end(signal.SIGTERM)
    store = one.folder / "data" / "node.sqlite"
    if how == "gone":
        store.unlink()
    else:
        store.write_bytes(b"\xff" * 16 + store.read_bytes()[16:] if how == "overwritten" else store.read_bytes()[:5000])
    newer = one.hub.publish()

    one.start()
    one.serves(one.served)

    after = until("the hub to hear of it", lambda: found if (found := one.known())["session"] > before["session"] else None)
    assert after["models"][0]["serving_version"] == one.served
    assert store.with_name("node.sqlite.damaged").exists() == (how != "gone")
    status = one.status_when("serving", connected=True)
    assert (status["verdict"], status["models"][0]["serving"]) == ("serving", one.served)
    assert status["telemetry"]["code"] == "ledger.rolled_back"  # what the lost ledger allowed is not spent twice
    assert status["telemetry"]["ledger_entries"] > 0
    codes = [finding["code"] for finding in one.run("doctor", code={0, 1})]
    assert ("store.set_aside" in codes) == (how != "gone")

    one.hub.roll_out(newer)  # what the lost store knew of releases is asked for again
    one.serves(newer)


@pytest.mark.parametrize("how", [pytest.param("deleted", marks=pytest.mark.slow), "changed"])
def test_a_damaged_model_file_is_reported_then_fetched_and_served_again(one: Device, how: str) -> None:
    answer = one.infer()["outputs"]
    one.end(signal.SIGTERM)
    file = next((one.folder / "data" / "artifacts").rglob("model.onnx"))
    whole = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    one.hub.pause(signal.SIGSTOP)  # nothing can be fetched yet

    one.start()
    until("the code", lambda: one.status_when("not_serving", connected=False)["models"][0]["code"] == "disk.damaged")

    one.run("status", code=12)
    assert "artifact.damaged" in [finding["code"] for finding in one.run("doctor", code=2)]
    assert one.version() is None

    one.hub.pause(signal.SIGCONT)
    one.serves(one.served)
    assert (file.read_bytes(), one.infer()["outputs"]) == (whole, answer)
    one.status_when("serving", connected=True)
    assert "artifact.damaged" not in [finding["code"] for finding in one.run("doctor", code={0, 1})]


def test_on_a_full_disk_a_node_starts_serves_and_says_so_and_goes_on_with_room(one: Device, full: Path) -> None:
    newer = one.hub.publish()
    one.start()

    one.serves(one.served)
    said = one.status_when("serving", connected=True)
    assert said["disk"]["read_only"]
    assert (said["verdict"], said["models"][0]["serving"]) == ("serving", one.served)
    until("the hub to hear of it", lambda: "disk.full" in [finding["code"] for finding in one.known()["findings"]])
    assert said["agent"]["pid"] == one.hub.plant.nodes[one.name][0].pid
    codes = [finding["code"] for finding in one.run("doctor", code=2)]
    assert "disk.full" in codes
    assert "store.unreadable" not in codes

    (full / "filler").unlink()
    until("room", lambda: not one.run("status")["disk"]["read_only"])
    one.status_when("serving", connected=True)
    until("the hub to hear of it", lambda: not one.known()["findings"])
    one.hub.roll_out(newer)
    one.serves(newer)
    with closing(sqlite3.connect(full / "node.sqlite")) as db:
        assert newer in db.execute("SELECT document FROM slot").fetchone()[0]


@pytest.mark.slow
def test_a_fetch_that_met_a_full_disk_is_tried_again_once_there_is_room(one: Device, full: Path) -> None:
    (full / "filler").unlink()
    one.start()
    one.status_when("serving", connected=True)
    fill(full)
    newer = one.hub.publish()
    one.hub.roll_out(newer)
    until("the full disk in the status", lambda: "disk.full" in one.run("status", code={0, 12})["agent"]["error"])
    assert one.infer()["model_version"] == one.served

    (full / "filler").unlink()

    one.serves(newer, seconds=150)

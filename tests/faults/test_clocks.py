"""Real programs over a broker without TLS, whose wall clocks are set years forth and back: at a start, and in a rollout. See clock.c."""

import contextlib
import datetime
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from tests import brokers
from tests.e2e.test_path import BIN, Plant, until
from tests.faults import shim
from tests.faults.test_processes import counted, environment

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shim.compiler() is None, reason="no C compiler: `apt-get install gcc libc6-dev`"),
]
SOURCE = Path(__file__).with_name("clock.c")
YEAR = 365.25 * 86_400
DAY = 86_400
ROWS = load_diabetes().data.astype(np.float32)
# The hub as it is, but that it follows a clock which makes no sense at its start after seconds and not after ten minutes.
PATIENT_PROGRAM = """
import sys
from hub.core.publish import believed_time
believed_time.START_SECONDS_HELD = 20.0
from hub.__main__ import main
main()
"""

Count = Callable[[int, int], None]


class WallClock:
    """The wall clock of the processes that begin with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """Set it so much ahead, at once, in every process that has it; negative: behind."""
        data = struct.pack("@q", int(seconds * 1e9))
        if not self.path.exists():
            self.path.write_bytes(data)
        with self.path.open("r+b") as file:
            file.write(data)

    def of(self) -> contextlib.AbstractContextManager[None]:
        """Have processes that begin meanwhile go by it."""
        return environment({"LD_PRELOAD": str(shim.library(SOURCE)), "FAULTS_CLOCK": str(self.path)})


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """On a broker without TLS: with a wrong clock nobody could verify a certificate, and there would be less to see."""
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker, cohort_nodes_min=1)
        try:
            yield made
        finally:
            made.stop()


def answered(plant: Plant) -> str:
    """Return which release answers; empty while nobody does."""
    with contextlib.suppress(httpx.TransportError, AssertionError):
        return str(plant.infer("node-a", ROWS[:3])["model_version"])
    return ""


def serves(plant: Plant, version: str) -> None:
    until(f"release {version}", lambda: answered(plant) == version, seconds=150)


def started(plant: Plant, version: str) -> None:
    plant.cli("rollout", "start", f"diabetes@{version}", "--force")


def begun(plant: Plant) -> None:
    """Bring one node to its first release."""
    plant.publish("1.0.0", 1.0)
    started(plant, "1.0.0")
    plant.start_node("node-a")
    serves(plant, "1.0.0")


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(100)


def window_is_counted(plant: Plant, day: int) -> None:
    before, _ = counted(plant)
    plant.infer("node-a", ROWS[:200], event_time=day)
    until("the window", lambda: counted(plant)[0] > before)
    seen, merged = counted(plant)
    assert seen == merged


def test_a_process_goes_by_the_clock_that_is_set(clock: WallClock) -> None:
    program = "import time, datetime; a = time.monotonic(); print(datetime.datetime.now().year, time.time() > 0, time.monotonic() - a < 5)"
    found = []
    for years in (0, 3, -5):
        clock.set(years * YEAR)
        with clock.of():
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    this = datetime.datetime.now(datetime.UTC).year

    assert [int(one[0]) - this for one in found] == [0, 3, -5]
    assert {tuple(one[1:]) for one in found} == {("True", "True")}


@pytest.mark.parametrize("years", [3, -5, -60])
def test_a_node_that_starts_with_a_wrong_clock_serves_and_follows_once_it_is_right(
    plant: Plant, clock: WallClock, count: Count, years: float
) -> None:
    plant.start()
    with clock.of():
        begun(plant)
        end(plant.nodes["node-a"][0])
        clock.set(max(years * YEAR, 1e6 - datetime.datetime.now(datetime.UTC).timestamp()))
        plant.start_node("node-a")
    serves(plant, "1.0.0")
    plant.publish("2.0.0", 50.0)
    started(plant, "2.0.0")
    assert answered(plant) == "1.0.0"

    clock.set(0.0)

    serves(plant, "2.0.0")
    window_is_counted(plant, 1_000_000_020)
    count(1, 0)


def test_a_node_whose_clock_jumps_in_a_rollout_serves_all_the_while_and_ends_it(plant: Plant, clock: WallClock, count: Count) -> None:
    plant.start()
    with clock.of():
        begun(plant)
    plant.publish("2.0.0", 50.0)
    for number, years in enumerate((3, -5, 0, -60, 0)):
        clock.set(max(years * YEAR, 1e6 - datetime.datetime.now(datetime.UTC).timestamp()))
        if number == 0:
            started(plant, "2.0.0")
        assert all(answered(plant) in ("1.0.0", "2.0.0") for _ in range(5))

    serves(plant, "2.0.0")
    window_is_counted(plant, 1_000_000_020)
    count(5, 0)


@pytest.mark.parametrize("years", [3, -5])
def test_a_hub_whose_clock_jumps_in_a_rollout_ends_it_and_goes_on(plant: Plant, clock: WallClock, count: Count, years: float) -> None:
    with clock.of():
        plant.start()
    begun(plant)
    plant.publish("2.0.0", 50.0)
    clock.set(years * YEAR)
    started(plant, "2.0.0")
    until("the hub to have signed by its clock, or not to have", lambda: answered(plant), seconds=20)
    serves(plant, "2.0.0")  # nothing is lost while it is wrong

    clock.set(0.0)

    plant.publish("3.0.0", 5.0)
    started(plant, "3.0.0")
    serves(plant, "3.0.0")
    window_is_counted(plant, 1_000_000_020)
    count(2, 0)


@pytest.mark.parametrize("years", [3, -5, -60])
def test_a_hub_that_starts_with_a_wrong_clock_goes_on_once_it_is_right(plant: Plant, clock: WallClock, count: Count, years: float) -> None:
    with clock.of():
        plant.start()
    begun(plant)
    hub = plant.processes[0]
    end(hub)
    (plant.fleet / "hub.ready").unlink(missing_ok=True)
    clock.set(max(years * YEAR, 1e6 - datetime.datetime.now(datetime.UTC).timestamp()))
    with clock.of():
        plant.run("hub", [*map(str, hub.args)])  # type: ignore[arg-type]
    until("the hub", (plant.fleet / "hub.ready").exists)
    plant.publish("2.0.0", 50.0)
    started(plant, "2.0.0")
    assert answered(plant) in ("1.0.0", "2.0.0")

    clock.set(0.0)

    serves(plant, "2.0.0")
    window_is_counted(plant, 1_000_000_020)
    count(2, 0)


@pytest.mark.parametrize(("days", "signed_again"), [(200, [["renew"]]), (366, [["keys", "rotate", "root"], ["renew"]])])
def test_a_fleet_that_was_off_for_long_serves_at_once_and_follows_what_people_sign(
    plant: Plant, clock: WallClock, count: Count, days: int, signed_again: list[list[str]]
) -> None:
    with clock.of():
        plant.start()
        begun(plant)
    hub = plant.processes[0]
    end(plant.nodes["node-a"][0])
    end(hub)
    (plant.fleet / "hub.ready").unlink(missing_ok=True)

    clock.set(days * DAY)
    with clock.of():
        plant.start_node("node-a")
        serves(plant, "1.0.0")  # without its hub, and with all that was signed expired
        plant.run("hub", [sys.executable, "-c", PATIENT_PROGRAM, *map(str, hub.args[1:])])  # type: ignore[index]
        until("the hub", (plant.fleet / "hub.ready").exists)
        until("the alert", lambda: '"clock.stepped"' in (plant.directory / "hub.log").read_text())
        for one in [*signed_again, *published(plant, "2.0.0"), ["rollout", "start", "diabetes@2.0.0", "--force"]]:
            command = [str(BIN / "fleetcast"), *one, "--dir", str(plant.fleet)]
            secret = {"FLEETCAST_PASSPHRASE_FILE": str(plant.directory / "secret")}
            with environment(secret):
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
            assert done.returncode == 0, (one, done.stderr)
        serves(plant, "2.0.0")
    window_is_counted(plant, 1_000_000_020)
    count(1, 0)


def published(plant: Plant, version: str) -> list[list[str]]:
    """Return the command that publishes the first release's model under another number."""
    words = ["--name", "diabetes", "--version", version, "--reference", str(plant.directory / "reference.npz"), "--window-seconds", "60"]
    return [["publish", str(plant.directory / "1.0.0.onnx"), *words, "--probation-seconds", "1"]]

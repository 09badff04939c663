"""A hub in several real processes, mistreated: what two that take windows in lose, and how soon another leads when one is stopped."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.figures import Figure, write
from hub.core.rollouts import commands
from hub.database.members import Members
from schemas.manifest import Manifest
from tests import brokers
from tests.databases import Server, scratch
from tests.hub.apart import Process, SharedFleet
from tests.hub.hubs import START, Device, until

COMMAND = "make bench-roles"
WINDOWS, AT_ONCE = 20_000, 500
HOURS, COHORTS = 12, ("a", "b", "c")
KILLED_AFTER = 0.4  # Share of the windows after which one process is killed.
LEADERS_SECONDS = 10.0


@dataclass(slots=True)
class Stage:
    """A fleet whose processes have started."""

    fleet: SharedFleet
    broker: brokers.Broker
    folder: Path
    processes: list[Process]

    def machine(self, name: str, *arguments: str) -> Process:
        """A process on a machine of its own."""
        folder = self.folder / name
        if not folder.exists():
            self.fleet.copy(folder)
        made = self.fleet.start(folder, *arguments)
        self.processes.append(made)
        return made


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """A PostgreSQL that waits for its disk, a mosquitto, and a fleet; all end with the block."""
    place = scratch()
    server = Server(place).start()
    try:
        with tempfile.TemporaryDirectory() as folder, brokers.running("mosquitto", Path(folder) / "broker") as broker:
            fleet = SharedFleet.make(Path(folder) / "fleet", broker, url=server.make("fleet"), settle_seconds=3600)
            stage = Stage(fleet, broker, Path(folder), [])
            try:
                yield stage
            finally:
                for one in stage.processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one.pid, signal.SIGCONT)
                    one.end()
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)


def live(stage: Stage, count: int) -> Callable[[], bool]:
    """Whether so many processes hear their part of the nodes."""
    members = Members(stage.fleet.store.database)
    return lambda: sum(one.is_live and one.listens and "ingest" in one.roles for one in members.all()) >= count


def lost(stage: Stage, manifest: Manifest) -> tuple[int, int]:
    """How many of the windows are lost, counted twice, or added up wrongly, and how many were counted when one process was killed."""
    first = stage.machine("ingest-1", "--roles", "ingest", "--shard", "1/2")
    stage.machine("ingest-2", "--roles", "ingest", "--shard", "2/2")
    until("both processes", live(stage, 2))
    rng, sent, device = Random(1), Counter[tuple[str, int]](), None
    for cohort in COHORTS:
        device = Device.connect(f"gw-{cohort}", stage.broker, stage.fleet)
        device.say_state(cohort=cohort)
    until("all nodes", lambda: stage.fleet.store.count_nodes() == len(COHORTS))
    assert device is not None
    killed_at = 0
    rows = Counter[tuple[str, int]]()
    for number in range(WINDOWS):
        cohort, start = COHORTS[number % len(COHORTS)], START + number % HOURS * 3600
        counts = [rng.randrange(10, 200) for _ in range(8)] + [0]
        device.window(manifest, counts, start=start, cohort=cohort)
        sent[cohort, start] += 1
        rows[cohort, start] += sum(counts)
        if number % AT_ONCE == 0:
            until("what was sent to be taken by the broker", lambda number=number: counted(stage) >= number - 4 * AT_ONCE)  # type: ignore[misc]
        if not killed_at and counted(stage, every=number % 50 == 0) >= KILLED_AFTER * WINDOWS:
            first.kill()
            killed_at = counted(stage)
            first = stage.machine("ingest-1", "--roles", "ingest", "--shard", "1/2")
    with contextlib.suppress(AssertionError):
        until("all windows", lambda: counted(stage) >= WINDOWS, seconds=120)
    time.sleep(2)  # One that is counted twice would come now.
    found = {(row.cohort, row.start): row for row in stage.fleet.store.intervals("delay")}
    wrong = sum(found[key].rows != rows[key] for key in rows if key in found)
    return abs(WINDOWS - sum(row.windows for row in found.values())) + wrong, killed_at


def counted(stage: Stage, *, every: bool = True) -> int:
    """How many windows are counted by now."""
    return sum(row.windows for row in stage.fleet.store.intervals("delay")) if every else 0


def takeover(stage: Stage, how: signal.Signals, leader: Process, standby: Process) -> tuple[float, bool]:
    """After how many seconds an operator's command is obeyed by another leader, and whether the first signed nothing afterwards."""
    store = stage.fleet.store
    began = time.monotonic()
    os.kill(leader.pid, how)
    body = json.dumps({"version": "1.0.0", "stages": [100]}) if how is signal.SIGSTOP else "{}"
    kind = "start" if how is signal.SIGSTOP else "halt"
    number = store.add_command("delay", commands.read(kind, body))
    until("an answer", lambda: store.command(number) is not None and store.command(number).state == "done")  # type: ignore[union-attr]
    seconds = time.monotonic() - began
    standby.wait_for("leadership.taken")
    if how is signal.SIGSTOP:
        before = len(leader.logged("deployments.signed"))
        os.kill(leader.pid, signal.SIGCONT)
        until("the end of the first leader", lambda: leader.process.poll() is not None)
        return seconds, leader.process.returncode != 0 and len(leader.logged("deployments.signed")) == before
    leader.process.wait(20)
    return seconds, True


def main() -> int:
    """Measure both, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the figures to bench/results.json")
    arguments = parser.parse_args()
    with staged() as stage:
        manifest = stage.fleet.publish("1.0.0")
        leader = stage.machine("leader", "--roles", "controller")
        leader.wait_for("announcement.published")
        standby = stage.machine("standby", "--roles", "controller")
        standby.wait_for("standby.waiting")
        wrong, killed_at = lost(stage, manifest)
        frozen, is_refused = takeover(stage, signal.SIGSTOP, leader, standby)
        third = stage.machine("leader", "--roles", "controller")
        third.wait_for("standby.waiting")
        killed, _ = takeover(stage, signal.SIGKILL, standby, third)
    figures = [
        Figure("ingest.two_process_lost", wrong, "windows", "= 0", "windows sent", WINDOWS, COMMAND),
        Figure("leader.takeover_s", round(max(frozen, killed), 1), "s", "<= 10", "after kill -9", round(killed, 1), COMMAND),
    ]
    print(
        f"ingest.two_process_lost {wrong} of {WINDOWS}, one process killed after {killed_at}; leader.takeover_s {frozen:.1f} stopped,"
        f" {killed:.1f} killed; the stopped leader {'signed nothing more' if is_refused else 'SIGNED AGAIN'}"
    )
    if arguments.write:
        write(figures)
    return 0 if wrong == 0 and is_refused and max(frozen, killed) <= LEADERS_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())

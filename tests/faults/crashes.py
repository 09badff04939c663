"""The simulated fleet of tests/simulation on disks that break: a machine is cut off at a change of its files, or its disk is full.

It runs in a process that has begun with shim.c: `python -m tests.faults.crashes CASES` reads cases as JSON, one a line, and prints what
came of each. A case runs in a fork of its own. After a cut the victim's folder is what a kill, or a power cut, leaves of it. It starts
again, has to serve at once what it served, and is cut off again so many changes later, until the scenario is at its end. Then must hold
what holds of every fleet at rest (tests/simulation), and what `Audit` adds up outside of the node.
"""

import contextlib
import errno
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Literal
from unittest import mock

import click

from hub.cli.node_settings import set_ as settings_command
from schemas import codec
from schemas.errors import Code, FleetcastError, Refused
from schemas.manifest import Manifest
from schemas.window import Window
from tests.faults.apart import main, run_apart
from tests.faults.disk import NAMES, Disk, changes
from tests.faults.shim import CUT, FAIL, Shim
from tests.simulation.whole_fleet import fleet as fleet_module
from tests.simulation.whole_fleet import runs, template
from tests.simulation.whole_fleet.broker import Broker, Packet
from tests.simulation.whole_fleet.fleet import Fleet
from tests.simulation.whole_fleet.invariants import broken
from tests.simulation.whole_fleet.machines import Machine, NodeMachine
from tests.simulation.whole_fleet.operations import Operation, Plan, operation
from tests.simulation.whole_fleet.world import PowerCutError, World

How = Literal["none", "kill", "lost", "torn", "full", "io", "readonly"]
ERRORS: dict[str, int] = {"full": errno.ENOSPC, "io": errno.EIO, "readonly": errno.EROFS}
OFF_SECONDS = 2.0  # between a cut and the next start
SERVES_SECONDS = 5.0  # after a start, and after a disk began to fail
REPEATS_MAX = 8  # of an operator's command that was cut off
FAILS_SECONDS = 40.0  # for which a disk takes nothing


@dataclass(frozen=True, slots=True)
class Case:
    """Which scenario, whom it strikes, how, at which change of its files, and after how many it strikes again at most (0: never)."""

    scenario: str
    victim: str
    how: How
    at: int
    again: int = 0
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.scenario} {self.victim} {self.how} at={self.at} again={self.again} seed={self.seed}"


@dataclass(slots=True)
class Found:
    """What came of a case: how often the fault struck, at which kinds of changes, what broke."""

    case: Case
    struck: int = 0
    changes: int = 0
    kinds: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


SCENARIOS: dict[str, Plan] = {
    # A device's whole life: first fetch, switch, probation, windows, an update, a way back, a new key, a restart.
    "life": Plan(
        2,
        1,
        (
            operation("start", 60, model="delay", version="1.0.0", stages="100", label="", force=False),
            operation("wait", 700),
            operation("start", 60, model="delay", version="1.1.0", stages="50,100", label="", force=True),
            operation("settings", 20, node=0),
            operation("back", 60, model="delay"),
            operation("rotate", 30),
            operation("wait", 400),
            operation("start", 60, model="delay", version="1.3.0", stages="100", label="", force=True),
            operation("restart", 30, node=0),
            operation("start", 60, model="delay", version="1.2.0", stages="100", label="", force=True),
            operation("wait", 400),
        ),
        telemetry=True,
    )
}


class _World(World):
    """Looks after each event whether somebody was cut off in it."""

    after_each: Callable[[], None] | None = None

    def run(self, seconds: float) -> None:
        import heapq

        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            self.handled += 1
            with contextlib.suppress(PowerCutError):
                do()
            if self.after_each is not None:
                self.after_each()
        self.now = until


class Audit:
    """Add up outside of a node what has left it: a window that left was charged, whatever happened to the disk that says so."""

    def __init__(self, broker: Broker) -> None:
        self._publish, self.windows = broker.publish, dict[str, dict[bytes, Window]]()
        broker.publish = self._seen  # type: ignore[method-assign]

    def _seen(self, packet: Packet) -> None:
        if packet.topic.split("/")[2] == "telemetry":
            window = codec.decode(Window, packet.payload)
            self.windows.setdefault(packet.sender, {})[window.id] = window
        self._publish(packet)

    def broken(self, fleet: Fleet) -> list[str]:
        found = []
        manifests = {template.sha256(document): codec.decode(Manifest, document) for document in fleet.manifests.values()}
        rho = max(one.privacy.rho(1) for one in manifests.values() if one.privacy is not None)
        for machine in fleet.machines:
            left = self.windows.get(machine.node, {}).values()
            if machine.agent is None or not left:
                continue
            _, entries = machine.agent._store.ledger()
            charged, spent = sum(entry.rho for entry in entries), sum(rho * one.noises for one in left)
            if spent > charged * (1 + 1e-6):
                found.append(f"{machine.name}: windows of rho {spent:.4f} have left it, and its ledger has charged {charged:.4f}")
            intervals = sorted((bytes(one.release), one.start, one.seconds) for one in left if one.about is None)
            for (release, start, seconds), (other, after, _) in pairwise(intervals):
                if release == other and after < start + seconds:
                    found.append(f"{machine.name}: the interval at {after} has left it twice, under two names")
        return found


class FaultFleet(Fleet):
    """A fleet of which one machine's disk is watched."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.shim, self.found = case, Shim(), Found(case)
        self.chances = Random(f"{case}")
        self._armed, self._recovering, self._at_rest = False, False, False
        with mock.patch.object(fleet_module, "World", _World):
            super().__init__(case.seed, SCENARIOS[case.scenario], folder)
        self.audit = Audit(self.broker)
        self.journal = folder / "journal"
        self.victim: Machine = self.hub if case.victim == "hub" else next(one for one in self.machines if one.name == case.victim)
        self.disk: Disk | None = None
        signal.signal(signal.SIGUSR1, self._cut)
        self.world.after_each = self._after_each  # type: ignore[attr-defined]
        self._watch(case.at)

    @property
    def _place(self) -> Path:
        assert isinstance(self.victim, NodeMachine) or self.victim is self.hub
        return self.victim.folder

    def _watch(self, at: int) -> None:
        """Begin to count, on a disk on which everything is durable."""
        case = self.case
        self.journal.unlink(missing_ok=True)
        keeps = case.how in ("lost", "torn", "none")
        self.disk = Disk(self._place) if keeps else None
        how = FAIL if case.how in ERRORS else CUT
        self.shim.watch(self._place, self.journal if keeps else None)
        if at >= 0 and case.how != "none":
            self.shim.arm(at, how, ERRORS.get(case.how, 0))
        self._armed = at >= 0

    def _cut(self, number: int, frame: FrameType | None) -> None:
        """Be off in the middle of what the machine does."""
        for client in self.victim.clients:
            client.vanish()
        raise PowerCutError

    def _after_each(self) -> None:
        if not self._armed or not self.shim.fired or self._recovering:
            return
        self.found.struck += 1
        self._recovering = True
        served = self._served()
        if self.case.how in ERRORS:
            self.world.after(SERVES_SECONDS, lambda: self._look(served, "its disk takes nothing"))
            self.world.after(FAILS_SECONDS, self._mended)
            return
        self.victim.kill()
        self.found.changes += self.shim.count
        self.shim.disarm()
        if self.disk is None:
            # A copy: what the machine's process had open in the folder, and locked, is nothing to the next one.
            kept = self._place.rename(self._place.with_name("before"))
            shutil.copytree(kept, self._place, symlinks=True)
            shutil.rmtree(kept)
        else:
            self.disk.replay(changes(self.journal))
            self.disk.leave(self._place, None if self.case.how == "lost" else self.chances)
        self._watch(self._next())
        self._recovering = False
        self.world.after(OFF_SECONDS, lambda: self._start_again(served))

    def _start_again(self, served: set[str]) -> None:
        self.victim.start()
        self.world.after(SERVES_SECONDS, lambda starts=self.victim.starts: self._look(served, "it started", starts))  # type: ignore[misc]

    def _served(self) -> set[str]:
        """Return the models that the victim has served for good."""
        if not isinstance(self.victim, NodeMachine) or self.victim.agent is None:
            return set()
        found = set()
        for model, slot in self.victim.agent._slots._slots.items():
            if slot.serving is not None and slot.proven and template.KINDS[slot.serving.version] == "good":
                found.add(model)
        return found

    def _next(self) -> int:
        """Draw after how many changes it strikes again: often soon, in the midst of what is done about the last time."""
        return int(self.case.again ** self.chances.random()) if self.case.again and not self._at_rest else -1

    def _look(self, served: set[str], why: str, starts: int = 0) -> None:
        if starts and (self.victim.starts != starts or not self.victim.on):
            return
        for model in served:
            assert isinstance(self.victim, NodeMachine)
            status, text = self.answer(self.victim, model)
            if status != 200:
                self.found.broken.append(f"at {self.world.now:.0f} {model} is not served {SERVES_SECONDS:g} s after {why}: {status} {text}")

    def _mended(self) -> None:
        self.found.changes += self.shim.count
        self._watch(self._next())
        self._recovering = False

    # What is done

    def begin(self) -> None:
        for machine in (self.hub, *self.machines):
            self.world.after(0.0, machine.start)
        self.run(10.0)
        self.traffic.begin()

    def do(self, one: Operation) -> None:
        for _ in range(REPEATS_MAX):
            try:
                super().do(one)
                return
            except (PowerCutError, click.Abort):  # Commands take the one for Ctrl-C.
                self.log.append(f"{self.world.now:10.1f} cut off in {one}")
                self._after_each()
                self.run(OFF_SECONDS + 3)
            except (FleetcastError, OSError) as error:
                if not self._recovering and not self.shim.fired:
                    raise
                self.log.append(f"{self.world.now:10.1f} {one}: {error}")
                self._after_each()
                self.run(FAILS_SECONDS + 1)

    def _wait(self) -> None:
        pass

    def _command(self, *arguments: str) -> str:
        text = super()._command(*arguments)
        if text.startswith("refused") and (self._recovering or self.shim.fired):
            raise Refused(Code.DISK_FULL, text)  # An operator does it again when the disk is mended.
        return text

    def _settings(self, node: int) -> str:
        return self._by(settings_command, f"n{node}", f"display-name=Bridge {self.world.now:.0f}")

    def _by(self, command: Any, *arguments: str) -> str:
        with mock.patch.object(fleet_module, "rollout_command", command):
            return self._command(*arguments, "--yes") if command is settings_command else self._command(*arguments)

    def _rotate(self) -> str:
        """Renew what the hub has signed, as it does with the time."""
        from datetime import UTC, datetime

        from hub.signing.tuf_repository import Repository

        moment = datetime.fromtimestamp(template.EPOCH + self.world.now, UTC)
        Repository(self.hub.folder / "trust").renew_releases("delay", team=self.made.team, now=moment)
        self.hub.wake()
        return ""

    def rested(self) -> list[str]:
        """Return what does not hold at rest. A victim's time of serving is known up to the cut, and counted by turns."""
        if isinstance(self.victim, NodeMachine) and self.found.struck:
            self.victim.proved_early = []
        # A device that was cut off again and again while a release was on trial rightly goes back.
        found = broken(self)
        return [one for one in found if not (self.found.struck > 1 and one.startswith(self.case.victim) and "probation.cut_short" in one)]

    def come_to_rest(self) -> None:
        self.shim.disarm()
        self._armed, self._at_rest = False, True
        self.run(OFF_SECONDS + 1)  # whoever is off at this moment starts again
        super().come_to_rest()
        self.found.changes += self.shim.count


def run(case: Case) -> Found:
    """Run one case in this process."""
    folder = template.scratch()
    runs.survived.clear()
    fleet = FaultFleet(case, folder)
    found = fleet.found
    try:
        fleet.begin()
        for one in fleet.plan.operations:
            fleet.do(one)
        fleet.come_to_rest()
        found.broken += [*fleet.rested(), *fleet.audit.broken(fleet), *dict.fromkeys(f"a bug was survived: {one}" for one in runs.survived)]
    except Exception:
        found.broken.append(f"an error that nobody caught at {fleet.world.now:.1f}: {traceback.format_exc()}")
    if case.how == "none":
        assert fleet.disk is not None
        found.kinds = [f"{NAMES[one.kind]} {one.first}" for one in changes(fleet.journal)]
    if found.broken:
        found.broken += fleet.log
        found.broken += [f"{one.name} died: {one.died[-3:]}" for one in (fleet.hub, *fleet.machines) if one.died]
    fleet.shim.watch(None)
    fleet.close()
    shutil.rmtree(folder, ignore_errors=True)
    return found


def ready() -> None:
    """Make what every case begins with."""
    runs._ready()
    from tests.simulation.whole_fleet import traffic

    traffic.watched()


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Return what came of a case that ran in a fork."""
    return run_apart(Case(**case), run, Found, seconds=120, quietly=runs.quiet)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, ready, outcome))

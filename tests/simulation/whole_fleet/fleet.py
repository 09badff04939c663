"""A whole fleet in one process and one thread: the real hub, real nodes, and what happens to them."""

import contextlib
import errno
import io
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import click

from fleetcast import durable
from hub.cli.deploy import deploy as deploy_command
from hub.cli.rollout import rollout as rollout_command
from hub.signing.tuf_repository import Repository
from node.workers import device_profile
from schemas.deployments import Deployment, Deployments
from schemas.errors import FleetcastError
from schemas.names import sha256
from tests.simulation.whole_fleet import statements, template, traffic
from tests.simulation.whole_fleet.broker import Broker
from tests.simulation.whole_fleet.machines import RUSHED_SECONDS, HubMachine, NodeMachine
from tests.simulation.whole_fleet.memo import remembering
from tests.simulation.whole_fleet.operations import LABELS, Operation, Plan
from tests.simulation.whole_fleet.world import EPOCH, World

CLONES_CONNECTS_MIN, CLONES_SECONDS = 16, 20.0  # of two devices with one name: at first, and then one in so many seconds
DEPLOY = ("set", "remove")
LONG_SECONDS = 600.0  # beyond it a time is passed with fewer turns
TURNS_OF_LONG = 6
LULL_SECONDS_MAX = 12 * 3600.0  # of a machine while a week passes: what is signed hourly lasts a day


_available = cache(device_profile.available)


@dataclass(frozen=True, slots=True)
class Ran:
    """That a node switched to a release."""

    at: float
    machine: str
    model: str
    digest: bytes


@dataclass
class Fleet:
    """`machines` are the nodes by number; `log` says what was done, and how it ended."""

    seed: int
    plan: Plan
    folder: Path
    log: list[str] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    signed: list[tuple[str, Deployments]] = field(default_factory=list)  # every statement, with its model
    before: dict[tuple[str, bytes], bytes] = field(default_factory=dict)  # by machine and rollout: what it ran when that moved it
    extra: list[NodeMachine] = field(default_factory=list)  # copies of devices
    replaced: set[int] = field(default_factory=set)  # nodes whose key the hub does not know
    disturbed: set[str] = field(default_factory=set)  # what makes a difference legitimate
    storms: list[str] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)  # stages that reach more or fewer nodes than they say
    full: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.broker = Broker(self.world)
        self.made = template.template()
        self._stack, self.traffic = contextlib.ExitStack(), traffic.Traffic(self)
        if self.plan.telemetry:
            self._stack.enter_context(self.traffic.patched())
        self.manifests = traffic.watched() if self.plan.telemetry else self.made.manifests
        self._stack.enter_context(remembering())
        self.hub = HubMachine(self.world, self.broker, self.folder / "hub", signed=self._signed)
        self.machines: list[NodeMachine] = []
        for number in range(self.plan.nodes):
            machine = NodeMachine(
                self.world,
                self.broker,
                f"n{number}",
                self.folder / f"n{number}",
                node=f"n{number}",
                key=self.made.device_keys[number],
                switched=self._switched,
                telemetry=self.plan.telemetry,
            )
            machine.make()
            machine.label(LABELS[number % len(LABELS)])
            machine.may_stop = lambda model, machine=machine: self._took_back(machine, model)  # type: ignore[misc]
            self.machines.append(machine)
        self._stack.enter_context(mock.patch.object(durable, "write", self._write(durable.write)))
        self._stack.enter_context(mock.patch.object(device_profile, "available", _available))
        self._cloned: dict[str, tuple[float, int]] = {}  # by copy: since when, and how often its name had connected
        self._stages_seen: set[tuple[bytes, int]] = set()
        self._thresholds: dict[bytes, int] = {}  # by rollout, of the last stage that was seen
        self._lost_links: dict[int, int] = defaultdict(int)

    def close(self) -> None:
        for machine in (self.hub, *self.machines, *self.extra):
            machine.kill()
        self._stack.close()

    # Time

    def run(self, seconds: float) -> None:
        """Let the fleet go on. A long time is passed in few turns, as by machines that are slow: nothing waits for a turn that matters."""
        everything = (self.hub, *self.machines, *self.extra)
        if seconds <= LONG_SECONDS:
            self.world.run(seconds)
            return
        self.world.run(60.0)
        self.traffic.is_slow = True
        for machine in everything:
            machine.hurry(max(30.0, min(LULL_SECONDS_MAX, seconds / TURNS_OF_LONG)))
        self.world.run(seconds - 120.0)
        for machine in everything:
            machine.hurry()
        self.traffic.is_slow = False
        self.world.run(60.0)

    def begin(self) -> None:
        self.hub.start()
        for machine in self.machines:
            machine.start()
        self.run(5.0)
        if self.plan.telemetry:
            self.traffic.begin()

    def do(self, one: Operation) -> None:
        values = dict(one.values)
        text = getattr(self, f"_{one.kind}")(**values)
        self.log.append(f"{self.world.now:10.1f} {one}{f': {text}' if text else ''}")
        self.run(one.then_seconds)

    # What operators do, by the real commands

    def _command(self, *arguments: str) -> str:
        """Run one of `fleetcast rollout` or `fleetcast deploy`. It is queued as beside a hub that is off."""
        ready, printed = self.hub.folder / "hub.ready", io.StringIO()
        content = ready.read_bytes() if ready.exists() else None
        ready.unlink(missing_ok=True)
        group = deploy_command if arguments[0] in DEPLOY else rollout_command
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                group.main(args=[*arguments, "--dir", str(self.hub.folder)], standalone_mode=False)
        except FleetcastError as refusal:
            return f"refused: {refusal}"
        except click.ClickException as error:
            return f"refused: {error.format_message()}"
        finally:
            if content is not None:
                ready.write_bytes(content)
            self.hub.wake()
        return ""

    def _is_published(self, model: str, version: str) -> bool:
        return version in Repository(self.hub.folder / "trust").releases(model)

    def _publish(self, model: str, version: str) -> str:
        if self._is_published(model, version):
            return "is published already"
        from datetime import UTC, datetime

        document = self.manifests[model, version]
        moment = datetime.fromtimestamp(EPOCH + self.world.now, UTC)
        Repository(self.hub.folder / "trust").add_release(model, version, document, team=self.made.team, now=moment)
        self.hub.wake()
        return ""

    def _start(self, model: str, version: str, stages: str, label: str, *, force: bool, approve: str = "") -> str:
        if not self._is_published(model, version):
            self._publish(model, version)
        more = [*(["--label", label] if label else []), *(["--force"] if force else []), *(["--approve", approve] if approve else [])]
        return self._command("start", f"{model}@{version}", "--stages", stages, "--soak-seconds", "5", *more)

    def _approve(self, model: str) -> str:
        return self._command("approve", model)

    def _halt(self, model: str) -> str:
        return self._command("halt", model)

    def _resume(self, model: str) -> str:
        return self._command("resume", model)

    def _back(self, model: str, pin: int = -1) -> str:
        """Take back the rollout of a model, or that of a device's pin."""
        return self._command("back", model, *(("--deployment", f"pin-n{pin}") if pin >= 0 else ()))

    def _pin(self, model: str, version: str, node: int) -> str:
        """Hold one device at a release."""
        if not self._is_published(model, version):
            self._publish(model, version)
        name = f"n{node}"
        return self._command("set", model, f"pin-{name}", "--where", f"node={name}", "--priority", "500", "--release", version)

    def _unpin(self, model: str, node: int) -> str:
        return self._command("remove", model, f"pin-n{node}")

    # What happens to devices

    def _relabel(self, node: int, labels: int) -> None:
        self.machines[node].label(LABELS[labels])
        self._restart(node)

    def _restart(self, node: int) -> None:
        machine = self.machines[node]
        if machine.on:
            machine.leave()
            self._start_after(machine, 1.0)

    def _kill(self, node: int, calls: int, off_seconds: float) -> None:
        """In the middle of the next turn that has something to do."""
        machine = self.machines[node]
        if machine.on:
            machine.cut_after = calls
            self.world.after(1.0, machine.kill)
            self._start_after(machine, 1.0 + off_seconds)

    def _kill_hub(self, calls: int, off_seconds: float) -> None:
        if self.hub.on:
            self.hub.cut_after = calls
            self.world.after(3.0, self.hub.kill)
            self._start_after(self.hub, 3.0 + off_seconds)

    def _hub_away(self, seconds: float) -> None:
        self.hub.leave()
        self._start_after(self.hub, seconds)
        self.run(seconds)

    def _lose_data(self, node: int, *, key: bool) -> None:
        """The device's key is in the folder; an operator may have kept a copy of that."""
        if key:
            self._lose(node, "data")
        else:
            self._replace(node)

    def _lose_database(self, node: int) -> None:
        self._lose(node, "database")

    def _lose(self, node: int, what: str) -> None:
        machine = self.machines[node]
        machine.kill()
        machine.lose(what)
        self.disturbed.add(f"{machine.name} lost {what}")
        self._start_after(machine, 1.0)

    def _forget_broker(self, off_seconds: float) -> None:
        self.broker.stop(forget=True)
        self.disturbed.add("broker forgot")
        self.world.after(off_seconds, self.broker.start)

    def _restart_broker(self, off_seconds: float) -> None:
        self.broker.stop(forget=False)
        self.world.after(off_seconds, self.broker.start)

    def _lose_hub_session(self, seconds: float) -> None:
        """The hub's own broker of a cluster dies: another lets the hub in after a while, and nodes keep their sessions at others."""
        self.broker.lose_session("hub")
        self.hub.road.broken = True
        self.world.after(seconds, self._mend_hub_link)

    def _mend_hub_link(self) -> None:
        self.hub.road.broken = False

    def _cut_link(self, node: int, seconds: float) -> None:
        machine = self.machines[node]
        self.broker.cut(machine.node)
        if seconds:
            machine.road.broken = True
            self._lost_links[node] += 1
            number = self._lost_links[node]
            self.world.after(seconds, lambda: self._mend_link(node, number))

    def _mend_link(self, node: int, number: int) -> None:
        if self._lost_links[node] == number:
            self.machines[node].road.broken = False

    def _back_up_hub(self) -> None:
        self.hub.back_up(self.folder / "backup")

    def _restore_hub(self) -> str:
        backup = self.folder / "backup"
        if not backup.exists():
            return "there is no backup"
        self.hub.kill()
        self.hub.restore(backup)
        self.disturbed.add("hub restored")
        self._start_after(self.hub, 2.0)
        return ""

    def _clone(self, node: int, seconds: float) -> None:
        """A device was made from a copy of another one's folder, and both are on for a while."""
        original = self.machines[node]
        number = len(self.extra)
        copy = NodeMachine(
            self.world,
            self.broker,
            f"{original.name}-copy{number}",
            self.folder / f"copy{number}",
            node=original.node,
            key=original.key,
            switched=self._switched,
            telemetry=self.plan.telemetry,
        )
        shutil.copytree(original.folder, copy.folder, symlinks=True)
        copy.label(original.labels)
        copy.served, copy.proved = dict(original.served), set(original.proved)
        self.extra.append(copy)
        self.disturbed.add(f"{original.name} cloned")
        copy.start()
        self._cloned[copy.name] = (self.world.now, self.broker.counts[copy.node, "connect"])
        self.world.after(seconds, lambda: self._unclone(copy))

    def _unclone(self, copy: NodeMachine) -> None:
        began, connects = self._cloned.pop(copy.name, (self.world.now, 0))
        seconds, connects = self.world.now - began, self.broker.counts[copy.node, "connect"] - connects
        if seconds > 0 and connects > CLONES_CONNECTS_MIN + seconds / CLONES_SECONDS:
            self.storms.append(f"two devices of one folder ({copy.node}) connected {connects} times in {seconds:.0f} s")
        copy.held_off = True
        copy.kill()

    def _replace(self, node: int) -> None:
        """New hardware by the old name: the hub knows another key of it."""
        machine = self.machines[node]
        machine.kill()
        machine.replace_key(self.made.device_keys[template.NODES_MAX + node])
        self.replaced.add(node)
        self._start_after(machine, 5.0)

    def _power_off(self, node: int, seconds: float) -> None:
        machine = self.machines[node]
        machine.held_off = True
        machine.kill()

        def back() -> None:
            machine.held_off = False
            machine.start()

        self.world.after(seconds, back)
        if seconds <= 6 * 3600:
            self.run(min(seconds, 900.0))
        else:
            self.run(seconds)

    def _jump_clock(self, node: int, seconds: float, back_seconds: float) -> None:
        self._set_clock(self.machines[node], seconds, back_seconds)

    def _jump_hub_clock(self, seconds: float, back_seconds: float) -> None:
        self._set_clock(self.hub, seconds, back_seconds)

    def _set_clock(self, machine: HubMachine | NodeMachine, seconds: float, back_seconds: float) -> None:
        machine.clocks.wrong_by += seconds

        def put_right() -> None:
            machine.clocks.wrong_by -= seconds

        self.world.after(back_seconds, put_right)

    def _fill_disk(self, node: int, seconds: float) -> None:
        folder = self.machines[node].folder
        self.full.add(folder)
        self._fill_database(self.machines[node], full=True)
        self.world.after(seconds, lambda: self._make_room(folder))

    def _make_room(self, folder: Path) -> None:
        self.full.discard(folder)
        for machine in self.machines:
            if machine.folder == folder:
                self._fill_database(machine, full=False)

    def _fill_database(self, machine: NodeMachine, *, full: bool) -> None:
        """SQLite itself says that the disk is full, once its file may not grow."""
        if machine.agent is not None:
            database = machine.agent._store._db
            pages = database.execute("PRAGMA page_count").fetchone()[0]
            database.execute(f"PRAGMA max_page_count = {pages if full else 2**30}")

    def _write(self, write: Any) -> Any:
        def written(path: Path, *arguments: Any, **named: Any) -> Any:
            if any(path.is_relative_to(folder) for folder in self.full):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write(path, *arguments, **named)

        return written

    def _start_after(self, machine: Any, seconds: float) -> None:
        machine.held_off = False
        self.world.after(seconds, lambda: None if machine.held_off else machine.start())

    # What is seen of it

    def _switched(self, machine: str, model: str, digest: bytes) -> None:
        self._remember(machine, model, digest)
        self.ran.append(Ran(self.world.now, machine, model, digest))

    def _remember(self, name: str, model: str, digest: bytes) -> None:
        """Keep what a node ran before a rollout moved it, as somebody would who only watches."""
        machine = next((one for one in self.machines if one.name == name), None)
        decides = self.decides(machine, model) if machine is not None else None
        since = (
            max(machine.lost_at, machine.stopped_at.get(model, -1)) if machine is not None else 0
        )  # before it, nothing is known or served
        ran = [one.digest for one in self.ran if (one.machine, one.model) == (name, model) and one.at > since]
        if decides is not None and decides.state in ("running", "done") and decides.release.digest == digest and ran and ran[-1] != digest:
            self.before.setdefault((name, decides.rollout), ran[-1])

    def _signed(self, model: str, found: Deployments) -> None:
        self.signed.append((model, found))
        nodes = self.hub.service._ingest.nodes if self.hub.service is not None else {}
        known = {name: dict(node.labels) for name, node in nodes.items()}
        for rollout, stage, reached, wanted, threshold in statements.shares(found, known):
            if (rollout, stage) not in self._stages_seen:  # nodes that come later fall where their place puts them
                self._stages_seen.add((rollout, stage))
                is_kept = self._thresholds.get(rollout) == threshold  # A stage takes back nothing of the one before.
                self._thresholds[rollout] = threshold
                if reached != wanted and not (is_kept and reached > wanted):
                    self.shares.append(f"a stage of {model} reaches {reached} of {len(nodes)} known nodes, and should reach {wanted}")

    def named(self, machine: NodeMachine, model: str) -> set[bytes]:
        """Return what any stage ever named for a node, whatever labels it had then."""
        return {
            digest
            for about, found in self.signed
            if about == model
            for labels in machine.all_labels
            if (digest := statements.names(found, machine.node, labels)) is not None
        }

    def _took_back(self, machine: NodeMachine, model: str) -> bool:
        statements_of = (found for about, found in self.signed if about == model)
        decided = (statements.decides_for(found, machine.node, labels) for found in statements_of for labels in machine.all_labels)
        return any(one is not None and one.state == "rolled_back" for one in decided)

    # The end

    def come_to_rest(self) -> None:
        """Bring everything back, and wait until nothing moves any more."""
        self.traffic.end()
        for copy in self.extra:
            self._unclone(copy)
        self.full.clear()
        self.broker.start()
        for number, machine in enumerate(self.machines):
            machine.road.broken, machine.held_off = False, False
            machine.clocks.wrong_by = 0.0
            self._lost_links[number] += 1
            self._fill_database(machine, full=False)
        self.hub.clocks.wrong_by, self.hub.held_off = 0.0, False
        self.world.events = [one for one in self.world.events if getattr(one[2], "__name__", "") != "put_right"]
        import heapq

        heapq.heapify(self.world.events)
        self.hub.start()
        for machine in self.machines:
            machine.start()
        self.run(120.0)
        for machine in (self.hub, *self.machines):
            machine.hurry(RUSHED_SECONDS)
        before = None
        for _ in range(40):
            now = self.view()
            if now == before and self._is_quiet():
                return
            before = now
            self.run(300.0)

    def _is_quiet(self) -> bool:
        return not any(machine._is_on_trial() or not self.is_online(machine) for machine in (self.hub, *self.machines))

    def is_online(self, machine: HubMachine | NodeMachine) -> bool:
        process = machine.service if isinstance(machine, HubMachine) else machine.agent
        return process is not None and process._online

    def models(self) -> tuple[str, ...]:
        return template.MODELS[: self.plan.models]

    def view(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """What every node answers, says and is believed to serve."""
        found: dict[tuple[str, str], tuple[Any, ...]] = {}
        for machine in self.machines:
            for model in self.models():
                found[machine.name, model] = (self.answer(machine, model), self.state_of(machine, model), self.believed(machine, model))
        return found

    def answer(self, machine: NodeMachine, model: str) -> tuple[int, str]:
        return machine.ask(model) if machine.on else (0, "it is off")

    def state_of(self, machine: NodeMachine, model: str) -> tuple[str | None, str | None, str | None, str]:
        if machine.agent is None:
            return None, None, None, "it is off"
        for slot in machine.agent._slots.report_of():
            if slot.model == model:
                return slot.serving_version, slot.target_version, slot.state, str(slot.code)
        return None, None, None, ""

    def believed(self, machine: NodeMachine, model: str) -> str | None:
        if self.hub.service is None:
            return None
        node = self.hub.service._ingest.nodes.get(machine.node)
        serving = node.serving.get(model) if node is not None else None
        return serving.version if serving is not None else None

    def decides(self, machine: NodeMachine, model: str) -> Deployment | None:
        found = statements.statement(Repository(self.hub.folder / "trust"), model)
        return statements.decides_for(found, machine.node, machine.labels)

    def digest(self, model: str, version: str) -> bytes:
        return sha256(self.manifests[model, version])

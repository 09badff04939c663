"""The machines of a simulated fleet: one with the real hub, the others with a real agent each. They start, take turns, leave, and die."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.service.broker.inbox import Inbox as HubInbox
from hub.service.loop import Service
from hub.settings import HubSettings, load
from node.agent.inbox import Inbox as AgentInbox
from node.agent.loop import Agent
from node.enrol.enrolment_files import KEY_NAME
from node.settings import NodeSettings
from schemas import codec
from schemas.deployments import Deployments
from schemas.errors import FleetcastError
from schemas.topics import Topics
from schemas.window import Window
from tests.simulation.whole_fleet import statements, template
from tests.simulation.whole_fleet.broker import Broker, Road, SimClient
from tests.simulation.whole_fleet.site import Site
from tests.simulation.whole_fleet.world import Clocks, PowerCutError, World

if TYPE_CHECKING:
    from node.storage.store import NodeStore

EARLY_SECONDS = 1.0  # by which a turn may count more than it has seen
AGAIN_SECONDS = 5.0  # after which a service manager starts a process again that ended with an error
LEAST_SECONDS = 0.5  # between two turns right after something came, and then
SLOWER = 8  # times as much
RHO_DAY_MAX, IDLE_SECONDS = 0.5, 30.0  # A day's privacy budget, of some ten windows; a window closes so long after its last row.
QUIET = ("active", "refused", "rolled_back", "idle")  # states of a slot in which nothing is under way
STEP_SECONDS = 30.0  # after it has signed something a hub looks often whether the next step is due
TRIAL_SECONDS = 4.0  # between two turns while something is on trial: what passes in less than 5 s counts whole
LULL_SECONDS = 60.0  # between two turns of a machine that waits for nothing
SLOW_SECONDS = 10.0  # until a slow machine looks at what came: an answer to CONNECT is waited for 30 s
RUSHED_SECONDS = 150.0  # beyond it nothing is on trial
PRODUCT = tuple(f"/{package}/" for package in ("hub", "node", "schemas", "fleetcast"))


class Machine:
    """Something that takes turns: soon while there is something to do, and ever more seldom while there is not."""

    SOON_SECONDS = 0.02

    def __init__(self, world: World, broker: Broker, name: str) -> None:
        self.world, self.broker, self.name = world, broker, name
        self.rng = world.random(f"machine {name}")
        self.clocks, self.road = Clocks(world), Road()
        self.clients: list[SimClient] = []
        self.on = False
        self.starts = 0
        self.idle_seconds, self.least_seconds = LEAST_SECONDS, LEAST_SECONDS
        self.lull_seconds, self.soon_seconds = LULL_SECONDS, self.SOON_SECONDS
        self.cut_after = 0  # calls of the product's functions in the next busy turn, and then the power is off
        self.died: list[str] = []  # what ended a process of it, where nobody asked for that
        self._due: float | None = None
        self._turns = 0

    def wake(self) -> None:
        """Something came."""
        self.idle_seconds = self.least_seconds
        self._plan(self.world.now + self.soon_seconds)

    def hurry(self, lull_seconds: float = LULL_SECONDS) -> None:
        """Take turns at least so often; beyond the usual pause it is a slow machine, which is as right."""
        self.lull_seconds = lull_seconds
        is_slow = lull_seconds > RUSHED_SECONDS
        self.least_seconds = lull_seconds / 4 if is_slow else LEAST_SECONDS
        self.soon_seconds = SLOW_SECONDS if is_slow else self.SOON_SECONDS
        self.wake()

    def start(self) -> None:
        if self.on:
            return
        self.starts += 1
        self.clocks.boot(self.rng.uniform(0, 1e6))
        self.on = True
        try:
            self._begin()
        except PowerCutError:
            raise
        except FleetcastError as error:
            self._ended(error)
            return
        self._plan(self.world.now + self.SOON_SECONDS)

    def leave(self) -> None:
        """As after SIGTERM."""
        if self.on:
            self._leave()
            self._off()

    def kill(self) -> None:
        """As after kill -9, or a power cut."""
        if self.on:
            self._drop()
            self._off()

    def client(self, *arguments: Any, client_id: str, **named: Any) -> SimClient:
        made = SimClient(self.broker, self.road, client_id.rpartition(".")[2])  # One fleet: its name says nothing.
        self.clients = [made]
        return made

    def _begin(self) -> None:
        raise NotImplementedError

    def _turn(self) -> bool:
        """Take a turn; return whether there is more to do at once."""
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError

    def _drop(self) -> None:
        raise NotImplementedError

    def _busy(self) -> bool:
        raise NotImplementedError

    def _is_on_trial(self) -> bool:
        """Return whether time counts for something."""
        raise NotImplementedError

    def _next_at(self) -> float | None:
        return None

    def _off(self) -> None:
        self.on, self._due, self.cut_after = False, None, 0
        for client in self.clients:
            client.vanish()
        self.clients = []

    def _plan(self, when: float) -> None:
        when = max(when, self.clocks.ahead_until)
        if self.on and (self._due is None or when < self._due):
            self._due = when
            self._turns += 1
            self.world.at(when, lambda number=self._turns: self._take_turn(number))  # type: ignore[misc]

    def _take_turn(self, number: int) -> None:
        if not self.on or number != self._turns:
            return
        self._due = None
        try:
            if self.cut_after and self._busy():
                with _PowerCut(self.cut_after):
                    more = self._turn()
                raise PowerCutError
            more = self._turn()
        except PowerCutError:
            self._drop()
            self._off()
            return
        except FleetcastError as error:
            self._leave()
            self._ended(error)
            return
        if more:
            self._plan(self.world.now + self.soon_seconds)
            return
        when = self.world.now + self.idle_seconds
        self.idle_seconds = min(max(self.lull_seconds, self.least_seconds), self.idle_seconds * SLOWER)
        if self.lull_seconds <= RUSHED_SECONDS and self._is_on_trial():
            self.idle_seconds = min(self.idle_seconds, TRIAL_SECONDS)
        planned = self._next_at()
        self._plan(when if planned is None else min(when, max(planned, self.world.now + self.SOON_SECONDS)))

    def _ended(self, error: FleetcastError) -> None:
        self.died.append(f"{self.world.now:.0f}: {error}")
        self._off()
        self.world.after(AGAIN_SECONDS, lambda starts=self.starts: self.start() if self.starts == starts and not self.held_off else None)  # type: ignore[misc]

    held_off = False  # somebody wants it off


class _PowerCut:
    """Count calls of the product's functions, and end all at one of them."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __enter__(self) -> None:
        sys.setprofile(self._look)

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: Any, event: str, argument: object) -> None:
        if event == "call" and any(part in frame.f_code.co_filename for part in PRODUCT) and "/tests/" not in frame.f_code.co_filename:
            self._left -= 1
            if self._left <= 0:
                sys.setprofile(None)
                raise PowerCutError


class _AgentInbox(AgentInbox):
    """Nobody waits at it: the machine takes its turns when something is there."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item)
        self._wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block=False)


class _HubInbox(HubInbox):
    """Waiting is a matter of the machine's clock."""

    def __init__(self, settings: HubSettings, clocks: Clocks, wake: Callable[[], None]) -> None:
        super().__init__(Topics(settings.fleet), settings, monotonic=clocks.monotonic)
        self._wake, self._sleep = wake, clocks.sleep

    def put(self, event: Any, /) -> None:
        super().put(event)
        self._wake()

    def wait(self, seconds: float) -> None:
        if not self.waits:
            self._sleep(seconds)

    @property
    def waits(self) -> bool:
        return bool(self._events) or len(self._lanes) > 0


class NodeMachine(Machine):
    """A device: its data folder, its site's settings, and the agent while it runs."""

    def __init__(
        self,
        world: World,
        broker: Broker,
        name: str,
        folder: Path,
        *,
        node: str,
        key: bytes,
        switched: Callable[[str, str, bytes], None],
        telemetry: bool,
    ) -> None:
        super().__init__(world, broker, name)
        self.node, self.folder, self.key, self.switched = node, folder, key, switched
        self.telemetry = telemetry
        self.made_windows: set[bytes] = set()  # Ids of all that was ever put in the outbox, and of those that the broker has acknowledged.
        self.acknowledged: set[bytes] = set()
        self.labels: dict[str, str] = {}
        self.all_labels: list[dict[str, str]] = []  # that it ever had
        self.agent: Agent | None = None
        self.site: Site | None = None
        self.lost_at = -1.0  # when it last lost all that it knew
        self.remembers = True  # Whether its database is the one that it began with.
        self.served: dict[bytes, float] = {}  # for how long each release has answered here
        self.proved: set[bytes] = set()
        self.proved_early: list[str] = []
        self.stopped_at: dict[str, float] = {}  # when a statement last took the only release of a model back
        self.may_stop: Callable[[str], bool] = lambda model: False
        self._answered: set[bytes] = set()  # what could answer at the turn before
        self._looked_at = 0.0

    def make(self) -> None:
        """Give it its folder."""
        template.new_node(self.folder, key=self.key)

    def lose(self, what: str) -> None:
        """Lose files while it is off."""
        self.remembers = False
        self.proved.update(self.served)  # what was on trial then is not known any more
        if what == "data":
            self.lost_at = self.world.now
            shutil.rmtree(self.folder)
            template.new_node(self.folder, key=self.key)
        else:
            for path in self.folder.glob("node.sqlite*"):
                path.unlink()

    def replace_key(self, key: bytes) -> None:
        """Be new hardware by the same name."""
        self.key, self.lost_at, self.remembers = key, self.world.now, False
        shutil.rmtree(self.folder)
        template.new_node(self.folder, key=key)
        assert (self.folder / KEY_NAME).read_bytes() == key

    def label(self, labels: dict[str, str]) -> None:
        """Take effect at the next start, as settings do."""
        self.labels = labels
        if labels not in self.all_labels:
            self.all_labels.append(labels)

    def ask(self, model: str, value: float = 0.0) -> tuple[int, str]:
        assert self.site is not None
        assert self.site.server is not None
        return self.site.server.ask(model, value)

    def _begin(self) -> None:
        self.site = Site(self.world, lambda model, digest: self.switched(self.name, model, digest))
        settings = NodeSettings(
            id=self.node,
            fleet=template.FLEET,
            broker="mqtt://sim:1883",
            data=self.folder,
            root=self.folder / "root.json",
            port=0,
            isolation="inline",
            telemetry=self.telemetry,
            rho_day_max=RHO_DAY_MAX,
            idle_seconds=IDLE_SECONDS,
            labels=dict(self.labels),
        )
        self._inbox = _AgentInbox(self.wake)
        self.agent = Agent(
            settings,
            pinned_root=template.template().root,
            wall=self.clocks.wall,  # type: ignore[arg-type]
            monotonic=self.clocks.monotonic,  # type: ignore[arg-type]
            rng=self.world.random(f"agent {self.name} {self.starts}"),
            inbox=self._inbox,
            make_client=self.client,  # type: ignore[arg-type]
            make_server=self.site.make,
        )
        if self.telemetry:
            self._follow_windows(self.agent._store)
        self.agent.begin()
        self.site.loop.pump()

    def _follow_windows(self, store: "NodeStore") -> None:
        enqueue, mark_sent = store.enqueue, store.mark_sent

        def enqueued(kind: str, topic: str, payload: bytes) -> int:
            if kind == "window":
                self.made_windows.add(codec.decode(Window, payload).id)
            return enqueue(kind, topic, payload)

        def sent(ids: Sequence[int], *, at: float = 0.0) -> None:
            for one in ids:
                kept = store._db.execute("SELECT payload FROM outbox WHERE kind = 'window' AND id = ?", (one,)).fetchone()
                if kept is not None:
                    self.acknowledged.add(codec.decode(Window, kept[0]).id)
            mark_sent(ids, at=at)

        store.enqueue, store.mark_sent = enqueued, sent  # type: ignore[method-assign]

    def _turn(self) -> bool:
        assert self.agent is not None
        assert self.site is not None
        self.site.loop.pump()
        self.agent.turn()
        self.site.loop.pump()
        self._look_at_trials()
        return not self._inbox.empty()

    def _look_at_trials(self) -> None:
        """Measure for how long each release has answered, and see whether one is taken as proven before its time."""
        assert self.agent is not None
        assert self.site is not None
        assert self.site.server is not None
        passed, self._looked_at = self.world.now - self._looked_at, self.world.now
        current = [slot.current for slot in self.site.server._pool.slots.values() if slot.current is not None]
        answers = {held.staged.digest for held in current if held.live}
        for digest in answers:
            self.served[digest] = self.served.get(digest, 0.0) + (passed if digest in self._answered else 0.0)
        self._answered = answers
        for model, slot in self.agent._slots._slots.items():
            if slot.serving is None and self.may_stop(model):
                self.stopped_at[model] = self.world.now
            if slot.serving is None or not slot.proven or slot.serving.digest in self.proved:
                continue
            self.proved.add(slot.serving.digest)
            seconds = self.served.get(slot.serving.digest, 0.0)
            if seconds < template.PROBATION_SECONDS - EARLY_SECONDS:
                self.proved_early.append(f"{model}@{slot.serving.version} at {self.world.now:.0f} after {seconds:.1f} s of serving")

    def _busy(self) -> bool:
        return not self._inbox.empty()

    def _is_on_trial(self) -> bool:
        slots = self.agent._slots._slots.values() if self.agent is not None else ()
        return any(slot.state not in QUIET or (slot.serving is not None and not slot.proven) for slot in slots)

    def _next_at(self) -> float | None:
        return self.site.loop.next_at() if self.site is not None else None

    def _leave(self) -> None:
        assert self.agent is not None
        self.agent.leave()
        self._ended_process()

    def _drop(self) -> None:
        if self.agent is not None:
            self.agent._store._db.close()
        self._ended_process()

    def _ended(self, error: FleetcastError) -> None:
        self._ended_process()
        super()._ended(error)

    def _ended_process(self) -> None:
        self._answered = set()
        if self.site is not None:
            self.site.end()
        self.agent = self.site = None


class HubMachine(Machine):
    """The hub's machine: the fleet's folder, and the service while it runs. It is a busy one, and takes what came in larger shares."""

    SOON_SECONDS = 0.25

    def __init__(self, world: World, broker: Broker, folder: Path, *, signed: Callable[[str, Deployments], None]) -> None:
        super().__init__(world, broker, "hub")
        self.folder, self.signed = folder, signed
        self._signed_at = -STEP_SECONDS
        self.service: Service | None = None
        shutil.copytree(template.template().directory, folder)

    def back_up(self, to: Path) -> None:
        """Copy the folder, as an operator would who knows how to copy a database that is in use: nothing is half written between turns."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)

    def restore(self, backup: Path) -> None:
        """Put the copy in place of the folder, while the hub is off."""
        blocks = self.folder / "blocks"
        blocks.rename(self.folder.with_name("blocks"))  # what was published since is in the backup of that
        shutil.rmtree(self.folder)
        shutil.copytree(backup, self.folder)
        shutil.rmtree(self.folder / "blocks")
        self.folder.with_name("blocks").rename(blocks)

    def _begin(self) -> None:
        settings = load(self.folder)
        self._inbox = _HubInbox(settings, self.clocks, self.wake)
        (self.folder / "hub.ready").unlink(missing_ok=True)
        self.service = Service(
            self.folder,
            settings,
            signers=template.template().signers,
            wall=self.clocks.wall,
            monotonic=self.clocks.monotonic,
            rng=self.world.random(f"hub {self.starts}"),
            sleep=self.clocks.sleep,
            inbox=self._inbox,
            make_client=self.client,  # type: ignore[arg-type]
        )
        statements.follow(self.service._announcer._repository, self._signs)
        self.service.begin()

    def _signs(self, model: str, found: Deployments) -> None:
        self._signed_at = self.world.now
        self.signed(model, found)

    def _turn(self) -> bool:
        assert self.service is not None
        self.service.turn()
        return self._inbox.waits

    def _busy(self) -> bool:
        return self._inbox.waits

    def _leave(self) -> None:
        assert self.service is not None
        self.service.leave()
        self.service = None

    def _drop(self) -> None:
        if self.service is not None:
            self.service._store.close()
            self.service._lock.close()
        self.service = None

    def _ended(self, error: FleetcastError) -> None:
        self._drop()
        super()._ended(error)

    def _is_on_trial(self) -> bool:
        """Return whether a rollout may take its next step soon: one that runs, and has taken one a while ago."""
        if self.service is None or self.world.now - self._signed_at >= STEP_SECONDS:
            return False
        models = self.service._controller._models.values()
        return any(one.deployment.state == "running" for model in models for one in model.rollouts)

"""Run the simulator in the tree of ad64768, before the mends of "First aid", to see that it finds what was wrong there.

That tree has no seams for a simulator, and other names: both are put on from outside, which nothing else here does. What hubs and
nodes do is that tree's own. With a checkout of it in EARLIER:

    PYTHONPATH=EARLIER:. python -P -m tests.simulation.whole_fleet.earlier_tree kept
    PYTHONPATH=EARLIER:. python -P -m tests.simulation.whole_fleet.earlier_tree 0-99
"""

import asyncio
import contextlib
import importlib
import json
import queue
import sys
import time
import types
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

RENAMED = {
    "node.core.inference.tensors": "node.core.tensors",
    "node.serving.worker_pool": "node.serving.routing",
    "node.workers.worker_handle": "node.workers",
    "hub.core.delivery.encode": "hub.core.encode",
    "hub.database.store": "hub.store",
    "hub.publish.block_store": "hub.blockstore",
    "hub.service.delivery.announce": "hub.service.announce",
    "hub.signing.tuf_repository": "hub.trust",
    "node.enrol.enrolment_files": "node.enrolment",
    "node.workers.device_profile": "node.settings",
}
NAMES_SHOWN = 6


def _module(name: str, **members: Any) -> Any:
    made: Any = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


class _SimpleInbox:
    """Stands for the base of the hub's inbox: in that tree it is a plain queue."""

    def __init__(self, topics: object) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, event: Any, /) -> None:
        self._queue.put(event)


class _NoTraffic:
    """Stands for the programs that ask: the plans that are run here have no telemetry."""

    def __init__(self, fleet: object) -> None:
        self.is_slow = False

    def end(self) -> None:
        pass


def _rename() -> None:
    """Offer that tree's modules by their present names."""
    for name, earlier in RENAMED.items():
        sys.modules[name] = importlib.import_module(earlier)
    routing: Any = sys.modules["node.serving.worker_pool"]
    routing.WorkerPool = routing.Router
    _module("hub.service.broker")
    _module("hub.service.broker.inbox", Inbox=_SimpleInbox)
    _module("node.agent.inbox", Inbox=queue.Queue)
    _module("fleetcast", durable=_module("fleetcast.durable", write=lambda *arguments, **named: None))
    _module("hub.cli.deploy", deploy=None)
    _module("schemas.deployments", Deployments=object, Deployment=object)
    probe: Any = importlib.import_module("node.runtimes.probe")
    probe.PROVIDERS, probe.unloadable = "providers.json", lambda folder: {}
    _module("tests.simulation.whole_fleet.statements", **_statements())
    _module("hub.core.rollouts")
    _module("hub.core.rollouts.refusals", findings_of=lambda state, refused: ())
    _module("tests.simulation.whole_fleet.memo", remembering=contextlib.nullcontext)
    _module("tests.simulation.whole_fleet.traffic", Traffic=_NoTraffic, broken=lambda fleet: ())


def _statements() -> dict[str, Any]:
    """Read that tree's rollouts, in which a node that no stage reaches keeps what it has: what was meant, and not what was done."""
    from schemas import codec
    from schemas.rollout import Rollout, bucket, selected

    def follow(repository: Any, signed: Any) -> None:
        sign = repository.set_rollout

        def heard(model: str, document: bytes, **more: Any) -> Any:
            signed(model, codec.decode(Rollout, document))
            return sign(model, document, **more)

        repository.set_rollout = heard

    def statement(repository: Any, model: str) -> Any:
        document = repository.rollout(model)
        return None if document is None else codec.decode(Rollout, document)

    def names(found: Any, node: str, labels: dict[str, str]) -> bytes | None:
        reached = found.state in ("running", "done") and selected(found, labels) and bucket(found.salt, node) < found.percent
        return found.release.digest if reached else None

    def decides_for(found: Any, node: str, labels: dict[str, str]) -> Any:
        if found is None or not selected(found, labels):
            return None
        reached = names(found, node, labels) is not None
        return types.SimpleNamespace(
            state=found.state, release=found.release, percent=found.percent, rollout=found.salt, reached=reached, fallback=found.fallback
        )

    def wants(decides: Any, node: str, labels: dict[str, str], *, serving: bytes | None, moved: Any, now: int) -> str | None:
        if decides is None or not decides.reached:
            return None
        return str(decides.release.version)

    def shares(found: Any, known: dict[str, dict[str, str]]) -> list[tuple[bytes, int, int, int, int]]:
        own = [name for name, labels in known.items() if selected(found, labels)]
        reached = sum(bucket(found.salt, name) < found.percent for name in own)
        is_part = found.state == "running" and found.percent < 100
        return [(found.salt, found.stage, reached, ceil(found.percent * len(own) / 100), found.percent)] if is_part else []

    def words(found: Any) -> str:
        return "no rollout" if found is None else f"{found.release.version} {found.state} {found.percent} %"

    return {
        "follow": follow,
        "statement": statement,
        "names": names,
        "decides_for": decides_for,
        "wants": wants,
        "shares": shares,
        "words": words,
    }


class _Present:
    """The machine that a process is being started on: that tree's constructors take nothing that would say it."""

    machine: Any = None


def _put_seams_on() -> None:
    from tests.simulation.whole_fleet import fleet, machines, site

    mqtt: Any = importlib.import_module("schemas.mqtt")
    mqtt._BoundedClient = lambda *arguments, client_id, **named: _Present.machine.client(client_id=client_id)
    routing: Any = sys.modules["node.serving.worker_pool"]
    virtual = types.SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), perf_counter=time.perf_counter, time=time.time)
    routing.time = virtual
    activation: Any = importlib.import_module("node.serving.activation")

    async def start(staged: Any, **named: Any) -> Any:
        owner: Any = asyncio.get_running_loop()
        return await owner.site.start(staged, **named)

    activation.start = start
    agents: Any = importlib.import_module("node.agent.loop")
    hubs: Any = importlib.import_module("hub.service.loop")
    agents.queue = types.SimpleNamespace(SimpleQueue=lambda: _Present.machine._inbox, Empty=queue.Empty)
    hubs.queue = types.SimpleNamespace(SimpleQueue=lambda: _Present.machine._inbox, Empty=queue.Empty)
    importlib.import_module("node.store").NodeStore.moved = lambda self, model: None  # type: ignore[attr-defined]

    class Server(agents.Server):  # type: ignore[misc,name-defined]
        """As `site.SimServer` is, over that tree's."""

        def __init__(self, owner: Any, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._site, self._pool = owner, self._router
            self._router.switch = self._switched(self._router)
            owner.loop.site = owner

    for name in ("_switched", "start", "stop", "_running", "_call", "ask"):
        setattr(Server, name, site.SimServer.__dict__[name])

    class Site(site.Site):
        def make(self, *arguments: Any, **named: Any) -> Any:
            self.server = Server(self, *arguments, **named)  # type: ignore[assignment]
            return self.server

    machines.Site = Site  # type: ignore[misc]

    def begin_agent(settings: Any, **named: Any) -> Any:
        machine = _Present.machine
        for name in ("inbox", "make_client"):
            named.pop(name)
        agents.Server = named.pop("make_server")
        made = agents.Agent(settings, **named)
        made.turn, made.leave = made._turn, made._leave
        made.begin = lambda: (
            [made.server.expect(model) for model, slot in made._store.slots().items() if slot.serving is not None],
            made.server.start(),
            made._beliefs.begin(made._slots),
            made._slots.resume(made._wall()),
            made._standing.began(),
        )
        assert machine is _Present.machine
        return made

    def begin_hub(directory: Path, settings: Any, **named: Any) -> Any:
        hubs.time = types.SimpleNamespace(sleep=named.pop("sleep"), time=time.time, monotonic=time.monotonic)
        for name in ("inbox", "make_client"):
            named.pop(name)
        made = hubs.Service(directory, settings, **named)
        made.turn, made.leave = made._turn, made._leave
        made.begin = lambda: (made._enrolling.start(), made._hooks.start())
        return made

    machines.Agent, machines.Service = begin_agent, begin_hub  # type: ignore[misc,assignment]
    _with_machine(machines.NodeMachine)
    _with_machine(machines.HubMachine)
    _with_queue(machines._HubInbox)
    machines.HubMachine._is_on_trial = lambda self: self.world.now - self._signed_at < machines.STEP_SECONDS  # type: ignore[method-assign]
    command = fleet.Fleet._command

    def without_force(self: Any, *arguments: str) -> str:
        return command(self, *(one for one in arguments if one != "--force"))

    fleet.Fleet._command = without_force  # type: ignore[method-assign]
    fleet.Fleet._pin = fleet.Fleet._unpin = lambda self, **values: "there are no deployments"  # type: ignore[method-assign,assignment]


def _with_machine(kind: Any) -> None:
    begin = kind._begin

    def begun(self: Any) -> None:
        _Present.machine = self
        begin(self)

    kind._begin = begun


def _with_queue(kind: Any) -> None:
    """That tree's hub waits at a plain queue."""

    def get(self: Any, timeout: float = 0.0) -> Any:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self._sleep(timeout)
            raise

    kind.get, kind.get_nowait = get, lambda self: self._queue.get_nowait()
    kind.waits = property(lambda self: not self._queue.empty())


def main(what: str) -> None:
    _rename()
    _put_seams_on()
    from tests.simulation.whole_fleet.operations import Plan, plan_of
    from tests.simulation.whole_fleet.runs import quiet, run

    with quiet():
        if what == "kept":
            for kept in json.loads(Path(__file__).with_name("kept.json").read_text()):
                outcome = run(kept["seed"], replace(Plan.from_json(kept), telemetry=False))
                print(f"{'FOUND' if outcome.broken else 'not found'}: {kept['why']}")
                for one in outcome.broken[:NAMES_SHOWN]:
                    print(f"    {one[:400]}")
            return
        first, _, last = what.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            outcome = run(seed, replace(plan_of(seed), telemetry=False))
            print(
                f"seed {seed}: {len(outcome.broken)} broken",
                *(f"    {one[:400]}" for one in outcome.broken[:NAMES_SHOWN]),
                sep="\n",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])

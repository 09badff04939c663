"""What must hold of a fleet at rest. Each finding is a sentence that names the node, both sides, and what would have made it legitimate."""

from collections.abc import Iterator
from typing import Any

from hub.core.roles.rivals import BEAT_SECONDS
from hub.core.rollouts.node_class import class_of
from hub.core.rollouts.refusals import findings_of
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code
from schemas.receipt import Receipt, SealedReceipt
from tests.simulation.whole_fleet import traffic
from tests.simulation.whole_fleet.fleet import Fleet
from tests.simulation.whole_fleet.machines import NodeMachine
from tests.simulation.whole_fleet.statements import wants, words
from tests.simulation.whole_fleet.template import KINDS

BAD = {version for version, kind in KINDS.items() if kind in ("broken", "crashing")}
STORM_SECONDS = 1200.0
CONNECTS_MAX = 3  # in that time, at rest
BEATS_MAX = STORM_SECONDS / BEAT_SECONDS + 5
MESSAGES_MAX = 25  # of one client: a state every five minutes, and what renewals cost


def broken(fleet: Fleet) -> list[str]:
    """Return everything that does not hold."""
    found = [*_ended(fleet), *_strangers(fleet), *fleet.storms, *fleet.shares]
    for machine in fleet.machines:
        found += [f"{machine.name} took as proven {one}" for one in machine.proved_early]
        for model in fleet.models():
            found += _of_node(fleet, machine, model)
    return [*found, *_storms(fleet), *traffic.broken(fleet)]  # the last windows close meanwhile


def _ended(fleet: Fleet) -> Iterator[str]:
    """Every process is back."""
    for machine in (fleet.hub, *fleet.machines):
        if not machine.on:
            yield f"{machine.name} does not run; it ended with {machine.died[-1:]}"
        elif not fleet.is_online(machine):
            yield f"{machine.name} is not connected at rest"


def _strangers(fleet: Fleet) -> Iterator[str]:
    """Nobody ever ran a release that no stage named for it."""
    seen = set()
    machines = {machine.name: machine for machine in (*fleet.machines, *fleet.extra)}
    named = {(name, model): fleet.named(machine, model) for name, machine in machines.items() for model in fleet.models()}
    for ran in fleet.ran:
        if ran.digest not in named[ran.machine, ran.model] and (ran.machine, ran.digest) not in seen:
            seen.add((ran.machine, ran.digest))
            yield f"{ran.machine} ran {ran.model}@{fleet.made.name_of(ran.digest)} at {ran.at:.0f}, which no stage named for it"


def _of_node(fleet: Fleet, machine: NodeMachine, model: str) -> Iterator[str]:
    if not machine.on or machine.agent is None:
        return
    who = f"{machine.name} {model}"
    status, version = fleet.answer(machine, model)
    answers = version if status == 200 else None
    serving, target, state, code = fleet.state_of(machine, model)
    how = f"its endpoint answers {status} {version} ({state} {code}, target {target})"
    if answers != serving:
        yield f"{who}: its endpoint answers {status} {version}, and its state says that it serves {serving} ({state} {code})"
    receipt = _receipt(machine, model)
    if receipt is not None and receipt.outcome == "serving" and receipt.version != answers:
        yield f"{who}: its last receipt says serving {receipt.version}, and its endpoint answers {status} {version}"
    known = fleet.machines.index(machine) not in fleet.replaced
    believed = fleet.believed(machine, model)
    # A node that has lost its data, and of which no statement wants anything, signs no receipt that it serves nothing: the hub goes by the
    # last one, and only the node's state says otherwise.
    is_forgotten = answers is None and machine.lost_at >= 0
    if known and believed != answers and not is_forgotten:
        yield f"{who}: the hub believes {believed}, and its endpoint answers {status} {version}"
    ran = [one for one in fleet.ran if (one.machine, one.model) == (machine.name, model) and one.at > machine.stopped_at.get(model, -1)]
    # What was at fault from the first is rightly gone, and so is what a device served that has lost its data, or was replaced.
    has_served = any(fleet.made.name_of(one.digest) not in BAD and one.at > machine.lost_at for one in ran)
    decides = fleet.decides(machine, model)
    wish = None if _refuses(fleet, machine, model) else _wish(fleet, machine, decides, model, serving)
    if wish is not None and wish == answers and (found := _class(fleet, machine, decides, model)) in {"moving", "waiting"}:
        yield f"{who}: it serves {answers}, as is wanted ({words(decides)}), and the hub has it as {found}"
    if has_served and answers is None and wish != "":
        yield f"{who}: it has served {fleet.made.name_of(ran[-1].digest)}, and {how}"
    if wish is not None and wish != (answers or "") and wish not in BAD:
        yield f"{who}: the deployment ({words(decides)}) wants {wish}, and {how}"
    if answers in BAD and KINDS[answers] == "broken":
        yield f"{who}: it serves {answers}, which fails its test"
    if target is not None and state not in ("active", "refused", "rolled_back", None):
        yield f"{who}: it is still {state} {code} with {target}"


def _refuses(fleet: Fleet, machine: NodeMachine, model: str) -> bool:
    """Return whether the hub says of a node that it refuses what a restored hub states: older than what it has followed."""
    node = fleet.hub.service._ingest.nodes.get(machine.node) if fleet.hub.service is not None else None
    if node is None or "hub restored" not in fleet.disturbed:
        return False
    return any(one.code == Code.TRUST_ROLLBACK and one.model in (None, model) for one in findings_of(node.state, node.refused))


def _wish(fleet: Fleet, machine: NodeMachine, decides: Deployment | None, model: str, serving: str | None) -> str | None:
    """Return the version that is wanted of this node; None: it keeps its own; empty: nothing."""
    assert machine.agent is not None
    digest = fleet.digest(model, serving) if serving is not None else None
    before = fleet.before.get((machine.name, decides.rollout)) if decides is not None and decides.state == "rolled_back" else None
    if before is not None and machine.remembers:
        return fleet.made.name_of(before)  # going back is to the node's own release before this rollout
    moved, now = machine.agent._store.moved(model), int(machine.clocks.wall())
    return wants(decides, machine.node, machine.labels, serving=digest, moved=moved, now=now)


def _class(fleet: Fleet, machine: NodeMachine, decides: Deployment | None, model: str) -> str | None:
    """Return the class in which the hub has a node that is heard; None where it does not know the node."""
    node = fleet.hub.service._ingest.nodes.get(machine.node) if fleet.hub.service is not None else None
    if node is None or decides is None:
        return None
    return class_of(decides, node, model=model, heard=True, silent_seconds=0, failed_from=2**53, now=int(fleet.hub.clocks.wall())).name


def _receipt(machine: NodeMachine, model: str) -> Receipt | None:
    """Return the newest receipt that the node has signed about this model."""
    assert machine.agent is not None
    rows = machine.agent._store._db.execute("SELECT payload FROM outbox WHERE kind = 'receipt' ORDER BY id DESC LIMIT 32").fetchall()
    for row in rows:
        receipt = codec.decode(Receipt, codec.decode(SealedReceipt, row[0]).body)
        if receipt.model == model:
            return receipt
    return None


def _storms(fleet: Fleet) -> Iterator[str]:
    """A fleet at rest is nearly silent."""
    before = dict(fleet.broker.counts)
    for machine in (fleet.hub, *fleet.machines):
        machine.hurry(300.0)
    view = fleet.view()
    fleet.world.run(STORM_SECONDS)
    for about, now in fleet.view().items():
        if now != view[about]:
            yield f"{' '.join(about)}: it was not at rest: {view[about]} became {now}"
    for machine in (fleet.hub, *fleet.machines):
        grown = {
            kind: count - before.get((name, kind), 0) for (name, kind), count in fleet.broker.counts.items() if name == machine_id(machine)
        }
        beats, connects = grown.pop("presence", 0), grown.pop("connect", 0)  # no node reads a hub's presence
        messages = sum(grown.values())
        if beats > BEATS_MAX:
            yield f"{machine.name} said {beats} times in {STORM_SECONDS:.0f} s that it is there"
        if connects > CONNECTS_MAX:
            yield f"{machine.name} connected {connects} times in {STORM_SECONDS:.0f} s at rest"
        if messages > MESSAGES_MAX:
            yield f"{machine.name} sent {messages} messages in {STORM_SECONDS:.0f} s at rest: {grown}"


def machine_id(machine: Any) -> str:
    return machine.node if isinstance(machine, NodeMachine) else "hub"

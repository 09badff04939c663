"""The life of one model slot, as a table. Decides; neither fetches, loads nor switches anything itself.

`MOVES` names every state that an event may lead to. What it does not name raises `ImpossibleMove` and changes nothing. The owner makes a
new slot durable before it carries out the commands, so that after a crash `resume` can say what is still to be done.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from schemas.document import Fact
from schemas.manifest import Seconds
from schemas.names import Digest, ModelName, Version
from schemas.state import SlotState

EventName = Literal[
    "wanted", "fetched", "prepared", "switched", "settled", "failed", "withdrawn", "dropped", "stalled", "budget_spent", "goes_on"
]

MOVES: dict[tuple[SlotState, EventName], SlotState] = {
    ("idle", "wanted"): "fetching",
    ("active", "wanted"): "fetching",
    ("refused", "wanted"): "fetching",
    ("rolled_back", "wanted"): "fetching",
    ("fetching", "wanted"): "fetching",  # a newer release cancels the older transfer
    ("staged", "wanted"): "fetching",
    ("testing", "wanted"): "fetching",
    ("probation", "wanted"): "fetching",
    ("out_of_budget", "wanted"): "fetching",
    ("fetching", "fetched"): "staged",
    ("fetching", "stalled"): "fetching",  # a full disk, or blocks that never come: it waits, with a code
    ("fetching", "budget_spent"): "out_of_budget",
    ("fetching", "goes_on"): "fetching",
    ("out_of_budget", "goes_on"): "fetching",
    ("out_of_budget", "stalled"): "fetching",
    ("out_of_budget", "budget_spent"): "out_of_budget",  # by another rule now
    ("out_of_budget", "fetched"): "staged",  # what was missing was carried here
    ("out_of_budget", "failed"): "refused",
    ("out_of_budget", "withdrawn"): "active",
    ("out_of_budget", "dropped"): "idle",
    ("staged", "prepared"): "testing",
    ("testing", "switched"): "probation",
    ("probation", "settled"): "active",
    ("fetching", "failed"): "refused",
    ("staged", "failed"): "refused",
    ("testing", "failed"): "refused",
    ("probation", "failed"): "rolled_back",
    ("active", "failed"): "rolled_back",
    ("fetching", "withdrawn"): "active",  # back to what is served
    ("staged", "withdrawn"): "active",
    ("testing", "withdrawn"): "active",
    ("fetching", "dropped"): "idle",  # nothing was served before
    ("staged", "dropped"): "idle",
    ("testing", "dropped"): "idle",
}


FETCHING: frozenset[SlotState] = frozenset({"fetching", "out_of_budget"})
UNDER_WAY: frozenset[SlotState] = FETCHING | {"staged", "testing"}


class ImpossibleMove(RuntimeError):
    """An event that the table does not allow: a bug of ours."""


class Target(Fact):
    """A release that a rollout wants here; the salt tells one rollout from the next."""

    version: Version
    digest: Digest
    rollout: bytes = b""


class ModelSlot(Fact):
    """What a node serves for one model, what it can fall back on, and what it is busy becoming."""

    model: ModelName
    state: SlotState = "idle"
    target: Target | None = None
    serving: Target | None = None
    last_good: Target | None = None
    since: Seconds = 0  # of the present state
    serving_since: Seconds = 0
    code: str = Field(default="", max_length=64)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring the release's files to disk, verified."""

    target: Target


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Stop a transfer; its blocks stay."""

    target: Target


@dataclass(frozen=True, slots=True)
class Prepare:
    """Load in a worker of its own, self-test, warm up."""

    target: Target


@dataclass(frozen=True, slots=True)
class Switch:
    """New requests go to this release from now on; what served before drains, and its worker ends."""

    target: Target


@dataclass(frozen=True, slots=True)
class Retire:
    """End this release's worker: it serves nothing, or must not any more."""

    target: Target


@dataclass(frozen=True, slots=True)
class Restore:
    """Load a release that was good before, and switch to it without another test period."""

    target: Target


@dataclass(frozen=True, slots=True)
class Report:
    """Sign a receipt."""

    outcome: Literal["serving", "refused", "rolled_back"]
    target: Target
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tidy:
    """Remove from disk what is neither served, last good nor wanted."""


Command = Fetch | CancelFetch | Prepare | Switch | Retire | Restore | Report | Tidy
Step = tuple[ModelSlot, list[Command]]


def wanted(slot: ModelSlot, target: Target, *, now: int) -> Step:
    """A rollout wants this release here. Wanting what is served, or what this rollout was refused already, changes nothing."""
    if slot.target is not None and slot.target.digest == target.digest:
        if slot.state in {*UNDER_WAY, "probation", "active"} or slot.target.rollout == target.rollout:
            return slot, []
    elif slot.serving is not None and slot.serving.digest == target.digest:
        return _withdrawn(slot, target, now=now)
    cancel = _cancel(slot)
    return _move(slot, "wanted", now, target=target, code=""), [*cancel, Fetch(target)]


def halted(slot: ModelSlot, *, now: int) -> Step:
    """The rollout moves nobody any more: what is under way is given up, its blocks stay; what is served, or on probation, goes on."""
    if slot.state not in UNDER_WAY:
        return slot, []
    if slot.serving is None:
        return _move(slot, "dropped", now, target=None, code=""), _cancel(slot)
    return _withdrawn(slot, slot.serving, now=now)


def fetched(slot: ModelSlot, *, now: int) -> Step:
    """Every file is on disk and verified."""
    target = _target(slot)
    return _move(slot, "fetched", now, code=""), [Prepare(target)]


def waits(slot: ModelSlot, code: str, *, spent: bool, now: int) -> Step:
    """The transfer cannot go on for now, because a budget is spent or for another reason; without a code it goes on."""
    if slot.state not in FETCHING:
        return slot, []
    return _move(slot, "goes_on" if not code else "budget_spent" if spent else "stalled", now, code=code), []


def prepared(slot: ModelSlot, *, now: int) -> Step:
    """The worker is warm and has proved itself on the golden inputs."""
    target = _target(slot)
    return _move(slot, "prepared", now), [Switch(target)]


def switched(slot: ModelSlot, *, now: int) -> Step:
    """Requests go to the new release; the old one stays on disk as the last good."""
    target = _target(slot)
    moved = _move(slot, "switched", now, serving=target, last_good=slot.serving or slot.last_good, serving_since=now)
    return moved, [Report("serving", target)]


def settled(slot: ModelSlot, *, now: int) -> Step:
    """Probation is over."""
    return _move(slot, "settled", now), [Tidy()]


def failed(slot: ModelSlot, code: str, reason: str, *, now: int) -> Step:
    """The target was refused, or the served release misbehaved: keep or bring back what works."""
    if slot.state in {"probation", "active"}:
        bad = slot.serving or _target(slot)
        good = slot.last_good if slot.last_good is not None and slot.last_good.digest != bad.digest else None
        moved = _move(slot, "failed", now, serving=good, last_good=None, code=code, target=bad, serving_since=now if good else 0)
        return moved, [Restore(good) if good is not None else Retire(bad), Report("rolled_back", bad, code, reason)]
    target = _target(slot)
    return _move(slot, "failed", now, code=code), [*_cancel(slot), Report("refused", target, code, reason)]


def resume(slot: ModelSlot) -> list[Command]:
    """What to do after a restart: bring back what was served, then go on with what was under way."""
    commands: list[Command] = [Restore(slot.serving)] if slot.serving is not None else []
    if slot.target is not None and slot.state in FETCHING:
        commands.append(Fetch(slot.target))
    elif slot.target is not None and slot.state in {"staged", "testing"}:
        commands.append(Prepare(slot.target))  # its worker died with us
    return commands


def restarted(slot: ModelSlot) -> ModelSlot:
    """The slot as it is after the process ended: a test under way has to begin again."""
    return slot.model_copy(update={"state": "staged"}) if slot.state == "testing" else slot


def _withdrawn(slot: ModelSlot, target: Target, *, now: int) -> Step:
    """The rollout wants what is served already: whatever was under way is given up."""
    if slot.state in UNDER_WAY:
        return _move(slot, "withdrawn", now, target=target, code=""), _cancel(slot)
    return slot, []


def _cancel(slot: ModelSlot) -> list[Command]:
    if slot.target is None:
        return []
    if slot.state in FETCHING:
        return [CancelFetch(slot.target)]
    return [Retire(slot.target)] if slot.state in {"staged", "testing"} else []


def _target(slot: ModelSlot) -> Target:
    if slot.target is None:
        raise ImpossibleMove(f"{slot.model}: {slot.state} without a target")
    return slot.target


def _move(slot: ModelSlot, event: EventName, now: int, **changes: object) -> ModelSlot:
    state = MOVES.get((slot.state, event))
    if state is None:
        raise ImpossibleMove(f"{slot.model}: {event} in state {slot.state}")
    return slot.model_copy(update={"state": state, "since": now, **changes})

"""Decide the moves of one model slot, by the table of schemas.lifecycle. Neither fetches, loads nor switches anything itself.

`MOVES` names every state that an event may lead to. What it does not name raises `ImpossibleMove` and changes nothing. The owner makes a
new slot durable, with the move that led to it and whatever it reports, before it carries out the other commands, so that after a crash
`interrupted` can say what is still to be done, and `replay` can say how it came to be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from schemas.document import Fact
from schemas.errors import Code
from schemas.lifecycle import MOVES, EventName
from schemas.names import Digest, ModelName, Version
from schemas.quantities import Seconds
from schemas.state import SlotState

FETCHING: frozenset[SlotState] = frozenset({"fetching", "out_of_budget"})
IN_WORKER: frozenset[SlotState] = frozenset({"testing", "shadow"})
UNDER_WAY: frozenset[SlotState] = FETCHING | IN_WORKER | frozenset[SlotState]({"staged"})
SERVING: frozenset[SlotState] = frozenset({"probation", "active"})


class ImpossibleMove(RuntimeError):
    """Signal an event that the table does not allow: a bug of ours."""


class Target(Fact):
    """Hold a release that a rollout wants here; the salt tells one rollout from the next."""

    version: Version
    digest: Digest
    rollout: bytes = b""


class ModelSlot(Fact):
    """Describe what a node serves for one model, what it can fall back on, and what it is busy becoming."""

    model: ModelName
    state: SlotState = "idle"
    target: Target | None = None
    serving: Target | None = None
    last_good: Target | None = None
    since: Seconds = 0  # When the present state began.
    serving_since: Seconds = 0
    proven: bool = False  # what is served has passed its probation
    last_good_proven: bool = False  # not where the first release of all was superseded before it settled
    code: str = Field(default="", max_length=64)
    moves: int = 0  # that led here since the slot began


class Move(Fact):
    """Hold one step of a slot through the table, as it is kept."""

    number: int
    at: Seconds
    event: EventName
    before: SlotState
    after: SlotState
    target: Target | None = None
    code: str = Field(default="", max_length=64)


def newest_first(slots: Iterable[ModelSlot]) -> list[str]:
    """Return the models of slots: those that are under way, then those whose state began last."""
    return [slot.model for slot in sorted(slots, key=lambda slot: (slot.state not in UNDER_WAY, -slot.since, slot.model))]


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
class Compare:
    """Have this release answer beside what is served; only whether they agree is kept."""

    target: Target


@dataclass(frozen=True, slots=True)
class Switch:
    """Send new requests to this release from now on; what served before drains, and its worker ends unless it is compared from now on."""

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


Command = Fetch | CancelFetch | Prepare | Compare | Switch | Retire | Restore | Report | Tidy


@dataclass(frozen=True, slots=True)
class Step:
    """Hold the slot after an event, what is to be done about it, and the move through the table; none where nothing moved."""

    slot: ModelSlot
    commands: list[Command]
    move: Move | None = None


def wanted(slot: ModelSlot, target: Target, *, now: int) -> Step:
    """Take in that a rollout wants this release here. Wanting what is served, or what this rollout was refused already, changes nothing."""
    if _same(slot.serving, target):
        return _withdrawn(slot, target, now=now)
    if slot.target is not None and _same(slot.target, target) and (slot.state in UNDER_WAY or slot.target.rollout == target.rollout):
        return Step(slot, [])
    return _move(slot, "wanted", now, [*_cancel(slot), Fetch(target)], target=target, code="")


def halted(slot: ModelSlot, *, now: int) -> Step:
    """Take in that the rollout moves nobody any more: what is under way is given up, its blocks stay; what is served, or on probation,
    goes on.
    """
    if slot.state not in UNDER_WAY:
        return Step(slot, [])
    if slot.serving is None:
        return _move(slot, "dropped", now, _cancel(slot), target=None, code="")
    return _withdrawn(slot, slot.serving, now=now)


def stopped(slot: ModelSlot, *, now: int) -> Step:
    """Take in that nothing of the model is to be served any more: its first release was taken back before there was another."""
    if slot.state == "idle":
        return Step(slot, [])
    serving, beside = slot.serving, slot.last_good
    ended: list[Command] = [Retire(one) for one in dict.fromkeys(one for one in (serving, beside) if one is not None)]
    reason = "the operator took back the first release, so nothing is served"
    reports: list[Command] = [Report("rolled_back", serving, Code.ROLLOUT_TAKEN_BACK, reason)] if serving is not None else []
    changes = {"target": None, "serving": None, "last_good": None, "serving_since": 0, "proven": False, "last_good_proven": False}
    return _move(slot, "stopped", now, [*_cancel(slot), *ended, *reports, Tidy()], **changes, code="")


def fetched(slot: ModelSlot, *, now: int) -> Step:
    """Take in that every file is on disk and verified."""
    return _move(slot, "fetched", now, [Prepare(_target(slot))], code="")


def waits(slot: ModelSlot, code: str, *, spent: bool, now: int) -> Step:
    """Take in that the transfer cannot go on for now, because a budget is spent or for another reason; without a code it goes on."""
    if slot.state not in FETCHING:
        return Step(slot, [])
    return _move(slot, "goes_on" if not code else "budget_spent" if spent else "stalled", now, [], code=code)


def waits_for_window(slot: ModelSlot, *, now: int) -> Step:
    """Take in that what is staged may not be activated at this time of the week."""
    if slot.code == Code.WINDOW_CLOSED:
        return Step(slot, [])
    return _move(slot, "stalled", now, [], code=Code.WINDOW_CLOSED)


def begun(slot: ModelSlot, *, now: int) -> Step:
    """Take in that a worker is being started for what is staged."""
    _target(slot)
    return _move(slot, "begun", now, [], code="")


def prepared(slot: ModelSlot, *, now: int, compare: bool = False) -> Step:
    """Take in that the worker is warm and has proved itself. `compare`: the release wants to be compared with what is served first.

    What was good here before is not compared again: nobody goes back to it because the two agree.
    """
    target = _target(slot)
    if compare and slot.serving is not None and not (slot.last_good_proven and _same(slot.last_good, target)):
        return _move(slot, "compared", now, [Compare(target)])
    return _served(slot, "prepared", target, now=now)


def agreed(slot: ModelSlot, *, now: int) -> Step:
    """Take in that the comparison beside what is served is over, and found nothing against the release."""
    return _served(slot, "agreed", _target(slot), now=now)


def settled(slot: ModelSlot, *, now: int) -> Step:
    """Take in that probation is over: what served before was perhaps still answering beside this one.

    Its worker goes on where it is wanted again and being tested: without it the test would never end.
    """
    beside = slot.last_good if not _same(slot.last_good, slot.serving) else None  # the same: only in a slot of an older agent's
    if slot.state in UNDER_WAY - FETCHING and _same(beside, slot.target):
        beside = None
    retired: list[Command] = [Retire(beside)] if beside is not None else []
    return _move(slot, "settled", now, [*retired, Tidy()], since=slot.since if slot.state != "probation" else now, proven=True)


def failed(slot: ModelSlot, code: str, reason: str, *, now: int) -> Step:
    """Take in that the target is at fault: keep or bring back what works."""
    if slot.state in SERVING:
        bad = slot.serving or _target(slot)
        return _move(slot, "failed", now, _back(slot, bad, code, reason), code=code, target=bad, **_without(slot, bad, now))
    target = _target(slot)
    return _move(slot, "failed", now, [*_cancel(slot), Report("refused", target, code, reason)], code=code)


def damaged(slot: ModelSlot, *, now: int) -> Step:
    """Take in that files of what is wanted are damaged on this disk: the owner fetches them again, and nothing is reported against it."""
    if slot.state in FETCHING:
        return waits(slot, Code.DISK_DAMAGED, spent=False, now=now)
    return _move(slot, "damaged", now, _cancel(slot), code=Code.DISK_DAMAGED)


def misbehaved(slot: ModelSlot, code: str, reason: str, *, now: int) -> Step:
    """Take in that what is served is at fault, whatever else is under way: the last good one takes its place."""
    if slot.state in SERVING:
        return failed(slot, code, reason, now=now)
    if slot.serving is None:
        return Step(slot, [])
    commands, good = _back(slot, slot.serving, code, reason), _good(slot, slot.serving)
    if slot.state in UNDER_WAY and _same(good, slot.target):  # what a rollout wants is what comes back: nothing is under way any more
        changes = {"code": code, "target": good, **_without(slot, slot.serving, now)}
        return _move(slot, "withdrawn", now, [*_cancel(slot), *commands], **changes)
    if slot.state == "shadow":
        commands = [Retire(_target(slot)), *commands, Prepare(_target(slot))]
    return _move(slot, "reverted", now, commands, since=slot.since, **_without(slot, slot.serving, now))


def interrupted(slot: ModelSlot, *, now: int) -> Step:
    """Take in that the process ended and was started again: bring back what was served, then go on with what was under way."""
    commands: list[Command] = [Restore(slot.serving)] if slot.serving is not None else []
    if slot.target is not None and slot.state in FETCHING:
        return Step(slot, [*commands, Fetch(slot.target)])
    if slot.target is not None and slot.state == "staged":
        return Step(slot, [*commands, Prepare(slot.target)])
    if slot.state in IN_WORKER:  # its worker died with us
        return _move(slot, "interrupted", now, [*commands, Prepare(_target(slot))])
    return Step(slot, commands)


def replay(moves: Iterable[Move]) -> SlotState:
    """Return the state that these moves, the oldest first, lead to.

    Raises:
        ImpossibleMove: one of them is not in the table, does not begin where the last one ended, or is missing.
    """
    state: SlotState | None = None
    number: int | None = None
    for move in moves:
        if (state is not None and move.before != state) or (number is not None and move.number != number + 1):
            raise ImpossibleMove(f"move {move.number} begins in {move.before}; move {number} ended in {state}")
        if MOVES.get((move.before, move.event)) != move.after:
            raise ImpossibleMove(f"move {move.number}: {move.event} in state {move.before} does not lead to {move.after}")
        state, number = move.after, move.number
    return state or "idle"


def _served(slot: ModelSlot, event: EventName, target: Target, *, now: int) -> Step:
    """Take in that the new release is what is served from now on; the old one stays on disk as the last good.

    A release is never its own last good one. Going back from a release on probation to the last good one is no experiment: it has been
    proven, and what it takes the place of has not.
    """
    returns = _same(slot.last_good, target)
    is_proven = returns and slot.last_good_proven and not slot.proven
    good, is_good_proven = slot.last_good, slot.last_good_proven
    if is_proven:
        good, is_good_proven = None, False
    elif slot.proven or slot.last_good is None or returns:
        good, is_good_proven = slot.serving, slot.proven
    changes = {
        "serving": target,
        "last_good": good,
        "last_good_proven": is_good_proven,
        "serving_since": now,
        "proven": is_proven,
        "code": "",
    }
    return _move(slot, event, now, [Switch(target), Report("serving", target)], **changes)


def _same(one: Target | None, other: Target | None) -> bool:
    """Return whether both are there, and one release: the rollouts that want it may differ."""
    return one is not None and other is not None and one.digest == other.digest


def _good(slot: ModelSlot, bad: Target) -> Target | None:
    return slot.last_good if not _same(slot.last_good, bad) else None


def _back(slot: ModelSlot, bad: Target, code: str, reason: str) -> list[Command]:
    good = _good(slot, bad)
    return [Restore(good) if good is not None else Retire(bad), Report("rolled_back", bad, code, reason)]


def _without(slot: ModelSlot, bad: Target, now: int) -> dict[str, object]:
    good = _good(slot, bad)
    is_proven = good is not None and slot.last_good_proven
    return {"serving": good, "last_good": None, "serving_since": now if good else 0, "proven": is_proven, "last_good_proven": False}


def _withdrawn(slot: ModelSlot, target: Target, *, now: int) -> Step:
    """Take in that the rollout wants what is served already: whatever was under way is given up."""
    if slot.state in UNDER_WAY:
        return _move(slot, "withdrawn", now, _cancel(slot), target=target, code="")
    return Step(slot, [])


def _cancel(slot: ModelSlot) -> list[Command]:
    if slot.target is None:
        return []
    if slot.state in FETCHING:
        return [CancelFetch(slot.target)]
    return [Retire(slot.target)] if slot.state in UNDER_WAY else []


def _target(slot: ModelSlot) -> Target:
    if slot.target is None:
        raise ImpossibleMove(f"{slot.model}: {slot.state} without a target")
    return slot.target


def _move(slot: ModelSlot, event: EventName, now: int, commands: Sequence[Command], **changes: object) -> Step:
    state = MOVES.get((slot.state, event))
    if state is None:
        raise ImpossibleMove(f"{slot.model}: {event} in state {slot.state}")
    after = slot.model_copy(update={"since": now, "moves": slot.moves + 1, **changes, "state": state})
    about = after.target or slot.target
    move = Move(number=after.moves, at=now, event=event, before=slot.state, after=state, target=about, code=after.code)
    return Step(after, list(commands), move)

"""Bound what a state says, so that it always fits its document: the newest is said, and the rest is counted."""

from typing import Any, Final

from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import SLOTS_MAX
from schemas.state import Finding, LeftOut, Slot, State

REASON_CHARACTERS: Final = 64  # What is left of a finding's reason where there is no room.


def bounded(fields: dict[str, Any], *, slots: tuple[Slot, ...], counts: bool) -> State:
    """Return the state of these fields and slots, the newest slot first. `counts`: the hub reads what is said of the rest.

    In this order goes what does not fit: parameters, of the oldest slots first; the ends of findings' reasons; the oldest slots.
    """
    said, left = list(slots[:SLOTS_MAX]), LeftOut(slots=max(0, len(slots) - SLOTS_MAX))
    state = _state(fields, said, left, counts=counts)
    for number in reversed(range(len(said))):
        if _fits(state):
            return state
        if said[number].parameters:
            said[number] = said[number].model_copy(update={"parameters": None})
            left = left.model_copy(update={"parameters": left.parameters + 1})
            state = _state(fields, said, left, counts=counts)
    if not _fits(state) and fields.get("findings"):
        cut, count = _cut(fields["findings"])
        fields, left = {**fields, "findings": cut}, left.model_copy(update={"reasons": count})
        state = _state(fields, said, left, counts=counts)
    while said and not _fits(state):
        said.pop()
        left = left.model_copy(update={"slots": left.slots + 1})
        state = _state(fields, said, left, counts=counts)
    return state


def _state(fields: dict[str, Any], said: list[Slot], left: LeftOut, *, counts: bool) -> State:
    return State(**fields, slots=tuple(said), left_out=left if counts and left != LeftOut() else None)


def _fits(state: State) -> bool:
    try:
        codec.encode(state)
    except Refused as refusal:
        if refusal.code is Code.SCHEMA_TOO_LARGE:
            return False
        raise
    return True


def _cut(findings: tuple[Finding, ...]) -> tuple[tuple[Finding, ...], int]:
    long = sum(len(one.reason) > REASON_CHARACTERS for one in findings)
    return tuple(one.model_copy(update={"reason": one.reason[:REASON_CHARACTERS]}) for one in findings), long

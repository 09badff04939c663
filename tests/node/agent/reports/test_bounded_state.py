"""A state always fits its document: the newest is said, and the rest is counted."""

from typing import Any

from node.agent.reports.bounded_state import bounded
from node.core.activation.lifecycle import ModelSlot, newest_first
from schemas import codec
from schemas.limits import (
    FINDING_TEXT_MAX,
    LABELS_MAX,
    NODE_FINDINGS_MAX,
    PARAMETER_ENTRIES_MAX,
    PARAMETER_TEXT_MAX,
    PARAMETERS_MAX,
    SLOTS_MAX,
    STATE_BYTES_MAX,
)
from schemas.parameters import Setting
from schemas.state import Finding, LeftOut, Profile, SettingsInForce, Slot, State, TelemetryBudget

LONG = "x" * 63
SMALL: dict[str, Any] = {"node": "n1", "session": 1, "status": "online", "at": 1}


def slot(number: int, parameters: int = 0, *, entries: int = PARAMETER_ENTRIES_MAX) -> Slot:
    labels = {f"{number}-{one:02}": "y" * PARAMETER_TEXT_MAX for one in range(entries)}
    settings = tuple(Setting(f"p{one}", labels, "rollout") for one in range(parameters)) or None
    digest = bytes([number]) * 32
    return Slot(
        model=f"m{number}{LONG[:50]}", state="active", serving=digest, serving_version="1.0.0", last_good=digest, parameters=settings
    )


def test_a_state_that_fits_says_everything() -> None:
    slots = tuple(slot(number, 1, entries=2) for number in range(5))
    state = bounded(SMALL, slots=slots, counts=True)
    assert (state.slots, state.left_out) == (slots, None)


def test_parameters_of_the_oldest_slots_make_room_first() -> None:
    slots = tuple(slot(number, 1) for number in range(4))  # Each label map has 8 KB.
    state = bounded(SMALL, slots=slots, counts=True)
    assert [one.parameters is not None for one in state.slots] == [True, False, False, False]
    assert state.left_out == LeftOut(parameters=3)
    assert len(codec.encode(state)) <= STATE_BYTES_MAX


def test_more_models_than_a_state_may_name_are_counted() -> None:
    slots = tuple(Slot(model=f"m{number}", state="idle") for number in range(SLOTS_MAX + 8))
    state = bounded(SMALL, slots=slots, counts=True)
    assert (state.slots, state.left_out) == (slots[:SLOTS_MAX], LeftOut(slots=8))
    assert bounded(SMALL, slots=slots, counts=False).left_out is None


def test_the_largest_state_of_all_fits_and_names_the_newest_slots() -> None:
    finding = Finding(kind="rollout", model=LONG, version=LONG, code=LONG, reason="\N{EURO SIGN}" * FINDING_TEXT_MAX)
    names = tuple(f"{number:02}{LONG[:60]}" for number in range(LABELS_MAX))
    profile = Profile(arch=LONG, cores=1, memory_bytes=1, providers=names[:16], labels=dict.fromkeys(names, LONG), runtimes=names[:16])
    telemetry = TelemetryBudget(rho_spent=0.1, rho_day_max=0.2, calibrating=names, code=LONG)
    fields = {
        **SMALL,
        "software": LONG,
        "public_key": bytes(256),
        "cohort": LONG,
        "profile": profile,
        "telemetry": telemetry,
        "findings": (finding,) * NODE_FINDINGS_MAX,
        "settings": SettingsInForce(serial=1, display_name="\N{EURO SIGN}" * 64, ignored=names[:8]),
    }
    slots = tuple(slot(number, PARAMETERS_MAX) for number in range(SLOTS_MAX))
    state = bounded(fields, slots=slots, counts=True)

    assert codec.decode(State, codec.encode(state)) == state
    assert state.slots[0].model == slots[0].model
    assert state.left_out is not None
    assert state.left_out.reasons == NODE_FINDINGS_MAX
    assert state.left_out.slots + len(state.slots) == SLOTS_MAX


def test_a_slot_that_is_under_way_comes_before_one_that_settled_last() -> None:
    slots = [ModelSlot(model="old", since=1), ModelSlot(model="new", since=9), ModelSlot(model="busy", state="fetching", since=5)]
    assert newest_first(slots) == ["busy", "new", "old"]

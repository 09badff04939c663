"""Read the further terms of a rollout from the form that starts it: deadline, gates, bytes, and parameters of the release."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hub.core.rollouts.parameters import read
from hub.operations.moments import DEADLINE_FORMS, deadline_of
from hub.web.console.page import Input
from schemas import limits
from schemas.errors import Code, Refused
from schemas.parameters import Parameter, Parameters, Value

SET: Final = "set-"  # Before the name of a parameter's field.
NUMBER_CHARACTERS_MAX: Final = 20
MOMENT_CHARACTERS_MAX: Final = 60
GATES, BYTES, PARAMETERS, OTHERWISE = "Gates", "Bytes and deadline", "Parameters", "Start it all the same"
MEGABYTE: Final = 1_000_000
DAYS: Final = 30 * 24 * 60


@dataclass(frozen=True, slots=True)
class Term:
    """Declare a field, where its value goes, and how it is read; `most` is the greatest value, in the unit of the form."""

    name: str
    group: str
    label: str
    hint: str
    into: str  # The gate's field, or the rollout's.
    least: float = 0
    most: float = 0
    is_whole: bool = True
    times: float = 1  # Units of the field in one of the form.


TERMS: Final = (
    Term("receipts", GATES, "Nodes that must serve it, %", "Of those heard from; empty: 95", "receipts_ratio_min", 0, 100, False, 0.01),
    Term("failures", GATES, "Failures that halt it, %", "Of those heard from; empty: 5", "failures_ratio_max", 0, 100, False, 0.01),
    Term("nodes_min", GATES, "Least number of nodes that must serve it", "Empty: no least number", "nodes_min", 1, 2**31),
    Term(
        "latency",
        GATES,
        "How many times as slow halts it",
        "Beside the release before; empty: never",
        "latency_ratio_max",
        0.001,
        1000,
        False,
    ),
    Term("tests", GATES, "Intervals that must be tested for drift", "Empty: none must", "drift_tests_min", 0, 2**31),
    Term("shadow", GATES, "Nodes on which it must pass in shadow, %", "Empty: none must", "shadow_ratio_min", 0, 100, False, 0.01),
    Term("silent", GATES, "Silence after which a node does not count, minutes", "Empty: 60", "silent_seconds", 1, DAYS, True, 60),
    Term("retries", GATES, "Tries of a node that failed, before it counts", "Empty: none", "retries", 1, 100),
    Term("retry", GATES, "Pause before each of these tries, minutes", "Empty: 10", "retry_seconds", 1, DAYS, True, 60),
    Term(
        "bytes",
        BYTES,
        "Most that it may cost one node, MB",
        "Empty: the node's own budget alone",
        "node_bytes_max",
        0,
        2**33,
        False,
        MEGABYTE,
    ),
    Term("priority", BYTES, "Priority among a node's transfers, 0 to 9", "Empty: 5; a higher one goes first", "priority", 0, 9),
)
OF_GATE: Final = frozenset(one.name for one in TERMS if one.group == GATES)
CHECKS: Final = (
    ("no_drift", GATES, "Go on when it drifts"),
    ("allow_empty", OTHERWISE, "Start although no known node is in it"),
    ("require_check", OTHERWISE, "Start only if its checks have passed on the profiles of these nodes"),
)
FULL: Final[Mapping[str, bool]] = {"yes": True, "no": False}


def inputs(parameters: Parameters) -> Sequence[Input]:
    """Return the fields; what is left empty stays as it would be."""
    found = [Input(one.name, one.label, "", NUMBER_CHARACTERS_MAX, is_required=False, hint=one.hint, group=one.group) for one in TERMS]
    hint = f"Such as {DEADLINE_FORMS}; what has not moved by then is moved no more"
    found.append(Input("deadline", "Deadline", "", MOMENT_CHARACTERS_MAX, is_required=False, hint=hint, group=BYTES))
    hint = "yes or no, for nodes without a delta's parent; empty: by the node's own policy"
    found.append(
        Input("full", "Fetch the whole where a delta does not fit", "", NUMBER_CHARACTERS_MAX, is_required=False, hint=hint, group=BYTES)
    )
    found += [Input(name, label, is_required=False, kind="check", group=group) for name, group, label in CHECKS]
    found += [
        Input(f"{SET}{one.name}", one.name, "", limits.TEXT_MAX, is_required=False, hint=_allowed(one), group=PARAMETERS)
        for one in parameters
    ]
    return found


def _allowed(one: Parameter) -> str:
    """Return what a parameter may be, and what it is by itself."""
    if isinstance(one.default, Mapping):
        return f"NAME=TEXT, with semicolons between; names are {', '.join(list(one.default)[:6])}"
    if one.min is not None and one.max is not None:
        return f"{one.min:g} to {one.max:g}; empty: the release's own, {one.default:g}"
    among = f"one of {', '.join(one.choices)}; " if one.choices else ""
    return f"{among}empty: the release's own, {one.default}"[: limits.TEXT_MAX]


def terms(fields: Mapping[str, str], parameters: Parameters, *, now: int) -> dict[str, Any]:
    """Return what a form asks for, by the names of the API's `StartRollout`.

    Raises:
        Refused: a field is not written as it must be, or a parameter is not what the release allows.
    """
    gate, rest = dict[str, Any](), dict[str, Any]()
    for one in TERMS:
        if (value := _number(one, fields.get(one.name, "").strip())) is not None:
            (gate if one.name in OF_GATE else rest)[one.into] = value
    if fields.get("no_drift") == "yes":
        gate["halt_on_drift"] = False
    rest |= {name: True for name in ("allow_empty",) if fields.get(name) == "yes"}
    if text := fields.get("deadline", "").strip():
        rest["deadline"] = deadline_of(text, now=now)
    if text := fields.get("full", "").strip().lower():
        if text not in FULL:
            raise Refused(Code.REQUEST_INVALID, f"fetch the whole: write yes or no, or nothing, not {text[:20]!r}")
        rest["full_download"] = FULL[text]
    if values := _parameters(fields, parameters):
        rest["parameters"] = values
    return {"gate": gate, **rest}


def _number(one: Term, text: str) -> float | int | None:
    if not text:
        return None
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not one.least <= value <= one.most or (one.is_whole and not value.is_integer()):
        kind = "a whole number" if one.is_whole else "a number"
        raise Refused(
            Code.REQUEST_INVALID, f"{one.label[:1].lower()}{one.label[1:]}: {kind} from {one.least:g} to {one.most:,.0f}, not {text[:20]!r}"
        )
    scaled = value * one.times
    return round(scaled, 9) if one.times < 1 or not (one.is_whole or one.times > 1) else round(scaled)


def _parameters(fields: Mapping[str, str], parameters: Parameters) -> dict[str, Value]:
    given: list[tuple[str, str]] = []
    for one in parameters:
        text = fields.get(f"{SET}{one.name}", "").strip()
        if text and isinstance(one.default, Mapping):
            pairs = [part.partition("=") for part in text.split(";") if part.strip()]
            given += [(f"{one.name}.{key.strip()}", value.strip()) for key, _, value in pairs]
        elif text:
            given.append((one.name, text))
    return read(parameters, given)

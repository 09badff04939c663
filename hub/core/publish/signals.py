"""Chooses the quantities of a model that are watched: by default what its signature and reference suggest, or what the publisher names.

    <column>                     an input's column, as the reference calls it
    <output>  <output>[2]        an output's only value, or one of its values
    <tensor>:<measure>           of the whole row: mean, deviation, sparsity, length, surprisal, class, confidence, entropy, refusal, stop
    <tensor>:tokens              of a text that a runtime reads or generates, as it counts them
    <tensor>:projection[3]       a random projection
    <tensor>:unknown=100         the share of tokens with that id
    service:latency_ms           also error and memory_mib

By default: each column of a narrow input; of a wide one (image, audio, embedding) mean, deviation, sparsity and projections; of texts and
token ids their length; of an output its only value; of probabilities class, confidence and entropy; of other wide outputs as of inputs.
What the publisher has no reference for (the service, generated answers) is watched where nodes have a baseline of their own.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.core.publish.baseline import SignalSpec
from hub.core.publish.column_findings import WORDS_MIN, words
from hub.core.publish.release import Feature, Fitted, Kind, listed
from schemas.errors import Code, mismatch
from schemas.limits import CATEGORIES_MAX, SIGNALS_MAX
from schemas.manifest import Limits, Tensor
from schemas.signals import Signal

WIDE = 33  # values in a row, from which on no single one means anything to a person
PROJECTIONS = 4
SEED = 20_131  # the projections' seed; the same for every release, so that releases can be compared
NAME_MAX = 64  # schemas.signals.Signal.name
REFUSALS = ("I'm sorry", "I am sorry", "Sorry,", "I can't", "I cannot", "I can not", "I'm unable", "I am unable", "As an AI", "I won't")
STOPS = ("stop", "length", "abort")
LENGTH_EDGES = tuple(2.0**power for power in range(10))  # words of a text that nobody has a reference for
TOKEN_EDGES = tuple(2.0**power for power in range(3, 13))  # tokens of a prompt, with the conversation before it
LATENCY_OCTAVES, MEMORY_OCTAVES = range(-9, 2), range(-5, 2)  # octaves of a release's own limits
PRECEDENCE = ("output", "input", "service")  # where there is no room for all: the last that remain are left out
MEASURES_OF_PROBABILITIES = ("class", "confidence", "entropy")
MEASURES_OF_WIDE = ("mean", "deviation", "sparsity")
_NAMED = re.compile(r"(?P<tensor>.+):(?P<measure>[a-z]+)(?:\[(?P<number>\d{1,3})\]|=(?P<token>-?\d{1,9}))?")

Array = NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """Hold a signal and the rows of its tensor, [rows, ...]; without rows, the edges or categories that it is counted into."""

    spec: SignalSpec
    rows: Array | None = None
    edges: tuple[float, ...] = ()
    categories: tuple[float | str, ...] = ()

    def bare(self) -> Signal:
        """Return the signal without a reference."""
        bins = (len(self.edges) or len(self.categories) - 1) + 2
        return self.spec.signal(edges=self.edges, categories=self.categories, counts=(0,) * bins)


@dataclass(frozen=True, slots=True)
class Unwatched:
    """Name a column, an output or a signal that no window counts, and say why."""

    name: str
    reason: str


NO_ROOM = f"a window holds at most {SIGNALS_MAX} signals"
WHY_NOT = {
    "constant": "constant in the reference",
    "id": "a number or name of each row",
    "time": "the time of each row",
}  # Reasons by what hub.core.publish.column_findings found.


@dataclass(frozen=True)
class Model:
    """Describe a model: its signature and limits, the reference as it takes it, and what it answers, by output [rows, ...]."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    limits: Limits
    fitted: Fitted | None = None
    answers: Mapping[str, Array] = field(default_factory=dict)
    calibrates: bool = False  # nodes have baselines of their own


def declared(model: Model, named: Sequence[str] | None) -> tuple[list[Candidate], tuple[Unwatched, ...]]:
    """Return the signals to watch, and what is not watched, with the reason.

    Raises:
        Refused: REFERENCE_INVALID: a named signal does not exist or is named twice, there are none or too many, or a name is too long.
    """
    columns = dict(_columns(model))
    single = dict(_single(model, columns))
    known = {**columns, **single}
    measures = {one.spec.name: one for one in _by_default(model, single)}
    found = known | measures
    if named is None:
        chosen = _ordinary(model, columns) + _others(model, single, columns)
        _check_each_once([name for name in chosen if chosen.count(name) > 1], columns)
        ranked = sorted(chosen, key=lambda name: PRECEDENCE.index(found[name].spec.side))
        no_room = [name for name in chosen if name in ranked[SIGNALS_MAX:]]
        chosen = [name for name in chosen if name not in no_room]
    else:
        no_room = []
        _check_each_once([name for name in named if name in columns and name in single.keys() | measures.keys()], columns)
        found |= {name: one for name in named if name not in found and (one := _asked(model, name)) is not None}
        chosen = list(named)
        wrong = [name for name in chosen if name not in found or chosen.count(name) > 1]
        if wrong:
            raise mismatch(Code.REFERENCE_INVALID, "signals", expected=f"some of {listed(list(found))}, each once", actual=listed(wrong))
    if not chosen and columns and named is None:
        odd = [f"{one.name} ({one.reason})" for one in _unwatched(model, [], [], asked=False)]
        raise mismatch(
            Code.REFERENCE_INVALID, "columns and outputs to watch", expected="some, or their names with --signals", actual=listed(odd)
        )
    if not 1 <= len(chosen) <= SIGNALS_MAX:
        raise mismatch(Code.REFERENCE_INVALID, "number of signals", expected=f"1 to {SIGNALS_MAX}", actual=len(chosen))
    for name in chosen:
        if not 1 <= len(name) <= NAME_MAX:
            raise mismatch(Code.REFERENCE_INVALID, f"name of signal {name!r}", expected=f"1 to {NAME_MAX} characters", actual=len(name))
    watched = [found[name] for name in chosen]
    return watched, (*(Unwatched(name, NO_ROOM) for name in no_room), *_unwatched(model, watched, no_room, asked=named is not None))


def _check_each_once(twice: Sequence[str], columns: Mapping[str, Candidate]) -> None:
    """Check that no column has the name of a signal of something else; windows name signals, and nobody could tell the two apart.

    Raises:
        Refused: REFERENCE_INVALID.
    """
    for name in twice:
        what = f"column {name!r} of the reference" if name in columns else f"signal {name!r}"
        expected = "one that no other signal has; rename the column, or choose other signals with --signals"
        raise mismatch(Code.REFERENCE_INVALID, f"{what}: its name", expected=expected, actual="the name of another signal, too")


def _unwatched(model: Model, watched: Sequence[Candidate], no_room: Sequence[str], *, asked: bool) -> Iterator[Unwatched]:
    """Yield the columns and outputs of which no signal is counted."""
    counted = {(one.spec.side, one.spec.tensor) for one in watched if one.spec.measure is not None}
    columns = {(one.spec.side, one.spec.tensor, one.spec.column) for one in watched if one.spec.measure is None}
    for feature in model.fitted.features if model.fitted is not None else ():
        place = ("input", feature.tensor.name, feature.place)
        if place not in columns and ("input", feature.tensor.name) not in counted and feature.column not in no_room:
            reason = WHY_NOT.get(model.fitted.findings.get(feature.column, "") if model.fitted is not None else "", "")
            yield Unwatched(feature.column, "not among --signals" if asked else f"{reason}; name it with --signals to watch it")
    if model.fitted is None:
        sides = (("input", model.inputs), ("output", model.outputs))
        unread = [tensor.name for side, tensors in sides for tensor in tensors if (side, tensor.name) not in counted]
        yield from (Unwatched(name, "there is no reference") for name in unread)
        return
    for tensor in model.outputs:
        width = _width(model.answers[tensor.name]) if tensor.name in model.answers else None
        seen = ("output", tensor.name) in counted or any(side == "output" and name == tensor.name for side, name, _ in columns)
        if seen or tensor.name in no_room:
            continue
        if asked:
            yield Unwatched(tensor.name, "not among --signals")
        elif width is None:
            yield Unwatched(tensor.name, "not one answer of bounded size for each row")
        else:
            each = f"{tensor.name}[0]" if width > 1 else tensor.name
            yield Unwatched(tensor.name, f"{width} values a row; name those to watch with --signals, such as {each}")


# What there is


def _columns(model: Model) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate a column of the reference."""
    if model.fitted is None:
        return
    for feature in model.fitted.features:
        values = model.fitted.columns[feature.column]
        if values.ndim == 1:
            spec = SignalSpec(feature.column, feature.kind, "input", feature.tensor.name, feature.place)
            yield feature.column, Candidate(spec, values[:, None])


def _single(model: Model, columns: Mapping[str, Candidate]) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate a value of an output."""
    for output, values in model.answers.items():
        table = values.reshape(len(values), -1)
        for place in range(table.shape[1]):
            name = output if table.shape[1] == 1 else f"{output}[{place}]"
            name = f"output {name}" if name in columns else name
            kind: Kind = "numeric" if table.dtype.kind == "f" else "categorical"
            yield name, Candidate(SignalSpec(name, kind, "output", output, place), table[:, place : place + 1])


def _by_default(model: Model, single: Mapping[str, Candidate]) -> Iterator[Candidate]:
    """Yield measures of whole rows that are watched unasked."""
    for tensor, rows in _wide_inputs(model):
        yield from _whole("input", tensor, rows)
    for feature in _texts(model):
        yield _measure("input", feature.tensor.name, "length", _rows_of(model, feature.tensor.name))
    labelled = any(one.spec.kind == "categorical" and name in model.answers for name, one in single.items())
    for output, values in model.answers.items():
        if _width(values) == 1:
            continue
        if _probabilities(values):
            for measure in MEASURES_OF_PROBABILITIES:
                if measure != "class" or not labelled:
                    yield _measure("output", output, measure, values)
        elif _width(values) >= WIDE and values.dtype.kind == "f":
            yield from _whole("output", output, values)
    if model.calibrates:
        yield from _without_reference(model)


def _ordinary(model: Model, columns: Mapping[str, Candidate]) -> list[str]:
    """Return columns of narrow inputs that are no texts, and of which nothing speaks against watching them."""
    left = {tensor for tensor, _ in _wide_inputs(model)} | {feature.tensor.name for feature in _texts(model)}
    odd = {} if model.fitted is None else model.fitted.findings
    return [name for name, one in columns.items() if one.spec.tensor not in left and name not in odd]


def _others(model: Model, single: Mapping[str, Candidate], columns: Mapping[str, Candidate]) -> list[str]:
    """Return outputs of one value, and the measures that are watched unasked."""
    only = [name for name, one in single.items() if _width(model.answers[one.spec.tensor]) == 1]
    return only + [one.spec.name for one in _by_default(model, single)]


def _asked(model: Model, name: str) -> Candidate | None:
    """Return a measure that was named; None when there is no such thing."""
    generic = {one.spec.name: one for one in (*_without_reference(model), *_tokens(model))}
    parts = _NAMED.fullmatch(name)
    if name in generic or parts is None:
        return generic.get(name)
    tensor, measure = parts["tensor"], parts["measure"]
    side = "input" if any(one.name == tensor for one in model.inputs) else "output"
    rows = _rows_of(model, tensor) if side == "input" else model.answers.get(tensor)
    known = {*MEASURES_OF_WIDE, *MEASURES_OF_PROBABILITIES, "projection", "length", "unknown", "surprisal"}
    if rows is None or measure not in known or (measure == "projection") != (parts["number"] is not None):
        return None
    if (measure == "unknown") != (parts["token"] is not None):
        return None
    return _measure(side, tensor, measure, rows, number=int(parts["number"] or 0), token=parts["token"])


def _measure(side: str, tensor: str, measure: str, rows: Array | None, *, number: int = 0, token: str | None = None) -> Candidate:
    spec = SignalSpec(
        name=f"{tensor}:{measure}" + (f"[{number}]" if measure == "projection" else "") + (f"={token}" if token is not None else ""),
        kind="categorical" if measure in {"class", "refusal"} else "numeric",
        side=side,  # type: ignore[arg-type]
        tensor=tensor,
        column=number,
        measure=measure,  # type: ignore[arg-type]
        seed=SEED if measure == "projection" else None,
        softmax=True if measure in {"confidence", "entropy"} and rows is not None and not _probabilities(rows) else None,
        padding=0 if measure in {"length", "unknown"} and rows is not None and rows.dtype.kind in "iu" else None,
        unknown=None if token is None else int(token),
        phrases=REFUSALS if measure == "refusal" else None,
    )
    return Candidate(spec, rows)


def _whole(side: str, tensor: str, rows: Array) -> Iterator[Candidate]:
    """Yield what is watched of a wide tensor: whole numbers of more than a byte are token ids."""
    if rows.dtype.kind in "iu" and rows.dtype.itemsize > 1:
        yield _measure(side, tensor, "length", rows)
        return
    for measure in MEASURES_OF_WIDE:
        yield _measure(side, tensor, measure, rows)
    for number in range(PROJECTIONS):
        yield _measure(side, tensor, "projection", rows, number=number)


def _without_reference(model: Model) -> Iterator[Candidate]:
    """Yield what is counted into bins that are the same for everybody: the service, and texts that are generated."""
    for side, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            if tensor.datatype == "BYTES" and model.fitted is None:
                yield Candidate(_measure(side, tensor.name, "length", None).spec, None, LENGTH_EDGES)
                if side == "output":
                    yield Candidate(_measure(side, tensor.name, "refusal", None).spec, None, (), ("no", "yes"))
                    spec = SignalSpec(f"{tensor.name}:stop", "categorical", "output", tensor.name, measure="stop")
                    yield Candidate(spec, None, (), STOPS)
    latency = tuple(model.limits.latency_ms_max * 2.0**octave for octave in LATENCY_OCTAVES)
    memory = tuple(model.limits.memory_bytes_max / 2**20 * 2.0**octave for octave in MEMORY_OCTAVES)
    yield Candidate(SignalSpec("service:latency_ms", "numeric", "service", "latency_ms"), None, latency)
    yield Candidate(SignalSpec("service:error", "categorical", "service", "error"), None, (), ("answered", "failed"))
    yield Candidate(SignalSpec("service:memory_mib", "numeric", "service", "memory_mib"), None, memory)


def _tokens(model: Model) -> Iterator[Candidate]:
    """Yield what is watched only where it is named, since words say much the same."""
    for side, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            if tensor.datatype == "BYTES":
                yield Candidate(_measure(side, tensor.name, "tokens", None).spec, None, TOKEN_EDGES)


# What a reference looks like


def _wide_inputs(model: Model) -> Iterator[tuple[str, Array]]:
    for tensor in model.inputs:
        rows = _rows_of(model, tensor.name)
        if rows is None or rows.dtype.kind not in "fiu":
            continue
        # Columns with names mean something each, as long as there is room for them.
        whole = model.fitted is not None and any(one.ndim > 1 for one in model.fitted.columns.values())
        if rows.ndim > 2 or _width(rows) >= (WIDE if whole else SIGNALS_MAX + 1):
            yield tensor.name, rows


def _texts(model: Model) -> list[Feature]:
    """Return columns that hold sentences and not categories."""
    if model.fitted is None:
        return []
    found = []
    for feature in model.fitted.features:
        values = model.fitted.columns[feature.column]
        if values.dtype == object and values.ndim == 1 and len(set(values.tolist())) > CATEGORIES_MAX:
            found += [feature] if words(values) >= WORDS_MIN else []
    return found


def _rows_of(model: Model, tensor: str) -> Array | None:
    """Return an input's rows, [rows, ...]; None where the reference has none."""
    if model.fitted is None:
        return None
    places = sorted((one for one in model.fitted.features if one.tensor.name == tensor), key=lambda one: one.place)
    if not places:
        return None
    columns = [model.fitted.columns[one.column] for one in places]
    return columns[0] if columns[0].ndim > 1 else np.stack(columns, axis=1)


def _width(values: Array) -> int:
    """Return values in a row. A row of one text is a plain str, which has no size of its own."""
    return math.prod(values.shape[1:])


def _probabilities(values: Array) -> bool:
    if values.dtype.kind != "f" or not len(values):
        return False
    table = values.reshape(len(values), -1).astype(np.float64)
    return bool(table.shape[1] > 1 and (table >= -1e-6).all() and np.allclose(table.sum(axis=1), 1.0, atol=1e-3))

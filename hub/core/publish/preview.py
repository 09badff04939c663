"""Say in rows of text what a release was found to take, give and watch, for its publisher to look at before it is signed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.core.publish.release import Array, Feature, Fitted
from hub.core.publish.signals import Unwatched
from schemas.manifest import Tensor
from schemas.signals import Signal

ROWS_SHOWN = 3
VALUES_SHOWN = 4  # Values of an answer, and categories of a column.


@dataclass(frozen=True, slots=True)
class Column:
    """Describe a column of the reference: the input and the feature that it feeds, its range, and the signal that counts it."""

    column: str
    input: str
    feature: str
    range: str
    watched_as: str


@dataclass(frozen=True, slots=True)
class Output:
    """Describe an output and the signals that count it."""

    output: str
    datatype: str
    shape: str
    watched_as: str


@dataclass(frozen=True)
class Preview:
    """Hold what is shown; `answers` are by row, the values as text by output."""

    columns: tuple[Column, ...] = ()
    outputs: tuple[Output, ...] = ()
    answers: tuple[Mapping[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    golden: str | None = None  # What golden inputs were made from: a file, the reference or the signature.


def columns_of(fitted: Fitted, signals: Sequence[Signal]) -> tuple[Column, ...]:
    """Describe the reference's columns, in the order of inputs and places."""
    order = {tensor.name: at for at, tensor in enumerate(feature.tensor for feature in fitted.features)}
    features = sorted(fitted.features, key=lambda one: (order[one.tensor.name], one.place))
    widths: dict[str, int] = {}
    for feature in features:
        widths[feature.tensor.name] = widths.get(feature.tensor.name, 0) + 1
    return tuple(
        Column(
            feature.column,
            feature.tensor.name,
            f"{feature.place + 1} of {widths[feature.tensor.name]}",
            range_of(fitted.columns[feature.column]),
            _watched(feature, signals, fitted.findings.get(feature.column)),
        )
        for feature in features
    )


def _watched(feature: Feature, signals: Sequence[Signal], finding: str | None) -> str:
    of_input = [one for one in signals if one.side == "input" and one.tensor == feature.tensor.name]
    own = next((one for one in of_input if one.measure is None and one.column == feature.place), None)
    if own is not None:
        return own.kind
    measures = list(dict.fromkeys(one.measure for one in of_input if one.measure is not None))
    return f"row's {', '.join(measures)}" if measures else f"not: {finding}" if finding else "not"


def range_of(values: Array) -> str:
    """Return the least and greatest of numbers, or the commonest of other values."""
    if values.dtype.kind in "iuf":
        return f"{_plain(values.min())} to {_plain(values.max())}"
    counts = Counter(map(str, values.ravel().tolist()))
    shown = [_quoted(text[:16]) for text, _ in counts.most_common(VALUES_SHOWN)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more else "")


def outputs_of(tensors: Sequence[Tensor], signals: Sequence[Signal], unwatched: Sequence[Unwatched]) -> tuple[Output, ...]:
    """Describe the outputs."""
    reasons = {one.name: one.reason for one in unwatched}
    found = []
    for tensor in tensors:
        own = [one for one in signals if one.side == "output" and one.tensor == tensor.name]
        names = [one.measure or (one.kind if _only(one, own) else f"[{one.column}]") for one in own]
        watched = ", ".join(dict.fromkeys(names)) or f"not: {reasons.get(tensor.name, 'no signal is of it')}"
        found.append(Output(tensor.name, tensor.datatype, str(list(tensor.shape)), watched))
    return tuple(found)


def _only(one: Signal, own: Sequence[Signal]) -> bool:
    return "[" not in one.name and sum(other.measure is None for other in own) == 1


def answers_of(inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> tuple[Mapping[str, str], ...]:
    """Return the first rows' answers as text; of a model that does not answer by rows, its one answer."""
    lengths = {len(one) if one.ndim else 0 for side in (inputs, outputs) for one in side.values()}
    if len(lengths) == 1 and lengths != {0}:
        return tuple({name: text_of(one[row]) for name, one in outputs.items()} for row in range(min(ROWS_SHOWN, *lengths)))
    return ({name: text_of(one) for name, one in outputs.items()},)


def text_of(answer: Any) -> str:
    """Return the first values of an answer."""
    values = np.asarray(answer).ravel()
    return ", ".join(_plain(one) for one in values[:VALUES_SHOWN]) + (f", ... ({len(values)} values)" if len(values) > VALUES_SHOWN else "")


def _plain(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return _quoted(str(value)[:24])


def _quoted(text: str) -> str:
    """Return a text as it is, but in quotation marks where it is empty or has blanks at an end, which nobody sees."""
    return text if text and text.strip() == text else repr(text)


def warnings_of(fitted: Fitted | None, signals: Sequence[Signal], unwatched: Sequence[Unwatched]) -> tuple[str, ...]:
    """Return what the publisher should know of the reference."""
    if fitted is None:
        return ()
    found = []
    named = {one.name for one in signals if one.side == "input" and one.measure is None}
    for column, finding in fitted.findings.items():
        what = {
            "constant": "has one value in every row",
            "id": "looks like a number or name of each row",
            "time": "looks like the time of each row; if it is not a feature, name it with --time",
        }[finding]
        found.append(f"column {column!r} {what}; " + ("it is watched, as --signals says" if column in named else "it is not watched"))
    columns = {feature.column for feature in fitted.features}
    found += [f"output {one.name!r} is not watched: {one.reason}" for one in unwatched if one.name not in columns]
    if fitted.ordered_by == "file":
        names = [feature.column for feature in sorted(fitted.features, key=lambda one: one.place)]
        shown = ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")
        found.append(f"the model does not name its features, so the columns feed it in the file's order: {shown}; name them with --columns")
    return tuple(found)

"""Puts a release together: files as blocks, columns as signals, golden rows that nobody lived. Knows no ONNX and no disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.core.baseline import SignalSpec
from hub.core.cutting import Span, cut
from hub.core.encode import encode_block
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import INDEX_PART_BLOCKS_MAX, SIGNALS_MAX
from schemas.manifest import Block, File, Index, Tensor

INLINE_BLOCKS_MAX = 256  # of one file, about 20 KB of manifest; more go into an index of their own
CATEGORIES_GUESSED_MAX = 31  # an integer column with more distinct values is taken as numeric
GOLDEN_ROWS = 16

Columns = Mapping[str, NDArray[Any]]
Put = Callable[[bytes, bytes], None]


def store_file(path: str, digest: bytes, read: Callable[[int, int], bytes], total_bytes: int, spans: Sequence[Span], put: Put) -> File:
    """Cut, encode and store a file; `read(offset, length)` gives its bytes, so that it is never in memory as a whole."""
    blocks: list[Block] = []
    for offset, length in cut(total_bytes, spans):
        block, payloads = encode_block(read(offset, length))
        for payload_digest, payload in payloads.items():
            put(payload_digest, payload)
        blocks.append(block)
    if len(blocks) <= INLINE_BLOCKS_MAX:
        return File(path=path, bytes=total_bytes, digest=digest, blocks=tuple(blocks))
    parts: list[Block] = []
    for at in range(0, len(blocks), INDEX_PART_BLOCKS_MAX):
        part, payloads = encode_block(codec.encode(Index(blocks=tuple(blocks[at : at + INDEX_PART_BLOCKS_MAX]))))
        for payload_digest, payload in payloads.items():
            put(payload_digest, payload)
        parts.append(part)
    return File(path=path, bytes=total_bytes, digest=digest, index=tuple(parts))


def feature_columns(inputs: Sequence[Tensor], columns: Sequence[str], named: Sequence[str] | None) -> list[tuple[str, Tensor, int]]:
    """Which column feeds which place of which input: (column, tensor, place in the tensor's row).

    A model with one input [N, d] takes d columns: those that are named, else all of the reference's in order. A model with an input a
    column takes them by name.

    Raises:
        Refused: the columns do not match the signature; both are listed.
    """
    wanted = list(named) if named is not None else list(columns)
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise mismatch(Code.REFERENCE_INVALID, "reference columns", expected=wanted, actual=list(columns))
    if len(inputs) == 1 and (width := _width(inputs[0])) is not None:
        if len(wanted) != width:
            what = f"reference columns for input {inputs[0].name!r} of shape {list(inputs[0].shape)}"
            raise mismatch(Code.REFERENCE_INVALID, what, expected=f"{width} columns", actual=f"{len(wanted)}: {wanted}")
        return [(name, inputs[0], place) for place, name in enumerate(wanted)]
    names = [tensor.name for tensor in inputs]
    if set(names) != set(wanted):
        raise mismatch(Code.REFERENCE_INVALID, "reference columns, one an input", expected=names, actual=wanted)
    return [(tensor.name, tensor, 0) for tensor in inputs]


def _width(tensor: Tensor) -> int | None:
    """How many values a row of this input has; None where a row is a single value."""
    if len(tensor.shape) < 2:
        return None
    width = int(np.prod(tensor.shape[1:]))
    return width if width > 1 or (len(tensor.shape) == 2 and width == 1 and tensor.datatype != "BYTES") else None


def check_finite(name: str, column: NDArray[Any]) -> None:
    """Nothing in a reference column may be missing.

    Raises:
        Refused: with the column and the first row that is not finite.
    """
    if column.dtype.kind in "fc":
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            what = f"reference column {name!r}, row {int(bad[0])}"
            raise mismatch(Code.REFERENCE_INVALID, what, expected="a finite number", actual=f"{column[bad[0]]} ({len(bad)} such rows)")
    elif column.dtype.kind == "O" and any(value is None for value in column):
        raise mismatch(Code.REFERENCE_INVALID, f"reference column {name!r}", expected="a value in every row", actual="missing values")


def kind_of(column: NDArray[Any]) -> str:
    """Numeric, unless the values are texts, truths or few distinct integers."""
    if column.dtype.kind in "fc":
        return "numeric"
    if column.dtype.kind in "iu":
        return "categorical" if len(np.unique(column[:100_000])) <= CATEGORIES_GUESSED_MAX else "numeric"
    return "categorical"


def signal_specs(
    features: Sequence[tuple[str, Tensor, int]], columns: Columns, outputs: Columns, wanted: Sequence[str] | None
) -> list[tuple[SignalSpec, NDArray[Any]]]:
    """The signals to watch with their reference values: those that are named, else every input column and every output.

    Raises:
        Refused: a named signal is neither an input column nor an output, or there are too many.
    """
    found: dict[str, tuple[SignalSpec, NDArray[Any]]] = {}
    for name, tensor, place in features:
        values = columns[name]
        found[name] = (SignalSpec(name, kind_of(values), "input", tensor.name, place), values)  # type: ignore[arg-type]
    for name, output in outputs.items():
        table = output.reshape(len(output), -1)
        for place in range(table.shape[1]):
            label = name if table.shape[1] == 1 else f"{name}[{place}]"
            if label in found:
                label = f"output {label}"
            values = table[:, place]
            found[label] = (SignalSpec(label, kind_of(values), "output", name, place), values)  # type: ignore[arg-type]
    if wanted is not None:
        absent = [name for name in wanted if name not in found]
        if absent:
            raise mismatch(Code.REFERENCE_INVALID, "signals", expected=f"some of {list(found)}", actual=absent)
        found = {name: found[name] for name in wanted}
    if not 1 <= len(found) <= SIGNALS_MAX:
        raise mismatch(Code.REFERENCE_INVALID, "number of signals", expected=f"1 to {SIGNALS_MAX}; name some", actual=len(found))
    return list(found.values())


def golden_columns(columns: Columns) -> dict[str, NDArray[Any]]:
    """Made-up rows to test a release with: quantiles of each column, each column in an order of its own, so that no row is a real one."""
    made: dict[str, NDArray[Any]] = {}
    for number, (name, column) in enumerate(columns.items()):
        ordered = np.sort(column)
        picked = ordered[np.linspace(0, len(ordered) - 1, GOLDEN_ROWS + 2).astype(int)[1:-1]]  # neither smallest nor largest: no extremes
        made[name] = np.random.default_rng(number).permutation(picked)
    return made


def check_golden(name: str, expected: NDArray[Any], actual: NDArray[Any], *, relative: float, absolute: float) -> None:
    """The publisher's own model must agree with the publisher's own golden outputs.

    Raises:
        Refused: another shape, a NaN, or the first value out of tolerance.
    """
    if expected.shape != actual.shape:
        raise mismatch(Code.GOLDEN_INVALID, f"golden output {name!r}: shape", expected=list(expected.shape), actual=list(actual.shape))
    if actual.dtype.kind != "f":
        wrong = np.flatnonzero((expected != actual).ravel())
    else:
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(~(np.abs(actual - expected) <= absolute + relative * np.abs(expected)).ravel())
    if len(wrong):
        at = int(wrong[0])
        raise mismatch(Code.GOLDEN_INVALID, f"golden output {name!r}[{at}]", expected=expected.ravel()[at], actual=actual.ravel()[at])


def need(arrays: Columns, prefix: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays `<prefix>.<name>` of a golden file.

    Raises:
        Refused: one is missing; what is there is listed.
    """
    keys = {name: f"{prefix}.{name}" for name in names}
    if not set(keys.values()) <= set(arrays):
        raise mismatch(Code.GOLDEN_INVALID, "golden arrays", expected=sorted(keys.values()), actual=sorted(arrays))
    return {name: arrays[key] for name, key in keys.items()}


def unsupported(what: str, found: object) -> Refused:
    """A model that fleetcast cannot describe."""
    return Refused(Code.MODEL_SIGNATURE, f"{what} {found!r} is not supported")

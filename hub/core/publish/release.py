"""Puts a release together: files as blocks, columns as signals, golden rows that nobody lived. Knows no ONNX and no disk."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fleetcast.counted import counted
from fleetcast.golden_comparison import compare_output
from fleetcast.golden_file import plain_arrays
from fleetcast.tensor_shapes import shape_fault
from hub.core.delivery.chunker import Span
from hub.core.delivery.encode import encode_block
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, DELTA_PARENTS_MAX, INDEX_PART_BLOCKS_MAX, KIB, MIB
from schemas.manifest import Block, File, Index, Manifest, Payload, Tensor
from schemas.patterns import wrong_text

INLINE_BLOCKS_MAX = 256  # blocks in a manifest, all files together: about 22 KB of its 64; a list that does not fit becomes an index
INDEX_PART_BYTES_MAX = BLOCK_BYTES_MAX - KIB  # entries in a part, which is a block itself
GOLDEN_ROWS = 16
GOLDEN_BYTES_MAX = 16 * MIB  # every node of the fleet fetches it
GOLDEN_UNPACKED_BYTES_MAX = 64 * MIB  # a device holds it beside two models
NAMES_SHOWN = 24  # names that a sentence lists
DATATYPES = {  # onnxruntime's names of tensor types, and the Open Inference Protocol's
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("u2"),
    "UINT32": np.dtype("u4"),
    "UINT64": np.dtype("u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("i2"),
    "INT32": np.dtype("i4"),
    "INT64": np.dtype("i8"),
    "FP16": np.dtype("f2"),
    "FP32": np.dtype("f4"),
    "FP64": np.dtype("f8"),
    "BYTES": np.dtype(object),
}

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Kind = Literal["numeric", "categorical"]
OrderedBy = Literal["names", "file"]


class Feature(NamedTuple):
    """Hold a reference column and the place that it feeds: which input, and where in that tensor's flattened row."""

    column: str
    tensor: Tensor
    place: int
    kind: Kind


@dataclass(frozen=True)
class Fitted:
    """Hold a reference as a model takes it: `columns` [rows] each in its input's dtype, `blocks` [rows] the day or batch of each row.

    A column that is a whole input, such as images, is [rows, ...]. `times` [rows] are seconds since 1970. `ordered_by` says what decided
    which column feeds which place: the model's or publisher's names, or the file's order, where neither names any.
    """

    features: tuple[Feature, ...]
    columns: Arrays
    blocks: Array | None
    times: Array | None = None
    findings: Mapping[str, str] = field(default_factory=dict)  # Columns that are not watched unless they are named, with the reason.
    ordered_by: OrderedBy = "names"

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class Golden:
    """Hold inputs and the outputs that are known for them, by tensor name."""

    inputs: Arrays
    outputs: Arrays


# Files


def inline_files(block_counts: Sequence[int], *, deltas: int = 0) -> list[bool]:
    """Return which files carry their block list in the manifest: in order, as long as their blocks are not too many together."""
    inline, total, most = [], 0, INLINE_BLOCKS_MAX * _entry_bytes(_largest(1, 0)) // _entry_bytes(_largest(1, deltas))
    for count in block_counts:
        inline.append(total + count <= most)
        total += count if inline[-1] else 0
    return inline


def assemble_file(path: str, digest: bytes, blocks: Sequence[Block], *, inline: bool) -> tuple[File, dict[bytes, bytes]]:
    """Return a file of consecutive blocks, and the payloads, by digest, of the parts of its index if it has one."""
    total = sum(block.bytes for block in blocks)
    if inline:
        return File(path=path, bytes=total, digest=digest, blocks=tuple(blocks)), {}
    parts: list[Block] = []
    found: dict[bytes, bytes] = {}
    for listed in _index_parts(blocks):
        part, payloads = encode_block(codec.encode(Index(blocks=listed)))
        parts.append(part)
        found |= payloads
    return File(path=path, bytes=total, digest=digest, index=tuple(parts)), found


def _index_parts(blocks: Sequence[Block]) -> Iterator[tuple[Block, ...]]:
    part: list[Block] = []
    size = 0
    for block in blocks:
        if part and (len(part) >= INDEX_PART_BLOCKS_MAX or size + _entry_bytes(block) > INDEX_PART_BYTES_MAX):
            yield tuple(part)
            part, size = [], 0
        part.append(block)
        size += _entry_bytes(block)
    if part:
        yield tuple(part)


def foreseen_file(path: str, cuts: Sequence[Span], *, inline: bool, deltas: int = 0) -> File:
    """Return the largest description that a file cut so can get, to try a manifest's size before anything is stored."""
    lengths = [length for _, length in cuts]
    blocks = tuple(_largest(length, deltas) for length in lengths)
    if inline:
        return File(path=path, bytes=sum(lengths), digest=bytes(32), blocks=blocks)
    parts = sum(1 for _ in _index_parts(blocks))
    return File(path=path, bytes=sum(lengths), digest=bytes(32), index=(_largest(BLOCK_BYTES_MAX, 0),) * parts)


def _largest(length: int, deltas: int) -> Block:
    delta = Payload("delta", bytes(32), length, tuple(bytes([number]) * 32 for number in range(1, DELTA_PARENTS_MAX + 1)))
    return Block(bytes(32), length, (Payload("planes", bytes(32), length), *[delta] * deltas))


def _entry_bytes(block: Block) -> int:
    """Return at most what a block's entry takes in a list: digests of 34 bytes, numbers of 5, an encoding of 7, and their arrays."""
    return 41 + sum(49 + 35 * len(payload.parents or ()) for payload in block.payloads)


def check_size(manifest: Manifest) -> None:
    """Check that a manifest fits its bound.

    Raises:
        Refused: it does not; the sentence says what could be left out.
    """
    try:
        codec.encode(manifest)
    except Refused as refusal:
        signals = len(manifest.baseline.signals) if manifest.baseline else 0
        raise Refused(refusal.code, f"{refusal.reason}; it describes {counted(signals, 'signal')}, and fewer can be named") from None


def wire_bytes(blocks: Sequence[Block]) -> int:
    """Return what a device without any of these blocks fetches, each in its smallest encoding."""
    return sum(min((payload.bytes for payload in block.payloads), default=block.bytes) for block in blocks)


def same_content(one: Manifest, other: Manifest) -> bool:
    """Return whether two manifests are one release but for when they were made, how fast builds ran and whether it was tried to join their
    rows, which an earlier hub did not: publishing it again is nothing.
    """
    return _undated(one) == _undated(other)


def _undated(manifest: Manifest) -> Manifest:
    variants = [
        one.model_copy(
            update={
                "measured": one.measured and one.measured.model_copy(update={"latency_ms": 0.0, "original_latency_ms": 0.0}),
                "joining": None,
            }
        )
        for one in manifest.variants
    ]
    return manifest.model_copy(update={"created": 0, "variants": tuple(variants)})


# Signals


def kind_of(column: Array, *, categories_max: int) -> Kind:
    """Return numeric, unless the values are texts, truths or few distinct integers."""
    if column.dtype.kind == "f" or (column.dtype.kind in "iu" and len(np.unique(column)) > categories_max):
        return "numeric"
    return "categorical"


def feeds(features: Sequence[Feature], columns: Arrays) -> dict[str, Array]:
    """Return the model's inputs, [rows, ...] each in its tensor's shape, of columns [rows]."""
    by_tensor: dict[str, list[Feature]] = {}
    for feature in features:
        by_tensor.setdefault(feature.tensor.name, []).append(feature)
    found = {}
    for name, places in by_tensor.items():
        if columns[places[0].column].ndim > 1:  # a whole input
            found[name] = np.ascontiguousarray(columns[places[0].column])
            continue
        table = np.stack([columns[feature.column] for feature in sorted(places, key=lambda feature: feature.place)], axis=1)
        axes = places[0].tensor.shape[1:]
        shape = (table.shape[1],) if len(axes) == 1 else tuple(max(axis, 1) for axis in axes)  # a free axis takes what columns there are
        found[name] = np.ascontiguousarray(table).reshape(len(table), *shape)
    return found


# Golden inputs


def golden_columns(columns: Arrays, *, rows: int = GOLDEN_ROWS, mix: int = 0) -> dict[str, Array]:
    """Return made-up rows to test a release with, since they leave the publisher's hands.

    Numbers are quantiles of each column, neither extreme, the rest its commonest values; each column has an order of its own, so that
    a row is a real one only by chance. Another `mix` is another order.
    """
    made: dict[str, Array] = {}
    for number, (name, column) in enumerate(columns.items(), start=mix * len(columns)):
        if column.ndim > 1:
            made[name] = _golden_whole(column, rows, number)
            continue
        if column.dtype.kind == "f":
            picked = np.sort(column)[np.linspace(0, len(column) - 1, rows + 2).astype(int)[1:-1]]
        else:
            values, counts = np.unique(column, return_counts=True)
            picked = np.resize(values[np.argsort(-counts, kind="stable")[:rows]], rows)
        made[name] = np.random.default_rng(number).permutation(picked)
    return made


def _golden_whole(column: Array, rows: int, number: int) -> Array:
    """Make up whole inputs [rows, ...]: each of their values has quantiles and an order of its own, so that no picture is anyone's."""
    ordered = np.sort(column, axis=0)[np.linspace(0, len(column) - 1, rows + 2).astype(int)[1:-1]]
    return np.random.default_rng(number).permuted(ordered, axis=0)


def typical_columns(columns: Arrays, *, rows: int) -> dict[str, Array]:
    """Return rows that are all alike: the middle number of each column, the commonest of its other values."""
    made: dict[str, Array] = {}
    for name, column in columns.items():
        if column.ndim > 1:
            middle = np.sort(column, axis=0)[len(column) // 2]
        elif column.dtype.kind == "f":
            middle = np.sort(column)[len(column) // 2]
        else:
            values, counts = np.unique(column, return_counts=True)
            middle = values[int(np.argmax(counts))]
        made[name] = np.stack([middle] * rows) if column.ndim > 1 else np.full(rows, middle, column.dtype)
    return made


def parse_golden(
    what: str, data: bytes, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, answered: bool = True, one_by_one: bool = False
) -> Golden:
    """Return the golden inputs as the model takes them, and the outputs that are known for them; not `answered`: there may be none.

    `one_by_one`: of a model that takes one row there may be many, which a device asks one after the other.

    Raises:
        Refused: no npz of plain arrays, too large, not all of the inputs, no output, or another datatype or shape.
    """
    arrays = plain_arrays(what, io.BytesIO(data), Code.GOLDEN_INVALID, bytes_max=GOLDEN_UNPACKED_BYTES_MAX)
    takes = {f"input.{tensor.name}": tensor for tensor in inputs}
    gives = {f"output.{tensor.name}": tensor for tensor in outputs}
    if not (takes.keys() <= arrays.keys() <= takes.keys() | gives.keys() and (arrays.keys() & gives.keys() or not answered)):
        expected = f"{listed(list(takes))} and some of {listed(list(gives))}"
        raise mismatch(Code.GOLDEN_INVALID, f"{what}: arrays", expected=expected, actual=listed(list(arrays)))
    known = {gives[name].name: array for name, array in arrays.items() if name in gives}
    return Golden({tensor.name: _as_input(what, tensor, arrays[name], one_by_one=one_by_one) for name, tensor in takes.items()}, known)


def _as_input(what: str, tensor: Tensor, array: Array, *, one_by_one: bool) -> Array:
    dtype = DTYPES[tensor.datatype]
    if not (array.dtype.kind == "U" if tensor.datatype == "BYTES" else np.can_cast(array.dtype, dtype, "same_kind")):
        raise mismatch(Code.GOLDEN_INVALID, f"{what}: input.{tensor.name}", expected=tensor.datatype, actual=array.dtype)
    wanted = (-1, *tensor.shape[1:]) if one_by_one and tensor.shape[:1] == (1,) else tensor.shape
    if fault := shape_fault(wanted, array.shape):
        raise Refused(Code.GOLDEN_INVALID, f"{what}: shape of input.{tensor.name}: {fault}")
    return array.astype(dtype)


def check_golden(what: str, expected: Arrays, actual: Arrays, *, relative: float, absolute: float) -> None:
    """Check that the publisher's own model agrees with its own golden outputs, as a device will (fleetcast.golden_comparison).

    Raises:
        Refused: another kind or shape, or the value that is farthest out of tolerance, with both values.
    """
    for name, known in expected.items():
        found = compare_output(f"output.{name}", known, actual[name], relative=relative, absolute=absolute)
        if not found.agrees:
            rule = f" {found.rule}" if found.rule not in ("", "equal") else ""
            sides = f", what the file says{rule} and what the model answers" if found.rule else ""
            raise mismatch(Code.GOLDEN_INVALID, f"{what}: {found.where}{sides}", expected=found.expected, actual=found.actual)


# Sentences


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first of many."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{list(names[:NAMES_SHOWN])}{more}"


def signature(tensors: Sequence[Tensor]) -> str:
    """Return inputs or outputs for a sentence."""
    return listed([f"{one.name} {one.datatype}{list(one.shape)}" for one in tensors])


def invalid(code: Code, what: str, error: ValidationError) -> Refused:
    """Return a refusal that names the field in which a document's own check has failed, why, and what was found."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    wrong = wrong_text(first) or f"{first['msg']}, found {str(first['input'])[:64]!r}"
    return Refused(code, f"{what}: {where}: {wrong}")


def first_line(error: BaseException) -> str:
    """Return what a foreign error says, short enough for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

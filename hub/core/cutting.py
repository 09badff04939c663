"""Where a file is cut into blocks, so that the same tensor gives the same blocks in the next version. Knows bytes, not files.

An ONNX file is a protobuf message; its weights are the raw_data of the initialisers. The wire format is walked here without building the
message, because only offsets are wanted and a file may be larger than memory allows twice.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from schemas.limits import BLOCK_BYTES_MAX, KIB

TENSOR_BYTES_MIN = 16 * KIB  # smaller tensors get no block of their own: thousands of them would make thousands of blocks
GAP_BYTES_MIN = KIB  # between two tensors stand a name and a shape; so little travels with the end of the first
FIELDS_MAX = 2_000_000  # of a file, in all messages; a stranger's file must not keep us busy for ever

_GRAPH = frozenset({7})  # onnx.proto: ModelProto.graph
_INITIALIZER = frozenset({5})  # GraphProto.initializer
_TENSOR_DATA = frozenset({4, 5, 7, 9, 10, 11})  # TensorProto: float, int32, int64, raw, double and uint64 data
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]  # offset and length


class _NotProtobuf(ValueError):
    """The bytes do not follow the wire format, or have more fields than any model."""


def tensor_spans(data: bytes | memoryview) -> list[Span]:
    """Where each initialiser's values stand in an ONNX file, (offset, length) in bytes, in order; empty when it is not one."""
    view = memoryview(data)
    steps = iter(range(FIELDS_MAX))
    found: list[Span] = []
    try:
        for graph in _fields(view, (0, len(view)), _GRAPH, steps):
            for tensor in _fields(view, graph, _INITIALIZER, steps):
                found.extend(span for span in _fields(view, tensor, _TENSOR_DATA, steps) if span[1])
    except _NotProtobuf:
        return []
    return found


def cut(total_bytes: int, spans: Sequence[Span], *, block_bytes_max: int = BLOCK_BYTES_MAX) -> list[Span]:
    """Consecutive blocks that cover a file: (offset, length) in bytes, each at most `block_bytes_max`.

    A block begins where a large tensor does, and inside one at multiples of the maximum; it ends with the tensor, or, when little
    stands before the next one, with that.
    """
    return [
        (at, min(block_bytes_max, end - at))
        for begin, end in pairwise(_boundaries(total_bytes, spans))
        for at in range(begin, end, block_bytes_max)
    ]


def _boundaries(total_bytes: int, spans: Sequence[Span]) -> list[int]:
    large = sorted(span for span in spans if span[1] >= TENSOR_BYTES_MIN and 0 <= span[0] <= total_bytes - span[1])
    bounds, end = [0], 0  # where the last large tensor ended
    for begin, length in [*large, (total_bytes, 0)]:
        if end > bounds[-1] and begin - end >= GAP_BYTES_MIN:
            bounds.append(end)
        if begin > bounds[-1]:
            bounds.append(begin)
        end = begin + length
    return bounds


def _fields(view: memoryview, message: Span, wanted: frozenset[int], steps: Iterator[int]) -> Iterator[Span]:
    """The length-delimited fields of one message that have a wanted number; every field of any kind takes one of `steps`."""
    at, end = message[0], message[0] + message[1]
    while at < end:
        if next(steps, None) is None:
            raise _NotProtobuf
        key, at = _varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(view, at, end)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _LENGTH:
            size, at = _varint(view, at, end)
            if size > end - at:
                raise _NotProtobuf
            if number in wanted:
                yield at, size
            at += size
        else:
            raise _NotProtobuf
    if at > end:
        raise _NotProtobuf


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # at most ten bytes
        if at >= end:
            raise _NotProtobuf
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotProtobuf

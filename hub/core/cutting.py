"""Where a file is cut into blocks, so that the same tensor gives the same blocks in the next version. Knows bytes, not files.

An ONNX file is a protobuf message; its weights are the raw_data of the initialisers. The wire format is walked here without building the
message, because only offsets are wanted and a file may be larger than memory allows twice.
"""

from collections.abc import Iterator, Sequence

from schemas.limits import BLOCK_BYTES_MAX

TENSOR_BYTES_MIN = 16 * 1024  # smaller tensors are not worth a block of their own: thousands of them would make thousands of blocks
FIELDS_MAX = 2_000_000  # of one message; a stranger's file must not keep us busy for ever

_GRAPH, _INITIALIZER = 7, 5  # onnx.proto: ModelProto.graph, GraphProto.initializer
_TENSOR_DATA = frozenset({4, 5, 7, 9, 10, 11})  # TensorProto: float, int32, int64, raw, double and uint64 data
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]  # offset and length


class _NotProtobuf(ValueError):
    """The bytes do not follow the wire format."""


def tensor_spans(data: bytes | memoryview) -> list[Span]:
    """Where each initialiser's values stand in an ONNX file, in order; empty when it is not one."""
    view = memoryview(data)
    found: list[Span] = []
    try:
        for graph in _fields(view, 0, len(view), _GRAPH):
            for tensor in _fields(view, *graph, _INITIALIZER):
                found.extend(span for span in _fields(view, *tensor, None) if span[1] >= TENSOR_BYTES_MIN)
    except _NotProtobuf:
        return []
    return sorted(found)


def cut(total_bytes: int, spans: Sequence[Span], *, block_bytes_max: int = BLOCK_BYTES_MAX) -> list[Span]:
    """Consecutive blocks that cover the file: cut where a large tensor begins and ends, and within one at multiples of the maximum."""
    blocks: list[Span] = []
    at = 0
    for begin, length in [*spans, (total_bytes, 0)]:
        for offset, size in ((at, begin - at), (begin, length)):
            blocks.extend((offset + done, min(block_bytes_max, size - done)) for done in range(0, size, block_bytes_max))
        at = begin + length
    return blocks


def _fields(view: memoryview, offset: int, length: int, wanted: int | None) -> Iterator[Span]:
    """The length-delimited fields of one message with the wanted number; None stands for a tensor's values."""
    at, end = offset, offset + length
    for _ in range(FIELDS_MAX):
        if at >= end:
            return
        key, at = _varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(view, at, end)
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        elif kind == _LENGTH:
            size, at = _varint(view, at, end)
            if at + size > end:
                raise _NotProtobuf
            if number == wanted or (wanted is None and number in _TENSOR_DATA):
                yield at, size
            at += size
        else:
            raise _NotProtobuf
        if at > end:
            raise _NotProtobuf
    raise _NotProtobuf


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _NotProtobuf
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotProtobuf

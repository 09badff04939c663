"""Cuts a file into blocks, so that the same content gives the same blocks in the next version. Knows bytes, not files.

The weights of an ONNX file (a protobuf message), a safetensors file and a GGUF file are found by walking their formats, without building
the model: only offsets are wanted, and a file may be larger than memory allows twice.
"""

import json
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from schemas.limits import BLOCK_BYTES_MAX, KIB, MIB

TENSOR_BYTES_MIN = 16 * KIB  # smaller tensors get no block of their own: thousands of them would make thousands of blocks
GAP_BYTES_MIN = KIB  # between two tensors stand a name and a shape; so little travels with the end of the first
FIELDS_MAX = 2_000_000  # fields of a file, in all messages; a stranger's file must not keep us busy for ever
HEADER_BYTES_MAX = 32 * MIB  # the header of a safetensors file: a hundred thousand tensors
GRAPHS_DEEP_MAX = 64  # graphs in branches of graphs

_GRAPH, _FUNCTION = 7, 25  # onnx.proto: ModelProto
_NODE, _INITIALIZER = 1, 5  # GraphProto
_FUNCTION_NODE = 7  # FunctionProto
_OUTPUT, _ATTRIBUTE = 2, 5  # NodeProto
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11  # AttributeProto
_DATA_TYPE, _NAME, _RAW = 2, 8, 9  # TensorProto
_TENSOR_DATA = frozenset({4, 5, 7, 9, 10, 11})  # TensorProto: float, int32, int64, raw, double and uint64 data
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

ONNX_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "uint8"} | {
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8", 18: "float8", 19: "float8", 20: "float8",
    21: "int4", 22: "int4",
}  # fmt: skip
_TYPED_DTYPES = {4: "float32", 10: "float64"}  # fields other than raw data; varints are none
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"} | {
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"
}  # fmt: skip
GGUF_TYPES = {  # ggml's number of a type: our name, elements in a record, bytes of a record
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("float64", 1, 8),
    30: ("bfloat16", 1, 2),
}  # fmt: skip
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a metadata value by its type
_GGUF_STRING, _GGUF_ARRAY = 8, 9

Span = tuple[int, int]  # offset and length


class TensorSpan(NamedTuple):
    """Hold the place of a tensor's values, in bytes; `dtype` is None where they are not an array of elements of one width."""

    offset: int
    length: int
    name: str = ""
    dtype: str | None = None


class _Malformed(ValueError):
    """Report that the bytes do not follow the format, or have more fields than any model."""


def tensors(data: bytes | memoryview) -> list[TensorSpan]:
    """Return the tensors of an ONNX, safetensors or GGUF file in the order of their offsets; empty for any other file."""
    view = memoryview(data)
    steps = iter(range(FIELDS_MAX))
    try:
        if bytes(view[:4]) == b"GGUF":
            found = _gguf(view, steps)
        elif bytes(view[8:9]) == b"{":
            found = _safetensors(view)
        else:
            found = _onnx(view, steps)
    except (_Malformed, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return []
    return sorted(one for one in found if one.length > 0 and 0 <= one.offset <= len(view) - one.length)


def cut(total_bytes: int, spans: Sequence[Span], *, known: Sequence[Span] = (), block_bytes_max: int = BLOCK_BYTES_MAX) -> list[Span]:
    """Return consecutive blocks that cover a file: (offset, length) in bytes, each at most `block_bytes_max`.

    A block begins where a large tensor does, and inside one at multiples of the maximum; it ends with the tensor, or, when little
    stands before the next one, with that. What is `known` is a block of its own where it lies between these bounds, and overlaps
    none before it.
    """
    bounds = _boundaries(total_bytes, spans)
    inner: list[int] = []
    free = 0
    for begin, length in sorted(known):
        end = begin + length
        at = bisect_left(bounds, begin + 1)
        if begin >= free and 0 < length <= block_bytes_max and end <= total_bytes and (at == len(bounds) or bounds[at] >= end):
            inner += (begin, end)
            free = end
    return [
        (at, min(block_bytes_max, end - at))
        for begin, end in pairwise(sorted({*bounds, *inner}))
        for at in range(begin, end, block_bytes_max)
    ]


def gaps(total_bytes: int, spans: Sequence[Span]) -> list[Span]:
    """Return what stands between the large tensors and is cut apart from them: graphs, texts, metadata, small tensors."""
    large = {span[0] for span in _large(total_bytes, spans)}
    return [(begin, end - begin) for begin, end in pairwise(_boundaries(total_bytes, spans)) if begin not in large]


def _large(total_bytes: int, spans: Sequence[Span]) -> list[Span]:
    return sorted(span for span in spans if span[1] >= TENSOR_BYTES_MIN and 0 <= span[0] <= total_bytes - span[1])


def _boundaries(total_bytes: int, spans: Sequence[Span]) -> list[int]:
    bounds, end = [0], 0  # where the last large tensor ended
    for begin, length in [*_large(total_bytes, spans), (total_bytes, 0)]:
        if end > bounds[-1] and begin - end >= GAP_BYTES_MIN:
            bounds.append(end)
        if begin > bounds[-1]:
            bounds.append(begin)
        end = begin + length
    return bounds


# ONNX


def _onnx(view: memoryview, steps: Iterator[int]) -> list[TensorSpan]:
    found: list[TensorSpan] = []
    waiting: list[tuple[Span, bool, int]] = []  # graphs and functions: where, whether a function, how deep
    for number, begin, size in _fields(view, (0, len(view)), steps):
        if number in (_GRAPH, _FUNCTION) and size >= 0:
            waiting.append(((begin, size), number == _FUNCTION, 0))
    while waiting:
        message, function, deep = waiting.pop()
        for number, begin, size in _fields(view, message, steps):
            if size < 0:
                continue
            if number == _INITIALIZER and not function:
                found += _onnx_tensor(view, (begin, size), "", steps)
            elif number == (_FUNCTION_NODE if function else _NODE):
                graphs = _onnx_node(view, (begin, size), found, steps)
                if graphs and deep >= GRAPHS_DEEP_MAX:
                    raise _Malformed
                waiting += [(graph, False, deep + 1) for graph in graphs]
    return found


def _onnx_node(view: memoryview, message: Span, found: list[TensorSpan], steps: Iterator[int]) -> list[Span]:
    """Return the graphs in a node's attributes; the tensors there are added to those found, under the name of the node's first output."""
    name, attributes, graphs = "", [], []
    for number, begin, size in _fields(view, message, steps):
        if number == _OUTPUT and size >= 0 and not name:
            name = _text(view, begin, size)
        elif number == _ATTRIBUTE and size >= 0:
            attributes.append((begin, size))
    for attribute in attributes:
        for number, begin, size in _fields(view, attribute, steps):
            if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and size >= 0:
                found += _onnx_tensor(view, (begin, size), name, steps)
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and size >= 0:
                graphs.append((begin, size))
    return graphs


def _onnx_tensor(view: memoryview, message: Span, name: str, steps: Iterator[int]) -> list[TensorSpan]:
    spans: list[tuple[int, int, int]] = []
    dtype = 0
    for number, begin, size in _fields(view, message, steps):
        if size < 0:
            dtype = begin if number == _DATA_TYPE else dtype
        elif number == _NAME:
            name = _text(view, begin, size) or name
        elif number in _TENSOR_DATA and size:
            spans.append((number, begin, size))
    return [
        TensorSpan(begin, size, name, ONNX_DTYPES.get(dtype) if number == _RAW else _TYPED_DTYPES.get(number))
        for number, begin, size in spans
    ]


def _fields(view: memoryview, message: Span, steps: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of one message, every one for one of `steps`: number, offset, length; or number, value, -1 of a varint."""
    at, end = message[0], message[0] + message[1]
    while at < end:
        if next(steps, None) is None:
            raise _Malformed
        key, at = _varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(view, at, end)
            yield number, value, -1
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _LENGTH:
            size, at = _varint(view, at, end)
            if size > end - at:
                raise _Malformed
            yield number, at, size
            at += size
        else:
            raise _Malformed
    if at > end:
        raise _Malformed


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # at most ten bytes
        if at >= end:
            raise _Malformed
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed


def _text(view: memoryview, begin: int, size: int) -> str:
    return bytes(view[begin : begin + min(size, KIB)]).decode("utf-8", "replace")


# safetensors and GGUF


def _safetensors(view: memoryview) -> list[TensorSpan]:
    (size,) = struct.unpack_from("<Q", view)
    if size > min(HEADER_BYTES_MAX, len(view) - 8):
        raise _Malformed
    found = []
    for name, entry in json.loads(bytes(view[8 : 8 + size])).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if type(begin) is not int or type(end) is not int or begin < 0:
                raise _Malformed
            found.append(TensorSpan(8 + size + begin, end - begin, name, SAFETENSORS_DTYPES.get(str(entry["dtype"]))))
    return found


def _gguf(view: memoryview, steps: Iterator[int]) -> list[TensorSpan]:
    version, count, pairs = struct.unpack_from("<IQQ", view, 4)
    if version not in (2, 3):
        raise _Malformed
    at, alignment = 24, 32
    for _ in range(pairs):
        key, at = _gguf_string(view, at, steps)
        (kind,) = struct.unpack_from("<I", view, at)
        if key == "general.alignment" and kind == 4:
            (alignment,) = struct.unpack_from("<I", view, at + 4)
        at = _gguf_skip(view, at + 4, kind, steps)
    infos: list[tuple[str, int, int, int]] = []
    for _ in range(count):
        name, at = _gguf_string(view, at, steps)
        (rank,) = struct.unpack_from("<I", view, at)
        if rank > 8:
            raise _Malformed
        *shape, kind, offset = struct.unpack_from(f"<{rank}QIQ", view, at + 4)
        at += 16 + 8 * rank
        elements = 1
        for axis in shape:
            elements *= axis
        infos.append((name, kind, offset, elements))
    if not 0 < alignment <= MIB:
        raise _Malformed
    begin = -(-at // alignment) * alignment
    known = ((name, GGUF_TYPES[kind], offset, elements) for name, kind, offset, elements in infos if kind in GGUF_TYPES)
    return [TensorSpan(begin + offset, elements // per * size, name, dtype) for name, (dtype, per, size), offset, elements in known]


def _gguf_string(view: memoryview, at: int, steps: Iterator[int]) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", view, at)
    if next(steps, None) is None or size > len(view) - at - 8:
        raise _Malformed
    return _text(view, at + 8, size), at + 8 + size


def _gguf_skip(view: memoryview, at: int, kind: int, steps: Iterator[int]) -> int:
    """Return where the metadata behind a value begins."""
    if kind == _GGUF_STRING:
        return _gguf_string(view, at, steps)[1]
    if kind != _GGUF_ARRAY:
        return at + _GGUF_SIZES[kind]
    inner, count = struct.unpack_from("<IQ", view, at)
    at += 12
    if inner in _GGUF_SIZES:
        return int(at + count * _GGUF_SIZES[inner])
    for _ in range(count):  # strings, or arrays again, which no file we know of has
        at = _gguf_string(view, at, steps)[1] if inner == _GGUF_STRING else len(view) + 1
    return at

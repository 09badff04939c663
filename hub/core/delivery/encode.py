"""Encodes a block: the sensible encodings are tried, the useful ones are kept."""

import lzma
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas import encoding as wire
from schemas.encoding import Words
from schemas.limits import PAYLOADS_PER_BLOCK_MAX
from schemas.manifest import Block, Payload
from schemas.names import sha256

ZSTD_LEVEL = 19  # encoded once, sent to thousands
PROBE_LEVEL = 1  # a plane that gains nothing here gains little at level 19, at a twentieth of the time
WHOLE_PROBE_LEVEL = 3  # for blocks: level 1 misses what repeats far apart
WHOLE_MAX = 1.1  # the share of the planes' size that this probe may leave: level 19 seldom takes more off it
SAVING_MIN = 0.02  # an encoding that saves less is not worth its entry in the manifest
DELTA_SAVING_BYTES_MIN = 64  # about what the entry of a delta takes
LZMA_ENTROPY_MAX = 7.0  # bits a byte: denser planes gain less than a hundredth over Huffman's code
FLOAT_WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
INTEGER_WIDTHS = {"int64": 8, "uint64": 8, "int32": 4, "uint32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "float8": 1, "int4": 1}
RECORD_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
LZMA_FAST = [wire.LZMA_FILTERS[0] | {"mf": lzma.MF_HC4, "nice_len": 32, "depth": 4}]  # few matches in planes; same decoder


class Ancestor(NamedTuple):
    """Hold the base of a delta: up to four decoded blocks of one parent release, and where in them this block's likeness begins."""

    digests: tuple[bytes, ...]
    data: bytes
    skip: int = 0


class _Candidate(NamedTuple):
    """Hold bytes that, once their streams are coded, are a payload; `estimate` is that payload's size in bytes without any memory."""

    estimate: float
    head: bytes
    streams: tuple[NDArray[np.uint8], ...]
    rest: bytes


def encode_block(data: bytes, *, dtype: str | None = None, parents: Sequence[Ancestor] = ()) -> tuple[Block, dict[bytes, bytes]]:
    """Return the block, and its payloads by digest; raw is always among them, so that any node can decode one.

    `dtype` is what a tensor's elements are, as hub.core.delivery.chunker names it; `parents` has at most one entry a parent release.
    """
    digest = sha256(data)
    payloads = {digest: data}
    entries: list[Payload] = []
    alone = _alone(data, dtype)
    best = len(data)
    if alone is not None:
        best = len(alone[1])
        entries.append(Payload(alone[0], sha256(alone[1]), best))
        payloads[entries[-1].digest] = alone[1]
    for parent in parents[: PAYLOADS_PER_BLOCK_MAX - 1]:
        if digest in parent.digests or not parent.data:
            continue
        packed = _delta(data, dtype, parent, best)
        if len(packed) <= min(best * (1 - SAVING_MIN), best - DELTA_SAVING_BYTES_MIN):
            entries.append(Payload("delta", sha256(packed), len(packed), parent.digests))
            payloads[entries[-1].digest] = packed
    return Block(digest, len(data), tuple(entries)), payloads


def _alone(data: bytes, dtype: str | None) -> tuple[Any, bytes] | None:
    """Return the best encoding that needs no parent; None when none is worth its entry."""
    packed = _planes(data, dtype)
    probe = len(zstandard.ZstdCompressor(level=WHOLE_PROBE_LEVEL).compress(data))
    encoding, best = "planes", packed
    if probe < 0.99 * len(data) and probe < WHOLE_MAX * len(packed):
        # The size stands in the frame: a node unpacks nothing that does not say how large it will be.
        whole = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(data)
        if len(whole) <= len(packed):
            encoding, best = "zstd", whole
    return (encoding, best) if len(best) <= len(data) * (1 - SAVING_MIN) else None


def _planes(data: bytes, dtype: str | None) -> bytes:
    candidates = [_of_words(bytes([wire.PLAIN << 4]), np.frombuffer(data, np.uint8), b"")]
    if dtype in FLOAT_WIDTHS or dtype is None:
        for width in (FLOAT_WIDTHS[dtype],) if dtype is not None else (4, 2):
            words, rest = _split(data, width)
            candidates.append(_of_words(bytes([wire.ROTATED << 4 | _log2(width)]), rotate(words), rest))
    if INTEGER_WIDTHS.get(dtype or "", 1) > 1:
        words, rest = _split(data, INTEGER_WIDTHS[dtype or ""])
        candidates.append(_of_words(bytes([wire.PLAIN << 4 | _log2(words.itemsize)]), words, rest))
    if dtype in RECORD_BYTES:
        candidates.append(_records(data, RECORD_BYTES[dtype]))
    return _smallest(candidates)


def _delta(data: bytes, dtype: str | None, parent: Ancestor, best: int) -> bytes:
    candidates: list[_Candidate] = []
    skip = parent.skip.to_bytes(3, "little")
    for width in _delta_widths(dtype):
        words, rest = _split(data, width)
        before = wire.parent_words(parent.data, parent.skip, len(words), _log2(width))
        ways: list[tuple[int, Words]] = []
        if dtype is None or dtype in FLOAT_WIDTHS:
            ways += [(wire.FLOATS, zigzag(wire.ordered(words) - wire.ordered(before))), (wire.XOR, rotate(words ^ before))]
        else:
            ways += [(wire.INTEGERS, zigzag(words - before)), (wire.XOR, rotate(words ^ before))]
        order = wire.order_by(before)
        # Where most elements stayed the same, the runs of them are worth more than the company of their like.
        scattered = 2 * np.count_nonzero(words != before) > len(words)
        for method, changed in ways:
            head = method << 4 | _log2(width) | (wire.SORTED if scattered else 0)
            candidates.append(_of_words(bytes([head]) + skip, changed[order] if scattered else changed, rest))
    packed = _smallest(candidates)
    if dtype is None or len(packed) > 0.9 * best:
        prefixed = _prefixed(data, parent.data)
        packed = min(packed, prefixed, key=len)
    return packed


def _delta_widths(dtype: str | None) -> tuple[int, ...]:
    if dtype is None:
        return (4,)
    return (FLOAT_WIDTHS.get(dtype) or INTEGER_WIDTHS.get(dtype) or 1,)


def _prefixed(data: bytes, parent: bytes) -> bytes:
    prefix = zstandard.ZstdCompressionDict(parent, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return bytes([wire.PREFIX << 4]) + _frame(data, ZSTD_LEVEL, prefix)


# Elements: what schemas/encoding.py undoes


def rotate(words: Words) -> Words:
    """Return the sign from the highest bit to the lowest, so that the exponent has a plane to itself."""
    one = words.dtype.type(1)
    return (words << one) | (words >> words.dtype.type(words.itemsize * 8 - 1))


def zigzag(words: Words) -> Words:
    """Return differences, modulo the width, as 0, 1, 2, 3 for 0, -1, 1, -2."""
    one = words.dtype.type(1)
    return (words << one) ^ (~(words >> words.dtype.type(words.itemsize * 8 - 1)) + one)


def _log2(width: int) -> int:
    return width.bit_length() - 1


def _split(data: bytes, width: int) -> tuple[Words, bytes]:
    """Return the whole elements, and what is left of the last."""
    count = len(data) // width
    return np.frombuffer(data, wire.WORDS[_log2(width)], count), data[count * width :]


def _records(data: bytes, stride: int) -> _Candidate:
    rows = len(data) // stride
    table = np.frombuffer(data, np.uint8, rows * stride).reshape(rows, stride)
    columns = np.ascontiguousarray(table.T)
    estimate = sum(_entropy(column) * rows / 8 for column in columns)
    return _Candidate(estimate, bytes([wire.RECORDS << 4, stride]), (columns.reshape(-1),), data[rows * stride :])


# Streams


def _of_words(head: bytes, words: Words, rest: bytes) -> _Candidate:
    table = np.ascontiguousarray(words).view(np.uint8).reshape(-1, words.itemsize)
    planes = tuple(np.ascontiguousarray(table[:, place]) for place in range(words.itemsize))
    return _Candidate(sum(_entropy(plane) * len(plane) / 8 for plane in planes), head, planes, rest)


def _smallest(candidates: Sequence[_Candidate]) -> bytes:
    """Return the payload of the best estimate: only that is coded. Of two equal ones it is the later, which knows more of the elements."""
    return _packed(min(reversed(candidates), key=lambda one: one.estimate))


def _packed(candidate: _Candidate) -> bytes:
    return candidate.head + b"".join(_stream(plane) for plane in candidate.streams) + candidate.rest


def _stream(plane: NDArray[np.uint8]) -> bytes:
    """Return the plane as the smallest stream; LZMA, which a device unpacks slowly, only where it saves a hundredth."""
    data = plane.tobytes()
    if not data:
        return _headed(wire.STORED, data)
    if plane.min() == plane.max():
        return _headed(wire.CONSTANT, data[:1])
    bits = _entropy(plane)
    probe = _frame(data, PROBE_LEVEL)
    if len(probe) >= 0.995 * len(data) and bits > 7.95:
        return _headed(wire.STORED, data)
    kind, best = min(((wire.STORED, data), (wire.ZSTD, _frame(data, ZSTD_LEVEL))), key=lambda one: len(one[1]))
    if bits <= LZMA_ENTROPY_MAX:
        packed = lzma.compress(data, lzma.FORMAT_RAW, filters=LZMA_FAST)
        if len(packed) < 0.99 * len(best):
            kind, best = wire.LZMA, packed
    return _headed(kind, best)


def _headed(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(3, "little") + data


def _frame(data: bytes, level: int, prefix: zstandard.ZstdCompressionDict | None = None) -> bytes:
    size = len(data) + (len(prefix.as_bytes()) if prefix else 0)
    settings = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=size,
        format=wire.MAGICLESS,
        write_content_size=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(dict_data=prefix, compression_params=settings).compress(data)


def _entropy(plane: NDArray[np.uint8]) -> float:
    """Return the bits a byte of a code without memory."""
    counts = np.bincount(plane, minlength=256)
    counts = counts[counts > 0]
    return float(np.log2(len(plane)) - (counts * np.log2(counts)).sum() / len(plane)) if len(plane) else 0.0

"""Decode payloads to blocks: each is verified before it is decoded, bounded during decoding, and verified after it.

`raw` and `zstd` are the bytes themselves and one zstd frame. The first byte of `planes` and `delta` has the method in its high half:

    planes   PLAIN | ROTATED, log2 of the width      a stream a plane, then what is left of the last element
             RECORDS, stride in a byte of its own    one stream of all columns, then what is left of the last record
    delta    PREFIX                                  a zstd frame without magic, the parent before its content
             XOR | FLOATS | INTEGERS, log2 of the width and SORTED, then `skip` in 3 bytes: how much of the parent is skipped;
                                                     streams and rest as above

A plane is the bytes of equal significance of all elements. A stream is its kind in a byte, its length in 3, and that many bytes. All of it
is little-endian, and the manifest gives every decoded size beforehand.
"""

import lzma
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas.errors import Code, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, DELTA_PARENTS_MAX, PAYLOAD_BYTES_MAX
from schemas.manifest import Block, EncodingName, Payload
from schemas.names import sha256

DECODABLE: tuple[EncodingName, ...] = ("raw", "zstd", "planes", "delta")
# History that a zstd frame may ask a decoder to keep: no reference goes back further than the beginning of its block.
WINDOW_BYTES_MAX = BLOCK_BYTES_MAX
PREFIX_WINDOW_BYTES_MAX = 1 << 20  # The parents come before the block; a window of the next power of two covers them.
PARENT_BYTES_MAX = DELTA_PARENTS_MAX * BLOCK_BYTES_MAX

PLAIN, ROTATED, RECORDS = 0, 1, 2  # Methods of planes.
PREFIX, XOR, FLOATS, INTEGERS = 0, 1, 2, 3  # Methods of delta.
SORTED = 4  # Flag: the elements are in the order of their parent's exponent, so that similar changes are adjacent.
STORED, ZSTD, LZMA, CONSTANT = 0, 1, 2, 3  # Kinds of stream.
STREAM_HEAD_BYTES = 4
WORDS = ("u1", "<u2", "<u4", "<u8")  # Index: log2 of the width.
LZMA_FILTERS: list[dict[str, Any]] = [  # Without context this is an adaptive order-0 coder, which goes below one bit per byte.
    {"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 17, "mode": lzma.MODE_NORMAL, "nice_len": 273}
]
MAGICLESS = zstandard.FORMAT_ZSTD1_MAGICLESS

Words = NDArray[np.unsignedinteger[Any]]


def decode_payload(payload: Payload, block: Block, data: bytes, parent: bytes = b"") -> bytes:
    """Return the block's bytes; `parent` is the content of the payload's parents, verified and joined.

    Raises:
        Refused: the payload is too long, is not the one that was requested, or does not decode to the block.
    """
    if len(data) > PAYLOAD_BYTES_MAX:
        raise Refused(Code.BLOCK_TOO_LARGE, f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
    if block.bytes > BLOCK_BYTES_MAX:
        raise Refused(Code.BLOCK_TOO_LARGE, f"block of {block.bytes} bytes, at most {BLOCK_BYTES_MAX} are allowed")
    found = sha256(data)
    if found != payload.digest:
        raise mismatch(Code.BLOCK_DIGEST, "payload", expected=payload.digest.hex(), actual=found.hex())
    match payload.encoding:
        case "raw" if payload.digest == block.digest and len(data) == block.bytes:
            return data  # It was verified above, under the same digest.
        case "raw":
            decoded = data
        case "zstd":
            decoded = _unzstd(data, block.bytes)
        case "planes":
            decoded = _unplanes(data, block.bytes)
        case "delta":
            decoded = _undelta(data, block.bytes, parent)
        case _:
            raise Refused(Code.BLOCK_DECODE, f"encoding {payload.encoding!r} is not one of {', '.join(DECODABLE)}")
    found = sha256(decoded)
    if len(decoded) != block.bytes or found != block.digest:
        expected, actual = (f"{digest.hex()} of {size} bytes" for digest, size in ((block.digest, block.bytes), (found, len(decoded))))
        raise mismatch(Code.BLOCK_DIGEST, "decoded block", expected=expected, actual=actual)
    return decoded


# Elements: a function in hub/core/delivery/encode.py, or the same function, undoes each of these.


def unrotate(words: Words) -> Words:
    """Move the sign back from the lowest bit to the highest."""
    one = words.dtype.type(1)
    return (words >> one) | (words << words.dtype.type(words.itemsize * 8 - 1))


def ordered(words: Words) -> Words:
    """Return bits of floats as unsigned integers in the floats' order, so that neighbours differ by one."""
    top = words.dtype.type(1 << (words.itemsize * 8 - 1))
    return np.where(words & top, ~words, words | top)


def unordered(words: Words) -> Words:
    """Return bits of floats from integers in their order."""
    top = words.dtype.type(1 << (words.itemsize * 8 - 1))
    return np.where(words & top, words ^ top, ~words)


def unzigzag(words: Words) -> Words:
    """Return differences, modulo the width, from 0, 1, 2, 3 for 0, -1, 1, -2."""
    one = words.dtype.type(1)
    return (words >> one) ^ (~(words & one) + one)


def parent_words(parent: bytes, skip_bytes: int, count: int, log2: int) -> Words:
    """Return the parent's elements beside a block's `count`; zeros after the end of the parent."""
    part = parent[skip_bytes : skip_bytes + (count << log2)]
    return np.frombuffer(part + bytes((count << log2) - len(part)), WORDS[log2])


def order_by(parent: Words) -> NDArray[np.intp]:
    """Return the order of a SORTED delta: by the exponent of a float32 or bfloat16, and by the whole of an int8; stable."""
    bits = parent.itemsize * 8
    key = parent if bits == 8 else (parent >> parent.dtype.type(bits - 9)) & parent.dtype.type(255)
    return np.argsort(key.astype(np.uint8), kind="stable")


# Methods


def _unplanes(data: bytes, size_bytes: int) -> bytes:
    method, low = _head(data)
    if method == RECORDS:
        stride = data[1] if len(data) > 1 else 0
        if stride < 2 or low:
            raise mismatch(Code.BLOCK_DECODE, "stride of records", expected="2 to 255", actual=stride)
        rows = size_bytes // stride
        columns, at = _stream(data, 2, rows * stride)
        table = np.frombuffer(columns, np.uint8).reshape(stride, rows)
        return np.ascontiguousarray(table.T).tobytes() + _rest(data, at, size_bytes % stride)
    if method not in (PLAIN, ROTATED) or low >= len(WORDS):
        raise mismatch(Code.BLOCK_DECODE, "method of planes", expected="one of 00 to 03, 10 to 13 and 20", actual=f"{data[0]:02x}")
    words, at = _words(data, 1, size_bytes, low)
    return (unrotate(words) if method == ROTATED else words).tobytes() + _rest(data, at, size_bytes % (1 << low))


def _undelta(data: bytes, size_bytes: int, parent: bytes) -> bytes:
    if not 0 < len(parent) <= PARENT_BYTES_MAX:
        raise mismatch(Code.BLOCK_PARENT, "parent of a delta", expected=f"1 to {PARENT_BYTES_MAX} bytes", actual=len(parent))
    method, low = _head(data)
    if method == PREFIX and not low:
        prefix = zstandard.ZstdCompressionDict(parent, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return _unframe(data[1:], size_bytes, prefix)
    if method not in (XOR, FLOATS, INTEGERS) or low & ~SORTED >= len(WORDS):
        expected = "00, or 10 to 17, 20 to 27 or 30 to 37"
        raise mismatch(Code.BLOCK_DECODE, "method of a delta", expected=expected, actual=f"{data[0]:02x}")
    log2, skip = low & ~SORTED, int.from_bytes(data[1:4], "little")
    if len(data) < 4 or skip > len(parent):
        raise mismatch(Code.BLOCK_PARENT, "parent of a delta", expected=f"at least {skip} bytes", actual=len(parent))
    words, at = _words(data, 4, size_bytes, log2)
    before = parent_words(parent, skip, len(words), log2)
    if low & SORTED:
        sorted_words, words = words, np.empty_like(words)
        words[order_by(before)] = sorted_words
    if method == XOR:
        words = unrotate(words) ^ before
    elif method == FLOATS:
        words = unordered(ordered(before) + unzigzag(words))
    else:
        words = before + unzigzag(words)
    return words.tobytes() + _rest(data, at, size_bytes % (1 << log2))


# Streams


def _head(data: bytes) -> tuple[int, int]:
    if not data:
        raise Refused(Code.BLOCK_DECODE, "payload of 0 bytes, at least 1 is needed to tell the method")
    return data[0] >> 4, data[0] & 15


def _words(data: bytes, at: int, size_bytes: int, log2: int) -> tuple[Words, int]:
    """Return whole elements from one stream per byte of width, and the position of the next stream."""
    width, count = 1 << log2, size_bytes >> log2
    joined = np.empty((count, width), np.uint8)
    for place in range(width):
        plane, at = _stream(data, at, count)
        joined[:, place] = np.frombuffer(plane, np.uint8)
    return joined.reshape(-1).view(WORDS[log2]), at


def _stream(data: bytes, at: int, size_bytes: int) -> tuple[bytes, int]:
    """Return exactly `size_bytes` from the stream at `at`, and the position of the next."""
    if len(data) < at + STREAM_HEAD_BYTES:
        raise mismatch(Code.BLOCK_DECODE, "length of a payload", expected=f"at least {at + STREAM_HEAD_BYTES}", actual=len(data))
    kind, length = data[at], int.from_bytes(data[at + 1 : at + STREAM_HEAD_BYTES], "little")
    begin = at + STREAM_HEAD_BYTES
    part = data[begin : begin + length]
    if len(part) != length:
        raise mismatch(Code.BLOCK_DECODE, "length of a stream", expected=length, actual=len(part))
    if kind == STORED:
        decoded = part
    elif kind == ZSTD:
        decoded = _unframe(part, size_bytes)
    elif kind == LZMA:
        decoded = _unlzma(part, size_bytes)
    elif kind == CONSTANT:
        decoded = part * size_bytes if length == 1 else b""
    else:
        raise mismatch(Code.BLOCK_DECODE, "kind of a stream", expected="0 to 3", actual=kind)
    if len(decoded) != size_bytes:
        raise mismatch(Code.BLOCK_DECODE, "bytes of a stream, decoded", expected=size_bytes, actual=len(decoded))
    return decoded, begin + length


def _rest(data: bytes, at: int, size_bytes: int) -> bytes:
    if len(data) - at != size_bytes:
        raise mismatch(Code.BLOCK_DECODE, "bytes behind the streams", expected=size_bytes, actual=len(data) - at)
    return data[at:]


def _unlzma(data: bytes, size_bytes: int) -> bytes:
    try:
        return lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS).decompress(data, max_length=size_bytes)
    except (lzma.LZMAError, EOFError) as error:
        raise Refused(Code.BLOCK_DECODE, f"not an LZMA stream: {error}") from None


def _unframe(data: bytes, size_bytes: int, prefix: zstandard.ZstdCompressionDict | None = None) -> bytes:
    """Unpack a frame without magic and size to at most `size_bytes`; it is checked as closely as a whole one."""
    window_max = PREFIX_WINDOW_BYTES_MAX if prefix else 1 << WINDOW_BYTES_MAX.bit_length()
    try:
        frame = zstandard.get_frame_parameters(data, format=MAGICLESS)
        if frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, size_bytes):
            raise mismatch(Code.BLOCK_DECODE, "decoded size", expected=size_bytes, actual=frame.content_size)
        if frame.window_size > window_max:
            raise mismatch(Code.BLOCK_DECODE, "zstd window", expected=f"at most {window_max}", actual=frame.window_size)
        decompressor = zstandard.ZstdDecompressor(dict_data=prefix, format=MAGICLESS, max_window_size=window_max)
        return decompressor.decompress(data, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(Code.BLOCK_DECODE, f"not a zstd frame of a stream: {error}") from None


def _unzstd(data: bytes, size_bytes: int) -> bytes:
    """Unpack to exactly `size_bytes`; a frame that does not declare this size is not unpacked, because it may be a decompression bomb."""
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size_bytes:
            undeclared = frame.content_size == zstandard.CONTENTSIZE_UNKNOWN
            raise mismatch(
                Code.BLOCK_DECODE, "decoded size", expected=size_bytes, actual="undeclared" if undeclared else frame.content_size
            )
        if frame.window_size > WINDOW_BYTES_MAX:
            raise mismatch(Code.BLOCK_DECODE, "zstd window", expected=f"at most {WINDOW_BYTES_MAX}", actual=frame.window_size)
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(Code.BLOCK_DECODE, f"not a zstd frame of a block: {error}") from None

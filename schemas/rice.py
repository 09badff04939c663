"""Encode whole numbers in few bits: Golomb-Rice codes, within a tenth of a bit of the entropy of noise. Knows no window.

A number v becomes u = 2v or -2v - 1 (zigzag). With one k for all of them, the k low bits are in one run and the rest, u >> k,
in unary in another: that many zeros and a one. One byte holds k. (Golomb 1966; Rice and Plaunt 1971.)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Code, Refused, mismatch

LOW_BITS_MAX = 31  # Low bits of a residual of 32 bits.
VALUE_MAX = 2**31 - 1
WEIGHTS = np.int64(1) << np.arange(LOW_BITS_MAX, dtype=np.int64)
Integers = NDArray[np.int64]


def pack(values: Integers) -> bytes:
    """Return the shortest code of these numbers, shape [n]; a number beyond 32 bits is clipped."""
    kept = np.clip(values, -VALUE_MAX, VALUE_MAX).astype(np.int64)
    zigzag = (kept << 1) ^ (kept >> 63)
    low = min(range(LOW_BITS_MAX + 1), key=lambda bits: len(zigzag) * (bits + 1) + int((zigzag >> bits).sum()))
    tails = (zigzag[:, None] >> np.arange(low)) & 1
    ends = np.cumsum((zigzag >> low) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    bits = np.concatenate([tails.astype(np.uint8).ravel(), unary])
    return bytes([low]) + np.packbits(bits).tobytes()


def unpack(data: bytes, count: int, *, what: str) -> Integers:
    """Return the `count` numbers, shape [count]; memory is at most 8 times the data.

    Raises:
        Refused: WINDOW_SHAPE: the data has more or fewer numbers, or bits are left over.
    """
    low = data[0] if data else LOW_BITS_MAX + 1
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=min(1, len(data))))
    if low > LOW_BITS_MAX or len(bits) < count * (low + 1):
        raise mismatch(Code.WINDOW_SHAPE, what, expected=f"{count} numbers", actual=f"{len(data)} bytes")
    ends = np.flatnonzero(bits[count * low :])
    if len(ends) != count or len(bits) - count * low - (int(ends[-1]) + 1 if count else 0) >= 8:
        raise mismatch(Code.WINDOW_SHAPE, what, expected=f"{count} numbers", actual=f"{len(ends)} in {len(data)} bytes")
    heads = ends.astype(np.int64)
    heads[1:] -= heads[:-1] + 1  # NumPy computes the right side first.
    if count and int(heads.max()) >> (32 - low):
        raise Refused(Code.WINDOW_SHAPE, f"{what}: a number beyond 32 bits")
    zigzag = (heads << low) | (bits[: count * low].reshape(count, low) @ WEIGHTS[:low])
    found: Integers = (zigzag >> 1) ^ -(zigzag & 1)
    return found


def unpack_many(packed: Sequence[bytes], count: int, *, what: str) -> Integers:
    """Unpack many at once, shape [packed, count]: a hub reads thousands a second.

    Raises:
        Refused: WINDOW_SHAPE: one of them is not `count` numbers; `unpack` says which.
    """
    found = np.empty((len(packed), count), np.int64)
    alike: dict[tuple[int, int], list[int]] = {}  # By low bits and approximate length, so that a long one does not make all of them long.
    for number, data in enumerate(packed):
        alike.setdefault((data[0] if data else LOW_BITS_MAX + 1, len(data).bit_length()), []).append(number)
    for (low, _), numbers in alike.items():
        found[numbers] = _unpack_alike([packed[number] for number in numbers], count, low, what)
    return found


def _unpack_alike(packed: Sequence[bytes], count: int, low: int, what: str) -> Integers:
    """Unpack those with the same `low`, shape [packed, count]: each is a row of bits, padded with zeros."""
    wrong = mismatch(Code.WINDOW_SHAPE, what, expected=f"{count} numbers", actual="others in one of many")
    sizes = np.array([len(data) - 1 for data in packed])
    width, begin = int(sizes.max()), count * low
    if low > LOW_BITS_MAX or not count or (8 * sizes < begin + count).any():
        raise wrong
    joined = np.frombuffer(b"".join(data[1:].ljust(width, b"\0") for data in packed), np.uint8)
    bits = np.unpackbits(joined.reshape(len(packed), width), axis=1)
    tails = np.zeros((len(packed), count), np.uint8 if low <= 8 else np.int64)
    for bit in range(low):
        tails |= bits[:, bit:begin:low].astype(tails.dtype) << bit
    unary = np.ascontiguousarray(bits[:, begin:])
    marks = np.flatnonzero(unary.view(np.bool_))
    if len(marks) != len(packed) * count:
        raise wrong
    ones = marks.reshape(len(packed), count) - np.arange(len(packed))[:, None] * unary.shape[1]  # Counted from the row's own beginning.
    left = 8 * sizes - begin - ones[:, -1] - 1
    if (ones[:, 0] < 0).any() or (left < 0).any() or (left >= 8).any():
        raise wrong
    heads = np.diff(ones, axis=1, prepend=-1) - 1
    if int(heads.max()) >> (32 - low):
        raise wrong
    zigzag = (heads << low) | tails
    unpacked: Integers = (zigzag >> 1) ^ -(zigzag & 1)
    return unpacked

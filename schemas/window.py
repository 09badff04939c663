"""What a node says of its model's inputs and outputs over an interval: noisy counts. There is no field that could hold a row or a node id.

Counts travel as differences from what the baseline expects of `rows` rows, one signed byte each; a difference that does not fit stands as
-128 there and in full (little-endian int32) behind the bytes. `rows` is itself derived from the noisy counts.
"""

import sys
from array import array
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from schemas import limits
from schemas.document import Document
from schemas.errors import Code, mismatch
from schemas.manifest import Baseline, Seconds
from schemas.names import DigestPrefix, Id16


class Window(Document):
    """One model, one release, one interval; model and cohort stand in the topic."""

    schema_name = "window"
    bytes_max = limits.WINDOW_BYTES_MAX

    id: Annotated[Id16, Field(alias="i")]  # random, single use: a window delivered twice is counted once
    release: Annotated[DigestPrefix, Field(alias="r")]
    start: Annotated[Seconds, Field(alias="s")]
    seconds: Annotated[int, Field(alias="w", ge=1, le=limits.WINDOW_SECONDS_MAX)]
    rows: Annotated[int, Field(alias="n", ge=0, le=limits.WINDOW_ROWS_MAX)]
    counts: Annotated[bytes, Field(alias="c", min_length=1, max_length=limits.SIGNALS_MAX * limits.BINS_MAX * 5)]


_ESCAPE = -128  # does not fit a signed byte, stands in full behind


def expected_counts(baseline: Baseline, rows: int) -> tuple[int, ...]:
    """What the baseline expects of so many rows, flat over its signals; integer arithmetic, so that every device says the same."""
    found: list[int] = []
    for signal in baseline.signals:
        total = sum(signal.counts) or 1
        found.extend((2 * rows * count + total) // (2 * total) for count in signal.counts)
    return tuple(found)


def pack_counts(counts: Sequence[int], expected: Sequence[int]) -> bytes:
    """Counts as differences from what is expected."""
    short, full = array("b"), array("i")
    for count, center in zip(counts, expected, strict=True):
        residual = count - center
        if _ESCAPE < residual <= 127:
            short.append(residual)
        else:
            short.append(_ESCAPE)
            full.append(max(-(2**31), min(2**31 - 1, residual)))
    if sys.byteorder == "big":
        full.byteswap()
    return short.tobytes() + full.tobytes()


def unpack_counts(data: bytes, expected: Sequence[int]) -> tuple[int, ...]:
    """The counts again.

    Raises:
        Refused: there are more or fewer than the baseline has bins.
    """
    short = array("b", data[: len(expected)])
    escaped = sum(residual == _ESCAPE for residual in short)
    if len(short) != len(expected) or len(data) != len(expected) + 4 * escaped:
        raise mismatch(Code.WINDOW_SHAPE, "window's bins", expected=f"{len(expected)} and {escaped} in full", actual=f"{len(data)} bytes")
    full = array("i", data[len(expected) :])
    if sys.byteorder == "big":
        full.byteswap()
    rest = iter(full)
    return tuple(center + (next(rest) if residual == _ESCAPE else residual) for residual, center in zip(short, expected, strict=True))

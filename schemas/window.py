"""Define a node's report on its model's inputs and outputs over an interval: noisy counts. No field could hold a row or a node id.

Counts travel as differences from a centre, in steps (`Privacy.step`) and Rice codes. The centre is what the baseline expects of `rows`
rows; `rows` is itself derived from the noisy counts. A calibrated window carries how the counts differ from the node's own baseline, its
centre is zero, and `own_rows_log2` gives the rows of that baseline. The node never sends the counts as well: both together would reveal the
baseline, which is the same in all of a node's windows.

The form of the first nodes is still read: differences of one signed byte each. One that does not fit is -128 there and in full
(little-endian int32) behind the bytes.
"""

import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas import limits, rice
from schemas.accuracy import About
from schemas.document import Document
from schemas.errors import Code, mismatch
from schemas.names import DigestPrefix, Id16
from schemas.quantities import Seconds
from schemas.signals import Baseline, Privacy

Counts = NDArray[np.int64]
Bins = Annotated[bytes, Field(min_length=1, max_length=limits.SIGNALS_MAX * limits.BINS_MAX * 5)]
Log2 = Annotated[int, Field(ge=0, le=40)]
EXACT_MAX = 2**62  # Larger numbers are computed with Python's own integers, which have no bound.
Units = Annotated[int, Field(ge=2, le=limits.WINDOW_UNITS_MAX)]


class Window(Document):
    """Carry one interval of one model and one release; model and cohort are in the topic."""

    schema_name = "window"
    bytes_max = limits.WINDOW_BYTES_MAX
    flat = True

    id: Annotated[Id16, Field(alias="i")]  # Random and used once: a window that is delivered twice counts once.
    release: Annotated[DigestPrefix, Field(alias="r")]
    start: Annotated[Seconds, Field(alias="s")]
    seconds: Annotated[int, Field(alias="w", ge=1, le=limits.WINDOW_UNITS_MAX * limits.WINDOW_SECONDS_MAX)]
    rows: Annotated[int, Field(alias="n", ge=0, le=limits.WINDOW_ROWS_MAX)]
    counts: Annotated[Bins | None, Field(alias="c")] = None
    packed: Annotated[Bins | None, Field(alias="p")] = None
    # Rows of the node's own baseline, rounded down so that they identify no node.
    own_rows_log2: Annotated[Log2 | None, Field(alias="m")] = None
    units: Annotated[Units | None, Field(alias="u")] = None  # Windows that were added up while the node was offline.
    about: Annotated[About | None, Field(alias="a")] = None  # Absent if it is about the release's signals.

    @property
    def noises(self) -> int:
        """Return how many windows' noise its counts hold."""
        return self.units or 1

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.counts is None) == (self.packed is None):
            raise ValueError("counts are either packed or not")
        if self.own_rows_log2 is not None and self.packed is None:
            raise ValueError("differences from an own baseline are packed")
        if self.about is not None and (self.packed is None or self.own_rows_log2 is not None):
            raise ValueError("right and wrong answers are packed, and compared with no own baseline")
        return self


class Expectation:
    """Return what a baseline expects of a number of rows, flat over its signals, in integer arithmetic: every device gets the same."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._references: dict[int | None, tuple[Counts, Counts, int]] = {}

    def of(self, rows: int, start_seconds: int) -> Counts:
        """Return counts, shape [bins of all signals], for a window that starts then."""
        counts, totals, most = self._reference(self._baseline.key_of(start_seconds))
        if 2 * rows * most >= EXACT_MAX:
            pairs = zip(counts.tolist(), totals.tolist(), strict=True)
            return np.array([(2 * rows * count + total) // (2 * total) for count, total in pairs], np.int64)
        found: Counts = (2 * rows * counts + totals) // (2 * totals)
        return found

    def of_many(self, rows: Sequence[int], starts_seconds: Sequence[int]) -> Counts:
        """Return the same for many windows, shape [windows, bins of all signals]."""
        by_key: dict[int | None, list[int]] = {}
        for number, start in enumerate(starts_seconds):
            by_key.setdefault(self._baseline.key_of(start), []).append(number)
        found = np.empty((len(rows), self._baseline.bins), np.int64)
        for key, numbers in by_key.items():
            counts, totals, most = self._reference(key)
            those = [rows[number] for number in numbers]
            if 2 * max(those) * most >= EXACT_MAX:
                found[numbers] = [self.of(rows[number], starts_seconds[number]) for number in numbers]
            else:
                found[numbers] = (2 * np.array(those, np.int64)[:, None] * counts + totals) // (2 * totals)
        return found

    def _reference(self, key: int | None) -> tuple[Counts, Counts, int]:
        if key not in self._references:
            self._references[key] = _reference(self._baseline, key)
        return self._references[key]


def expected_counts(baseline: Baseline, rows: int, start_seconds: int = 0) -> tuple[int, ...]:
    """Return what the baseline expects of this number of rows."""
    return tuple(Expectation(baseline).of(rows, start_seconds).tolist())


def write_counts(counts: Counts, *, center: Counts | None, privacy: Privacy) -> bytes:
    """Return noisy counts for the wire: whole steps from the centre. Noisy counts are rounded, so rounding costs no privacy."""
    residuals = counts if center is None else counts - center
    return rice.pack((residuals + privacy.step // 2) // privacy.step)


def read_counts(window: Window, *, expectation: Expectation, privacy: Privacy, bins: int) -> Counts:
    """Return a window's counts, or their difference from the node's own baseline, shape [bins of all signals].

    Raises:
        Refused: WINDOW_SHAPE: there are more or fewer than the baseline has bins.
    """
    center = expectation.of(window.rows, window.start) if window.own_rows_log2 is None else np.zeros(bins, np.int64)
    if window.packed is None:
        return np.array(unpack_counts(window.counts or b"", center.tolist()), np.int64)
    found: Counts = center + privacy.step * rice.unpack(window.packed, bins, what="window's bins")
    return found


def _reference(baseline: Baseline, key: int | None) -> tuple[Counts, Counts, int]:
    counts: list[int] = []
    totals: list[int] = []
    for signal in baseline.signals:
        reference = signal.reference(key)
        counts.extend(reference)
        totals.extend([sum(reference) or 1] * len(reference))
    return np.array(counts, np.int64), np.array(totals, np.int64), max(totals)


_ESCAPE = -128  # Marker for a difference that does not fit a signed byte and is in full at the end.


def pack_counts(counts: Sequence[int], expected: Sequence[int]) -> bytes:
    """Return counts as differences from the expectation, in the form of the first nodes."""
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
    """Return the counts.

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

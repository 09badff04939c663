"""Counts what passes through a model into the bins that its manifest carries. Holds counts, never rows; knows no noise budget and no clock.

Windows are by event time: the moment that the local program gives with a request, or else the moment it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.core.privacy import BitSource, discrete_gaussian
from schemas.limits import WINDOW_ROWS_MAX
from schemas.signals import Baseline, Signal
from schemas.window import Window, expected_counts, pack_counts

OPEN_WINDOWS_MAX = 64  # a program with a broken clock must not fill the memory: beyond this the oldest is closed
Counts = NDArray[np.int64]
Tensors = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class _Numeric:
    """The numeric signals of one tensor, counted together."""

    side: str
    tensor: str
    columns: NDArray[np.intp]
    edges: NDArray[np.float64]  # [signals, most edges], padded with infinity
    offsets: NDArray[np.intp]  # where each signal's bins begin
    others: NDArray[np.intp]  # where each signal's "other" bin is

    def count(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Flat bin numbers of [rows, width] values; a column that is not there is "other"."""
        if values.shape[1] == 0:
            return np.broadcast_to(self.others, (len(values), len(self.others)))
        missing = self.columns >= values.shape[1]
        picked = values[:, np.where(missing, 0, self.columns)].astype(np.float64, copy=False)
        bins = (picked[:, :, None] >= self.edges).sum(axis=2) + self.offsets
        return np.where(np.isfinite(picked) & ~missing, bins, self.others)


@dataclass(slots=True)
class _Categorical:
    """One categorical signal."""

    side: str
    tensor: str
    column: int
    bins: dict[Any, int]
    other: int

    def count(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Flat bin numbers of [rows, width] values."""
        if self.column >= values.shape[1]:
            return np.full(len(values), self.other, np.intp)
        return np.array([self.bins.get(_category(value), self.other) for value in values[:, self.column].tolist()], np.intp)


class Sketch:
    """The open windows of one release on one node."""

    def __init__(self, baseline: Baseline, window_seconds: int) -> None:
        self._window_seconds = window_seconds
        self._size = sum(signal.bins for signal in baseline.signals)
        self._counters = _counters(baseline.signals)
        self._open: dict[int, Counts] = {}
        self._watermark = float("-inf")
        self._observed = 0
        self._seen_observed, self._active_at = 0, float("-inf")

    def observe(self, inputs: Tensors, outputs: Tensors, rows: int, at: float) -> None:
        """Count the rows of one request; a value that cannot be counted is "other", and nothing is raised for it."""
        start = int(at // self._window_seconds) * self._window_seconds
        counts = self._open.get(start)
        if counts is None:
            counts = self._open[start] = np.zeros(self._size, np.int64)
        for counter in self._counters:
            tensor = (inputs if counter.side == "input" else outputs).get(counter.tensor)
            if tensor is None or tensor.size % rows or not tensor.size:
                values: NDArray[Any] = np.empty((rows, 0))
            else:
                values = tensor.reshape(rows, -1)
            counts += np.bincount(counter.count(values).ravel(), minlength=self._size)
        self._watermark = max(self._watermark, at)
        self._observed += 1

    def due(self, now: float, *, grace_seconds: float, idle_seconds: float) -> list[int]:
        """Starts of the windows that are to close: passed by later events, or over and quiet, or too many."""
        if self._observed != self._seen_observed:
            self._seen_observed, self._active_at = self._observed, now
        idle = now - self._active_at >= idle_seconds
        starts = sorted(self._open)
        surplus = set(starts[: max(0, len(starts) - OPEN_WINDOWS_MAX)])
        found = []
        for start in starts:
            end = start + self._window_seconds
            if start in surplus or self._watermark >= end + grace_seconds or (idle and now >= end):
                found.append(start)
        return found

    def take(self, start: int) -> Counts:
        """A window's counts, flat over the signals; it is open no longer."""
        return self._open.pop(start)

    def snapshot(self) -> dict[int, list[int]]:
        """Every open window, for a checkpoint on this device."""
        return {start: counts.tolist() for start, counts in self._open.items()}

    def restore(self, counts: Mapping[int, Sequence[int]]) -> None:
        """Go on from a checkpoint; one of another shape is left."""
        for start, row in counts.items():
            if len(row) == self._size:
                self._open[start] = np.array(row, np.int64)


def noised(
    counts: Sequence[int],
    *,
    baseline: Baseline,
    sigma2: tuple[int, int],
    bits: BitSource,
    window_id: bytes,
    release: bytes,
    start: int,
    seconds: int,
) -> Window:
    """The window that leaves the device: noise on every count; the number of rows is read off the noisy counts."""
    noisy = [count + noise for count, noise in zip(counts, discrete_gaussian(len(counts), sigma2, bits), strict=True)]
    signals = len(baseline.signals)
    rows = min(WINDOW_ROWS_MAX, max(0, (2 * sum(noisy) + signals) // (2 * signals)))
    packed = pack_counts(noisy, expected_counts(baseline, rows))
    return Window(id=window_id, release=release, start=start, seconds=seconds, rows=rows, counts=packed)


def _counters(signals: Sequence[Signal]) -> list[_Numeric | _Categorical]:
    numeric: dict[tuple[str, str], list[tuple[Signal, int]]] = {}
    found: list[_Numeric | _Categorical] = []
    offset = 0
    for signal in signals:
        if signal.kind == "numeric":
            numeric.setdefault((signal.side, signal.tensor), []).append((signal, offset))
        else:
            bins = {category: offset + number for number, category in enumerate(signal.categories)}
            found.append(_Categorical(signal.side, signal.tensor, signal.column, bins, offset + signal.bins - 1))
        offset += signal.bins
    for (side, tensor), members in numeric.items():
        width = max(len(signal.edges) for signal, _ in members)
        edges = np.full((len(members), width), np.inf)
        for row, (signal, _) in enumerate(members):
            edges[row, : len(signal.edges)] = signal.edges
        found.append(
            _Numeric(
                side,
                tensor,
                np.array([signal.column for signal, _ in members], np.intp),
                edges,
                np.array([at for _, at in members], np.intp),
                np.array([at + signal.bins - 1 for signal, at in members], np.intp),
            )
        )
    return found


def _category(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return float(value) if isinstance(value, int | float) else value

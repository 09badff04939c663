"""Count what passes through a model into the bins that its manifest carries. Holds counts, never rows; knows no noise budget and no clock.

Windows are by event time: the moment that the local program gives with a request, or else the moment it came.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleetcast.measures import measured
from schemas.errors import Code
from schemas.signals import Baseline, Signal

OPEN_WINDOWS_MAX = 64  # a program with a broken clock must not fill the memory: beyond this the oldest is closed
Counts = NDArray[np.int64]
Bins = NDArray[np.intp]
Tensors = Mapping[str, NDArray[Any]]
Service = Mapping[str, float | str | None]
NO_SERVICE: Service = {}


@dataclass(slots=True)
class _Numeric:
    """Hold the numeric signals that are values of one tensor, counted together."""

    side: str
    tensor: str
    columns: NDArray[np.intp]
    edges: NDArray[np.float64]  # [signals, most edges], padded with infinity
    offsets: Bins  # where each signal's bins begin
    others: Bins  # where each signal's "other" bin is

    def count(self, values: NDArray[Any], odd: Counter[Code]) -> Bins:
        """Return flat bin numbers of [rows, width] values; a column that is not there is "other"."""
        if values.shape[1] == 0:
            return np.broadcast_to(self.others, (len(values), len(self.others)))
        if values.dtype.kind not in "biuf":
            odd[Code.ROWS_DATATYPE] += len(values)
            return np.broadcast_to(self.others, (len(values), len(self.others)))
        missing = self.columns >= values.shape[1]
        picked = values[:, np.where(missing, 0, self.columns)].astype(np.float64, copy=False)
        bins = (picked[:, :, None] >= self.edges).sum(axis=2) + self.offsets
        good = np.isfinite(picked)
        if not good.all():
            odd[Code.ROWS_NOT_FINITE] += int((~good).any(axis=1).sum())
        if missing.any():
            odd[Code.ROWS_SHAPE] += len(values)
        return np.where(good & ~missing, bins, self.others)


@dataclass(slots=True)
class _Categorical:
    """Hold one categorical signal that is a value of a tensor."""

    side: str
    tensor: str
    column: int
    bins: dict[Any, int]
    other: int

    def count(self, values: NDArray[Any], odd: Counter[Code]) -> Bins:
        """Return flat bin numbers of [rows, width] values."""
        if self.column >= values.shape[1]:
            if values.shape[1]:
                odd[Code.ROWS_SHAPE] += len(values)
            return np.full(len(values), self.other, np.intp)
        return _categories(values[:, self.column].tolist(), self.bins, self.other, odd)


@dataclass(slots=True)
class _Measured:
    """Hold one signal that is a measure of a whole row."""

    side: str
    tensor: str
    signal: Signal
    edges: NDArray[np.float64]
    bins: dict[Any, int]
    offset: int
    other: int

    def count(self, values: NDArray[Any], odd: Counter[Code]) -> Bins:
        """Return flat bin numbers of [rows, width] values."""
        if values.shape[1] == 0:
            return np.full(len(values), self.other, np.intp)
        try:
            with np.errstate(invalid="ignore", over="ignore"):
                found = measured(self.signal, values)
        except (TypeError, ValueError):  # texts where there should be numbers, or the other way round
            odd[Code.ROWS_DATATYPE] += len(values)
            return np.full(len(values), self.other, np.intp)
        if self.bins:
            return _categories(found.tolist(), self.bins, self.other, odd)
        good = np.isfinite(found)
        if not good.all():
            odd[Code.ROWS_NOT_FINITE] += int((~good).sum())
        return np.where(good, np.searchsorted(self.edges, found, side="right") + self.offset, self.other)


@dataclass(slots=True)
class _Reported:
    """Hold one signal of the service: one value a request, counted once."""

    quantity: str
    edges: NDArray[np.float64]
    bins: dict[Any, int]
    offset: int
    other: int

    def bin_of(self, value: float | str | None) -> int:
        """Return the flat bin number; what was not measured is "other"."""
        if value is None or isinstance(value, str) or self.bins:
            return self.bins.get(value, self.other)
        return int(np.searchsorted(self.edges, value, side="right")) + self.offset if np.isfinite(value) else self.other


class Sketch:
    """Count the open windows of one release on one node. `odd` says how many rows were "other", by why, since it was read; it stays
    here.
    """

    def __init__(self, baseline: Baseline, window_seconds: int) -> None:
        self._window_seconds = window_seconds
        self._size = baseline.bins
        self._counters = _counters(baseline.signals)
        self._reported = _reported(baseline.signals)
        self._open: dict[int, Counts] = {}
        self._watermark = float("-inf")
        self._observed = 0
        self._seen_observed, self._active_at = 0, float("-inf")
        self.odd: Counter[Code] = Counter()

    def observe(self, inputs: Tensors, outputs: Tensors, rows: int, at: float, service: Service = NO_SERVICE) -> None:
        """Count the rows of one request; a value that cannot be counted is "other", and nothing is raised for it.

        `service` holds the quantities of `schemas.signals.Quantity`; of a generated answer why it ended ("stop"), and how many tokens the
        runtime made it from and of ("prompt_tokens", "answer_tokens").
        """
        added = np.zeros(self._size, np.int64)  # a request is counted whole or, where its values are a bug of ours, not at all
        for reported in self._reported:
            added[reported.bin_of(service.get(reported.quantity))] += 1  # However many rows the request has: it was one draw.
        for counter in self._counters:
            tensor = (inputs if counter.side == "input" else outputs).get(counter.tensor)
            if tensor is None or tensor.size % rows or not tensor.size:
                if tensor is not None:
                    self.odd[Code.ROWS_SHAPE] += rows
                values: NDArray[Any] = np.empty((rows, 0))
            else:
                values = tensor.reshape(rows, -1)
            added += np.bincount(counter.count(values, self.odd).ravel(), minlength=self._size)
        start = self.start_of(at)
        if start in self._open:
            self._open[start] += added
        else:
            self._open[start] = added
        self._watermark = max(self._watermark, at)
        self._observed += 1

    def start_of(self, at: float) -> int:
        """Return when the window begins that this moment is in."""
        return int(at // self._window_seconds) * self._window_seconds

    def due(self, now: float, *, grace_seconds: float, idle_seconds: float) -> list[int]:
        """Return the start of each window that is to close: passed by later events, or over and quiet, or too many."""
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
        """Return a window's counts, flat over the signals; it is open no longer."""
        return self._open.pop(start)

    def put_back(self, start: int, counts: Counts) -> None:
        """Open a window again that could not be kept, with all that has come meanwhile."""
        self._open[start] = self._open[start] + counts if start in self._open else counts

    def snapshot(self) -> dict[int, list[int]]:
        """Return every open window, for a checkpoint on this device."""
        return {start: counts.tolist() for start, counts in self._open.items()}

    def restore(self, counts: Mapping[int, Sequence[int]]) -> None:
        """Go on from a checkpoint; one of another shape is left."""
        for start, row in counts.items():
            if len(row) == self._size:
                self._open[start] = np.array(row, np.int64)


def _counters(signals: Sequence[Signal]) -> list[_Numeric | _Categorical | _Measured]:
    numeric: dict[tuple[str, str], list[tuple[Signal, int]]] = {}
    found: list[_Numeric | _Categorical | _Measured] = []
    for signal, offset in _placed(signals):
        if signal.is_of_request:
            continue
        other = offset + signal.bins - 1
        if signal.measure is not None:
            found.append(_Measured(signal.side, signal.tensor, signal, np.array(signal.edges), _numbered(signal, offset), offset, other))
        elif signal.kind == "numeric":
            numeric.setdefault((signal.side, signal.tensor), []).append((signal, offset))
        else:
            found.append(_Categorical(signal.side, signal.tensor, signal.column, _numbered(signal, offset), other))
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


def _reported(signals: Sequence[Signal]) -> list[_Reported]:
    return [
        _Reported(
            _quantity(signal),
            np.array(signal.edges),
            _numbered(signal, offset),
            offset,
            offset + signal.bins - 1,
        )
        for signal, offset in _placed(signals)
        if signal.is_of_request
    ]


def _quantity(signal: Signal) -> str:
    if signal.measure == "tokens":
        return "prompt_tokens" if signal.side == "input" else "answer_tokens"
    return "stop" if signal.measure == "stop" else signal.tensor


def _placed(signals: Sequence[Signal]) -> list[tuple[Signal, int]]:
    """Return each signal and where its bins begin."""
    begins = np.cumsum([0, *(signal.bins for signal in signals)]).tolist()
    return list(zip(signals, begins[:-1], strict=True))


def _numbered(signal: Signal, offset: int) -> dict[Any, int]:
    """Return flat bin numbers by category."""
    return {category: offset + number for number, category in enumerate(signal.categories)}


def _categories(values: Sequence[Any], bins: Mapping[Any, int], other: int, odd: Counter[Code]) -> Bins:
    found = np.array([bins.get(_category(value), other) for value in values], np.intp)
    unseen = int((found == other).sum())
    if unseen:
        odd[Code.ROWS_UNSEEN] += unseen
    return found


def _category(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return float(value) if isinstance(value, int | float) else value

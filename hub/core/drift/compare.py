"""Compares the counts of a signal with its reference, for people: shares with their uncertainty, and how far it moved which way.

Knows merged windows as consumers read them, and the sizes that hub/core/drift/shift_size.py gives for their counts. Decides nothing: what
is an alarm, the tests decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hub.core.drift import shift_size
from hub.core.drift.shift_size import Size
from schemas.analytics_messages import MergedWindow, SignalCounts

ROWS_MIN = 1.0


@dataclass(frozen=True, slots=True)
class Bin:
    """Hold one bin: the share of rows that is expected, the share that was seen, and the standard deviation of noise and sampling."""

    label: str
    expected: float
    seen: float
    sd: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold one signal over one period."""

    name: str
    kind: str
    bins: tuple[Bin, ...]
    moved: Size


def compare(window: MergedWindow, moved: Sequence[Size]) -> tuple[Comparison, ...]:
    """Return every signal of a merged window, in its order, with how far each has moved; none where no rows came."""
    if window.rows < ROWS_MIN:
        return ()
    return tuple(_compare(signal, size, window.rows, window.noise_sd) for signal, size in zip(window.signals, moved, strict=True))


def _compare(signal: SignalCounts, moved: Size, rows: int, noise_sd: float) -> Comparison:
    counts, expected = np.array(signal.counts, np.float64), np.array(signal.expected, np.float64)
    plain = expected / max(1.0, expected.sum())
    spread = np.sqrt(noise_sd**2 + rows * np.clip(plain * (1 - plain), 0, None)) / rows
    return Comparison(
        name=signal.name,
        kind=signal.kind,
        bins=tuple(
            Bin(label, float(share), float(count) / rows, float(sd))
            for label, share, count, sd in zip(labels(signal), plain, counts, spread, strict=True)
        ),
        moved=moved,
    )


def labels(signal: SignalCounts) -> list[str]:
    """Return what each bin holds, as people write it; the last is "other"."""
    if signal.kind == "categorical":
        return [*(str(one) if isinstance(one, str) else f"{one:g}" for one in signal.categories), "other"]
    edges = [_short(edge, signal.edges) for edge in signal.edges]
    if not edges:
        return ["any", "other"]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and up", "other"]


def _short(edge: float, edges: Sequence[float]) -> str:
    """Write an edge with as few digits as tell the edges apart."""
    for digits in range(3, 17):
        if len({f"{one:.{digits}g}" for one in edges}) == len(set(edges)):
            return f"{edge:.{digits}g}"
    return repr(edge)


def in_words(comparison: Comparison) -> str:
    """Write one line: which way a signal has moved, and how far."""
    moved = comparison.moved
    direction = "another shape" if moved.direction == "shape" else moved.direction
    return f"{comparison.name}: {direction}, {shift_size.in_words(moved.value, moved.low, moved.high, moved.unit)}"

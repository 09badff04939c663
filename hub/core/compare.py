"""How the counts of a signal compare with its reference, for people: shares with their uncertainty, and how far it moved which way.

Knows merged windows as consumers read them. Decides nothing: what is an alarm, the tests decide, which know ordinary days too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hub.core.drift import sizes, way
from hub.core.scores import reference_shares, scores_of
from schemas.insight import MergedWindow, SignalCounts

ROWS_MIN = 1.0


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin: the share of rows that the reference expects, the share that was seen, and the standard deviation of noise and sampling."""

    label: str
    expected: float
    seen: float
    sd: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One signal over one period. `effect` is the shift of the rank, `size` that over all directions, in standard deviations."""

    name: str
    kind: str
    bins: tuple[Bin, ...]
    effect: float
    size: float
    direction: str


def compare(window: MergedWindow) -> tuple[Comparison, ...]:
    """Every signal of a merged window, in its order; none where no rows came."""
    return tuple(_compare(signal, window.rows, window.noise_sd) for signal in window.signals) if window.rows >= ROWS_MIN else ()


def _compare(signal: SignalCounts, rows: int, noise_sd: float) -> Comparison:
    counts, expected = np.array(signal.counts, np.float64), np.array(signal.expected, np.float64)
    shares = reference_shares(expected)
    plain = expected / max(1.0, expected.sum())
    spread = np.sqrt(noise_sd**2 + rows * np.clip(plain * (1 - plain), 0, None)) / rows
    scores = scores_of(signal.kind, shares)
    shift: NDArray[np.float64] = scores.T @ counts / rows
    chance = (rows + noise_sd**2 * (scores**2).sum(axis=0)) / rows**2
    leading = int(np.argmax(np.abs(shift) / np.sqrt(chance)))
    return Comparison(
        name=signal.name,
        kind=signal.kind,
        bins=tuple(
            Bin(label, float(share), float(count) / rows, float(sd))
            for label, share, count, sd in zip(labels(signal), plain, counts, spread, strict=True)
        ),
        effect=float(shift[0]),
        size=float(sizes(shift, chance)),
        direction=way(signal.kind, leading, float(shift[0])),
    )


def labels(signal: SignalCounts) -> list[str]:
    """What each bin holds, as people write it; the last is "other"."""
    if signal.kind == "categorical":
        return [*(str(one) if isinstance(one, str) else f"{one:g}" for one in signal.categories), "other"]
    edges = [_short(edge, signal.edges) for edge in signal.edges]
    if not edges:
        return ["any", "other"]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and up", "other"]


def _short(edge: float, edges: Sequence[float]) -> str:
    """As few digits as tell the edges apart."""
    for digits in range(3, 17):
        if len({f"{one:.{digits}g}" for one in edges}) == len(set(edges)):
            return f"{edge:.{digits}g}"
    return repr(edge)


def in_words(comparison: Comparison) -> str:
    """One line: which way, how far."""
    direction = "another shape" if comparison.direction == "shape" else comparison.direction
    return f"{comparison.name}: {direction}, {comparison.size:.2f} sd" if math.isfinite(comparison.size) else comparison.name

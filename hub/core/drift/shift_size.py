"""Estimates how far signals have moved, for people: one estimate with its interval, for every alert, table, picture and document.

Decides nothing: whether there is drift, the tests decide (hub/core/drift/interval_significance.py, hub/core/drift/detector.py). What is
seen of a period is the truth, plus what is known of chance: the sampling of its rows, the rows of the reference, the noise of its windows,
ordinary days. Where chance is large, the naive size is mostly chance, so each is shrunk by it, and comes with an interval that holds the
truth in 90 of 100 cases.

- **A number that is higher or lower** has moved by standard deviations of the reference. Its mean rank score x has the variance v.
  Shrunk it is x (1 - v/x^2), and 0 where that is below: empirical Bayes, with the variance of the truth estimated as x^2 - v (Efron and
  Morris 1973). The interval is x -+ 1.645 sqrt(v). All three are then read as the shift of a normal reference, cut into the same shares,
  that gives this score: an ordered probit. With many bins that is d where P(X > Y) = Phi(d / sqrt 2) (McGraw and Wong 1992).
- **Anything else** (categories, the shape of a number, its share of "other", a number of two values) has moved by a share of the rows: the
  largest change of one bin's share. Each bin's change d of variance v is shrunk to d (1 - L v/d^2), or 0: the non-negative garrote (Breiman
  1995; Gao 1998) with the threshold L = 2 log m of the m bins that all are noise (Donoho and Johnstone 1994). The interval holds all m
  changes at once (Bonferroni), and so their largest.

A size that was chosen because it made an alarm is, on average, a little large: no interval here knows by what it was chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from hub.core.drift import between_day_variance
from hub.core.drift.e_values import EFFECT_MIN, Part
from hub.core.drift.reference_model import Ordinary

Floats = NDArray[np.float64]
Unit = Literal["sd", "share"]
Direction = Literal["higher", "lower", "shape"]

DOUBT = 0.1  # the interval's: it holds the truth but in one case of ten
SDS_MAX = 6.0  # farther cannot be measured: all rows are in the last bin long before
SDS_STEP = 0.05
SURE_SDS = 3.0  # an alarm has more
VALUES_MIN = 3  # bins of a number, "other" aside, from which its shift is one of standard deviations; of two values a share moves


@dataclass(frozen=True, slots=True)
class Size:
    """Hold a signal's shift: `value` and its interval in `unit`; `effect` is the shift of a number alone, with its sign."""

    value: float
    low: float
    high: float
    unit: Unit
    direction: Direction
    effect: float


NOTHING = Size(0.0, 0.0, 0.0, "share", "shape", 0.0)


@dataclass(frozen=True, eq=False)
class Counted:
    """Hold the counts of a period: S signals with at most Q scores.

    The errors of nodes' own baselines are the same in every interval: not their variances add up, but their square roots.
    """

    totals: Floats  # [S, Q]: scores
    rows: Floats  # [S]
    squares: Floats  # [S]: sum over the intervals of their squared rows
    noises: Floats  # [S]: fresh noise, in windows' worth
    own_noise_roots: Floats  # [S]
    reference_roots: Floats  # [S]: 0 where all are compared with the publisher's reference


def counted(part: Part, ordinary: Ordinary) -> Counted:
    """Sum up one interval.

    Raises:
        ValueError: its counts are not the reference's.
    """
    every = np.ones(len(ordinary.names))
    rows = max(part.rows, 0.0)
    return Counted(
        totals=ordinary.by_signal(ordinary.totals(part.counts)),
        rows=every * rows,
        squares=every * rows**2,
        noises=every * (part.noises - part.own_noises),
        own_noise_roots=every * math.sqrt(part.own_noises),
        reference_roots=every * math.sqrt(part.reference_rows if part.calibrated else 0.0),
    )


def together(parts: Sequence[Counted]) -> Counted:
    """Add up several intervals of one stream."""
    names = ("totals", "rows", "squares", "noises", "own_noise_roots", "reference_roots")
    return Counted(**{name: np.sum([getattr(one, name) for one in parts], axis=0) for name in names})


def estimate(found: Counted, ordinary: Ordinary) -> tuple[Size, ...]:
    """Estimate how far every signal has moved, in the reference's order."""
    rows = np.maximum(found.rows, 1.0)
    shift = found.totals / rows[:, None]
    variance = _variance(found, ordinary, rows, shift)
    deviation = np.sqrt(np.diagonal(variance, axis1=1, axis2=2))
    tested = ordinary.by_signal((ordinary.rank < widths(ordinary)[ordinary.owner]).astype(np.float64)) > 0
    tested &= np.abs(shift) >= ordinary.by_signal(enough(ordinary))
    sure = np.where(tested, np.abs(shift) / deviation, -1.0)
    # Chance often leads by a little in some direction: the shape has changed only where that is beyond three standard deviations.
    leading = np.where(sure.max(axis=1) > SURE_SDS, np.argmax(sure, axis=1), 0)
    share, low, high = _shares(shift, variance, rows, ordinary)
    sizes = []
    for at, kind in enumerate(ordinary.kinds):
        first, scale = float(shift[at, 0]), _scales(ordinary)[at]
        direction = way(kind, int(leading[at]), first)
        reach = _Z * float(deviation[at, 0])
        effect, under, over = (_shift(one, scale) for one in (_shrunk(first, float(deviation[at, 0]) ** 2), first - reach, first + reach))
        if direction == "shape" or int(_bins(ordinary)[at]) - 1 < VALUES_MIN:
            sizes.append(Size(float(share[at]), float(low[at]), float(high[at]), "share", direction, effect))
        else:
            nearest = 0.0 if under <= 0.0 <= over else min(abs(under), abs(over))
            sizes.append(Size(abs(effect), nearest, max(abs(under), abs(over)), "sd", direction, effect))
    return tuple(sizes)


_Z = float(ndtri(1 - DOUBT / 2))


def _variance(found: Counted, ordinary: Ordinary, rows: Floats, shift: Floats) -> Floats:
    """Return the variance of the mean scores, [S, Q, Q].

    It has the terms of the test of one interval, and the noise of the number of rows that sums are divided by, which is the mean of all
    signals' noisy totals. Without a shift the divisor does not matter, so that the test does without it.
    """
    own = found.reference_roots > 0
    reference = np.where(own, found.reference_roots**2, rows**2 / ordinary.reference_rows)
    intervals = rows**2 / np.maximum(found.squares, 1.0)
    blocks = np.where(own, np.maximum(1.0, rows * intervals / np.maximum(reference, 1e-9)), float(ordinary.blocks))
    noises = found.noises + found.own_noise_roots**2
    width = ordinary.noise_matrix.shape[1]
    sampling = np.eye(width) * (rows + reference)[:, None, None]
    noise = noises[:, None, None] * ordinary.sigma2 * ordinary.noise_matrix
    days = (found.squares + rows**2 * between_day_variance.long_run(ordinary.rho) / blocks)[:, None, None] * ordinary.between_matrix
    each = noises * ordinary.sigma2 / len(ordinary.names)
    along = each[:, None] * ordinary.by_signal(ordinary.design.sum(axis=1))  # covariance of a score's sum with the number of rows
    both = shift[:, :, None] * along[:, None, :]
    divisor = (each * ordinary.size / len(ordinary.names))[:, None, None] * shift[:, :, None] * shift[:, None, :]
    divisor = divisor - both - np.swapaxes(both, 1, 2)
    variance: Floats = (sampling + noise + days + divisor) / (rows**2)[:, None, None]
    return variance


def _shares(shift: Floats, variance: Floats, rows: Floats, ordinary: Ordinary) -> tuple[Floats, Floats, Floats]:
    """Return the largest change of a bin's share, and its interval, [S] each."""
    bins, shares = _changes(ordinary)
    change = np.einsum("sq,sqb->sb", shift, bins)
    seen = np.clip(shares + change, 0.0, 1.0)
    # A rare category that has become a common one varies by more than it did in the reference.
    more = np.maximum(0.0, seen * (1 - seen) - shares * (1 - shares)) / rows[:, None]
    deviation = np.sqrt(np.einsum("sqb,sqr,srb->sb", bins, variance, bins) + more)
    count = _bins(ordinary)
    least = np.sqrt(np.maximum(1.0, 2 * np.log(count)))[:, None] * deviation
    reach = ndtri(1 - DOUBT / (2 * count))[:, None] * deviation
    far = np.abs(change)
    value = np.where(far > least, far - least**2 / np.maximum(far, 1e-300), 0.0).max(axis=1)
    low, high = np.maximum(far - reach, 0.0).max(axis=1), (far + reach).max(axis=1)
    return np.minimum(value, 1.0), np.minimum(low, 1.0), np.minimum(high, 1.0)


def _shrunk(shift: float, variance: float) -> float:
    return shift * max(0.0, 1 - variance / shift**2) if shift else 0.0


@lru_cache(maxsize=256)
def _bins(ordinary: Ordinary) -> NDArray[np.intp]:
    """Count the bins of each signal, "other" among them, [S]."""
    found: NDArray[np.intp] = (ordinary.gather[ordinary.first] < ordinary.size).sum(axis=1)
    return found


@lru_cache(maxsize=256)
def _changes(ordinary: Ordinary) -> tuple[Floats, Floats]:
    """Return by how much a mean score of one changes the share of every bin, [S, Q, B]; and the reference's shares, [S, B]."""
    found = np.zeros((len(ordinary.names), ordinary.noise_matrix.shape[1], ordinary.design.shape[1]))
    found[ordinary.owner, ordinary.rank] = ordinary.shares * ordinary.design
    return found, ordinary.shares[ordinary.first]


@lru_cache(maxsize=256)
def _scales(ordinary: Ordinary) -> tuple[Floats | None, ...]:
    """Return each number's mean rank score at every shift of `_SHIFTS`; None where there is no such scale."""
    found: list[Floats | None] = []
    for at, kind in enumerate(ordinary.kinds):
        count = int(_bins(ordinary)[at])
        component = ordinary.first[at]
        if kind != "numeric" or not ordinary.known[at] or count < VALUES_MIN:
            found.append(None)
            continue
        shares, score = ordinary.shares[component, :count], ordinary.design[component, :count]
        ends = ndtri(np.clip(np.cumsum(shares[:-2]) / shares[:-1].sum(), 1e-12, 1 - 1e-12))
        below = np.concatenate([np.zeros((len(_SHIFTS), 1)), ndtr(ends - _SHIFTS[:, None]), np.ones((len(_SHIFTS), 1))], axis=1)
        found.append((1 - shares[-1]) * (np.diff(below, axis=1) @ score[:-1]) + shares[-1] * score[-1])
    return tuple(found)


_SHIFTS = SDS_STEP * np.arange(-round(SDS_MAX / SDS_STEP), round(SDS_MAX / SDS_STEP) + 1)


def _shift(score: float, scale: Floats | None) -> float:
    """Return the shift in standard deviations that gives a mean rank score."""
    if scale is None or not score:
        return score
    return float(np.interp(score, scale, _SHIFTS))


def way(kind: str, leading_score: int, first_total: float) -> Direction:
    """Return which way a signal went, by the score that leads."""
    if leading_score or kind == "categorical":
        return "shape"
    return "higher" if first_total > 0 else "lower"


def enough(ordinary: Ordinary) -> Floats:
    """Return the shift of every component below which it is tested as none, [J].

    For numbers without a reference, a shift of the rank must not make a trifle of "other" count, nor the other way round; the others are
    judged by their size over all directions.
    """
    bare = ordinary.by_signal(ordinary.least)[:, :1] > 0
    found: Floats = np.where(bare[ordinary.owner, 0], np.maximum(EFFECT_MIN, ordinary.least), 0.0)
    return found


def widths(ordinary: Ordinary) -> NDArray[np.intp]:
    """Return how many scores of each signal are tested: more directions than half the blocks cannot be told from ordinary days."""
    own = np.bincount(ordinary.owner, minlength=len(ordinary.names))
    half = max(1, int(between_day_variance.freedom(blocks=ordinary.blocks, rho=ordinary.rho)) // 2)
    found: NDArray[np.intp] = np.where(ordinary.has_between, np.minimum(own, half), own)
    return found


def in_words(value: float, low: float, high: float, unit: str) -> str:
    """Write a size as a person reads it: 1.01 sd (0.94 to 1.08), or 12.3 percentage points (6.1 to 18.5)."""
    if unit == "sd":
        return f"{value:.2f} sd ({low:.2f} {f'to {high:.2f}' if high < SDS_MAX else 'or more'})"
    return f"{100 * value:.1f} percentage points ({100 * low:.1f} to {100 * high:.1f})"


def in_short(value: float, low: float, high: float, unit: str) -> str:
    """Write a size where there is little room: 1.01 sd (0.94-1.08), or 12.3 pp (6.1-18.5)."""
    if unit == "sd":
        return f"{value:.2f} sd ({low:.2f}{f'-{high:.2f}' if high < SDS_MAX else '+'})"
    return f"{100 * value:.1f} pp ({100 * low:.1f}-{100 * high:.1f})"

"""Whether one interval differs from the reference by more than chance, noise and ordinary days explain. Knows counts, and nobody's rows.

Per signal, the scores s = H'C of the merged counts C have under no drift the mean 0 and the variance

    (N + N^2/M) I        sampling of N rows, and a reference of only M rows
  + K sigma^2 H'H        the noise of K windows
  + N^2 T (1 + 1/b)      ordinary differences between blocks (days), known from b of them

and with T estimated from b blocks, s' V^-1 s is Hotelling's: F with q and b - q degrees of freedom. Where each node has taken off its own
baseline, N^2/M is the sum of n_i^2/M_i, and K the noise of windows and baselines. For categories the statistic is the chi-squared with the
same terms. A numeric signal's level is shared: half for all directions together, a quarter each for the rank and for the share of "other"
alone, since most drift goes one way, and with few blocks every direction more costs power. p-values are adjusted by Bonferroni over the
signals. A shift smaller than `EFFECT_MIN` is no alarm however certain it is: large samples always differ. Of numbers that have no reference
a shift of the rank by less than a bin and a half is none, and is tested as none: they are counted into octaves (hub/core/scores.py).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from hub.core import spread
from hub.core.evidence import EFFECT_MIN, Part
from hub.core.ordinary import Ordinary
from schemas.insight import SignalDrift

ALPHA = 0.01
LEADING = 2  # scores of a numeric signal that are tested alone too: its rank and its share of "other"
ODDS_PLAIN_MAX = 6.0  # of evidence: a million to one is still read as a number
CHANCE_SQUARES = 4.0  # two standard deviations, squared
ROWS_MIN = 1.0  # an interval without rows says nothing

Floats = NDArray[np.float64]


def test_interval(part: Part, ordinary: Ordinary) -> tuple[SignalDrift, ...]:
    """One result a signal, in the reference's order.

    Raises:
        ValueError: the counts are not this reference's.
    """
    totals = ordinary.totals(part.counts)
    rows = part.rows
    if rows < ROWS_MIN:
        return tuple(nothing(name) for name in ordinary.names)
    freedom = np.where(ordinary.has_between, spread.freedom(blocks=ordinary.blocks, rho=ordinary.rho), np.inf)
    widths = _widths(ordinary)
    kept = ordinary.rank < widths[ordinary.owner]
    matters = kept & (np.abs(totals) >= rows * _enough(ordinary))  # what is left out can only have made the statistics larger
    total, tested_total = (ordinary.by_signal(np.where(which, totals, 0.0)) for which in (kept, matters))
    variance = _variance(part, ordinary, matters)
    statistic = np.einsum("sq,sq->s", tested_total, np.linalg.solve(variance, tested_total[:, :, None])[:, :, 0])
    p_values = _p_values(statistic, widths, freedom)
    single = tested_total**2 / np.diagonal(variance, axis1=1, axis2=2)
    for score in range(min(LEADING, total.shape[1])):
        shared = np.array([kind == "numeric" for kind in ordinary.kinds]) & (widths > score)
        alone = _p_values(single[:, score], np.ones_like(widths), freedom)
        p_values = np.where(shared, np.minimum(p_values, LEADING * alone), p_values)
    p_values = np.where([kind == "numeric" for kind in ordinary.kinds], 2 * p_values, p_values)
    testable = ordinary.known | part.calibrated
    p_values = np.where(testable & np.isfinite(p_values), np.clip(p_values, 0.0, 1.0), 1.0)
    tested = max(1, int(testable.sum()))
    leading = np.abs(tested_total) / np.sqrt(np.diagonal(variance, axis1=1, axis2=2))
    size = sizes(total / rows, ordinary.by_signal((rows + part.noises * ordinary.sigma2 * ordinary.noise_gain) / rows**2))
    return tuple(
        SignalDrift(
            name=name,
            p_value=float(p_values[at]),
            p_adjusted=min(1.0, float(p_values[at]) * tested),
            effect=float(total[at, 0] / rows),
            size=float(size[at]),
            direction=way(ordinary.kinds[at], int(np.argmax(leading[at])), float(total[at, 0])),  # type: ignore[arg-type]
        )
        for at, name in enumerate(ordinary.names)
    )


def alarmed(signals: Sequence[SignalDrift], alpha: float = ALPHA) -> tuple[SignalDrift, ...]:
    """The signals that raise an alarm, the surest first."""
    return tuple(sorted((one for one in signals if one.p_adjusted < alpha and one.size >= EFFECT_MIN), key=lambda one: one.p_value))


def sizes(shift: Floats, chance: Floats) -> Floats:
    """How far signals moved over all directions, [...], from shifts [..., scores] of which `chance` is the variance of sampling and noise.

    What chance alone would make is taken off every square, and what lies within two standard deviations of it left out where anything lies
    beyond: else the noise of a rare bin, whose score is large, would be the size of it all.
    """
    squares = shift**2
    beyond = squares > CHANCE_SQUARES * chance
    counted = beyond | ~beyond.any(axis=-1, keepdims=True)
    found: Floats = np.sqrt(np.where(counted, np.maximum(squares - chance, 0.0), 0.0).sum(axis=-1))
    return found


def nothing(name: str) -> SignalDrift:
    """What is found of a signal of which nothing can be said."""
    return SignalDrift(name=name, p_value=1.0, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")


def way(kind: str, leading_score: int, first_total: float) -> str:
    """Which way a signal went, by the score that leads."""
    if leading_score or kind == "categorical":
        return "shape"
    return "higher" if first_total > 0 else "lower"


def _enough(ordinary: Ordinary) -> Floats:
    """The shift of every component below which it is tested as none, [J]: of numbers without a reference, one of the rank must not make a
    trifle of "other" count, nor the other way round; the others are judged by their size over all directions.
    """
    bare = ordinary.by_signal(ordinary.least)[:, :1] > 0
    found: Floats = np.where(bare[ordinary.owner, 0], np.maximum(EFFECT_MIN, ordinary.least), 0.0)
    return found


def _widths(ordinary: Ordinary) -> NDArray[np.intp]:
    """How many scores of each signal are tested: more directions than half the blocks cannot be told from ordinary days."""
    own = np.bincount(ordinary.owner, minlength=len(ordinary.names))
    half = max(1, int(spread.freedom(blocks=ordinary.blocks, rho=ordinary.rho)) // 2)
    found: NDArray[np.intp] = np.where(ordinary.has_between, np.minimum(own, half), own)
    return found


def _variance(part: Part, ordinary: Ordinary, kept: NDArray[np.bool_]) -> Floats:
    rows = part.rows
    if part.calibrated:
        reference = part.reference_rows
        blocks = max(1.0, rows / reference) if reference > 0 else 1.0
    else:
        reference, blocks = rows * rows / ordinary.reference_rows, float(ordinary.blocks)
    width = ordinary.noise_matrix.shape[1]
    found = np.eye(width) * (rows + reference) + part.noises * ordinary.sigma2 * ordinary.noise_matrix
    found = found + rows * rows * ordinary.between_matrix * (1 + spread.long_run(ordinary.rho) / blocks)
    inside = ordinary.by_signal(kept.astype(np.float64)) > 0
    both: Floats = np.where(inside[:, :, None] & inside[:, None, :], found, np.eye(width))
    return both


def _p_values(statistic: Floats, widths: NDArray[np.intp], freedom: Floats) -> Floats:
    plain: Floats = np.asarray(chdtrc(widths, statistic), np.float64)
    few = np.isfinite(freedom) & (freedom - widths + 1 >= 1)
    if not few.any():
        return plain
    left = np.where(few, freedom - widths + 1, 1.0)
    scaled = statistic * left / np.where(few, freedom * widths, 1.0)
    found: Floats = np.where(few, fdtrc(widths, left, scaled), plain)
    return found


def in_words(raised: Sequence[SignalDrift], alarm_kind: str | None = "interval") -> str:
    """An alarm as a person reads it: which signals, which way, how far, how sure, and since when where it was found over time."""
    return "; ".join(_in_words(one, over_time=alarm_kind == "time" or one.p_adjusted >= ALPHA) for one in raised)


def _in_words(one: SignalDrift, *, over_time: bool) -> str:
    if over_time and one.since is not None and one.size_since is not None and one.direction_since is not None:
        began = datetime.fromtimestamp(one.since, UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"{one.name} {_way(one.direction_since)} by {one.size_since:.2f} sd since {began} UTC (evidence {_odds(one.evidence or 0.0)})"
        )
    return f"{one.name} {_way(one.direction)} by {one.size:.2f} sd (p {one.p_adjusted:.0e})"


def _odds(log10_evidence: float) -> str:
    return f"{10**log10_evidence:.0f} to 1" if log10_evidence < ODDS_PLAIN_MAX else f"1e{log10_evidence:.0f} to 1"


def _way(direction: str) -> str:
    return "has changed its shape" if direction == "shape" else f"is {direction}"

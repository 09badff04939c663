"""Tests whether one interval differs from the reference by more than chance, noise and ordinary days explain. Knows counts, and no rows.

Per signal, the scores s = H'C of the merged counts C have under no drift the mean 0 and the variance

    (N + N^2/M) I        sampling of N rows, and a reference of only M rows
  + K sigma^2 H'H        the noise of K windows
  + N^2 T (1 + 1/b)      ordinary differences between blocks (days), known from b of them

and with T estimated from b blocks, s' V^-1 s is Hotelling's: F with q and b - q degrees of freedom. Where each node has taken off its own
baseline, N^2/M is the sum of n_i^2/M_i, and K the noise of windows and baselines. For categories the statistic is the chi-squared with the
same terms. A numeric signal's level is shared: half for all directions together, a quarter each for the rank and for the share of "other"
alone, since most drift goes one way, and with few blocks every direction more costs power. p-values are adjusted by Bonferroni over the
signals. A shift smaller than `EFFECT_MIN` is no alarm however certain it is: large samples always differ. Of numbers that have no reference
a shift of the rank by less than a bin and a half is none, and is tested as none: they are counted into octaves (hub/core/drift/scores.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from hub.core.drift import between_day_variance, shift_size
from hub.core.drift.e_values import EFFECT_MIN, Part
from hub.core.drift.reference_model import Ordinary
from schemas.analytics_messages import SignalDrift

ALPHA = 0.01
LEADING = 2  # scores of a numeric signal that are tested alone too: its rank and its share of "other"
ODDS_PLAIN_MAX = 6.0  # log10 of evidence: a million to one is still read as a number
CHANCE_SQUARES = 4.0  # two standard deviations, squared
ROWS_MIN = 1.0  # an interval without rows says nothing

Floats = NDArray[np.float64]


def test_interval(part: Part, ordinary: Ordinary) -> tuple[SignalDrift, ...]:
    """Return one result a signal, in the reference's order.

    Raises:
        ValueError: the counts are not this reference's.
    """
    totals = ordinary.totals(part.counts)
    rows = part.rows
    if rows < ROWS_MIN:
        return tuple(nothing(name) for name in ordinary.names)
    freedom = np.where(ordinary.has_between, between_day_variance.freedom(blocks=ordinary.blocks, rho=ordinary.rho), np.inf)
    widths = shift_size.widths(ordinary)
    kept = ordinary.rank < widths[ordinary.owner]
    matters = kept & (np.abs(totals) >= rows * shift_size.enough(ordinary))  # what is left out can only have made the statistics larger
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
    adjusted = np.minimum(1.0, p_values * tested)
    apart = _apart(total / rows, ordinary.by_signal((rows + part.noises * ordinary.sigma2 * ordinary.noise_gain) / rows**2))
    too_small = (apart < EFFECT_MIN) & (adjusted < 1)
    moved = shift_size.estimate(shift_size.counted(part, ordinary), ordinary)
    return tuple(
        SignalDrift(
            name=name,
            p_value=float(p_values[at]),
            p_adjusted=float(adjusted[at]),
            effect=moved[at].effect,
            size=moved[at].value,
            direction=moved[at].direction,
            size_low=moved[at].low,
            size_high=moved[at].high,
            size_unit=moved[at].unit,
            too_small=True if too_small[at] else None,
        )
        for at, name in enumerate(ordinary.names)
    )


def alarmed(signals: Sequence[SignalDrift], alpha: float = ALPHA) -> tuple[SignalDrift, ...]:
    """Return the signals that raise an alarm, the surest first."""
    return tuple(sorted((one for one in signals if one.p_adjusted < alpha and not _too_small(one)), key=lambda one: one.p_value))


def _too_small(one: SignalDrift) -> bool:
    if one.size_unit is None:  # an earlier hub found it, whose size was what decided
        return one.size < EFFECT_MIN
    return one.too_small is True


def _apart(shift: Floats, chance: Floats) -> Floats:
    """Return how far the scores are from the reference's over all directions, [S], for the bound of what is too little to be an alarm.

    `chance` is the variance of sampling and noise. It is no size to be shown: where rows are few, most of it is noise.

    What chance alone would make is taken off every square, and what lies within two standard deviations of it left out where anything lies
    beyond: else the noise of a rare bin, whose score is large, would be the size of it all.
    """
    squares = shift**2
    beyond = squares > CHANCE_SQUARES * chance
    counted = beyond | ~beyond.any(axis=-1, keepdims=True)
    found: Floats = np.sqrt(np.where(counted, np.maximum(squares - chance, 0.0), 0.0).sum(axis=-1))
    return found


def nothing(name: str) -> SignalDrift:
    """Return the result for a signal that cannot be tested."""
    return SignalDrift(name=name, p_value=1.0, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")


def _variance(part: Part, ordinary: Ordinary, kept: NDArray[np.bool_]) -> Floats:
    rows = part.rows
    if part.calibrated:
        reference = part.reference_rows
        blocks = max(1.0, rows / reference) if reference > 0 else 1.0
    else:
        reference, blocks = rows * rows / ordinary.reference_rows, float(ordinary.blocks)
    width = ordinary.noise_matrix.shape[1]
    found = np.eye(width) * (rows + reference) + part.noises * ordinary.sigma2 * ordinary.noise_matrix
    found = found + rows * rows * ordinary.between_matrix * (1 + between_day_variance.long_run(ordinary.rho) / blocks)
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


@dataclass(frozen=True, slots=True)
class Moved:
    """Hold a signal's distance when it was found, by the test that found it; no `size` from an earlier hub, which was mostly noise."""

    direction: str
    since: int | None  # None: in this one interval
    size: tuple[float, float, float, str] | None  # value, low, high, unit


def moved(one: SignalDrift, alarm_kind: str | None) -> Moved:
    """Return the size that an alarm is about, the same in every view: since the change began if it was found over time, else now."""
    if alarm_kind in {"time", "both"} and one.since is not None and one.size_since is not None and one.direction_since is not None:
        size = _size(one.size_since, one.size_since_low, one.size_since_high, one.size_since_unit)
        return Moved(one.direction_since, one.since, size)
    return Moved(one.direction, None, _size(one.size, one.size_low, one.size_high, one.size_unit))


def _size(value: float, low: float | None, high: float | None, unit: str | None) -> tuple[float, float, float, str] | None:
    return None if low is None or high is None or unit is None else (value, low, high, unit)


def in_words(raised: Sequence[SignalDrift], alarm_kind: str | None = "interval") -> str:
    """Return an alarm as a person reads it: which signals, which way, how far, how sure, and since when where it was found over time."""
    return "; ".join(_in_words(one, moved(one, alarm_kind)) for one in raised)


def _in_words(one: SignalDrift, found: Moved) -> str:
    far = "" if found.size is None else f" by {shift_size.in_words(*found.size)}"
    since = "" if found.since is None else f" since {datetime.fromtimestamp(found.since, UTC).strftime('%Y-%m-%d %H:%M')} UTC"
    over_time = found.since is not None and one.p_adjusted >= ALPHA
    sure = f"evidence {_odds(one.evidence or 0.0)}" if over_time else f"p {one.p_adjusted:.0e}"
    return f"{one.name} {_way(found.direction)}{far}{since} ({sure})"


def _odds(log10_evidence: float) -> str:
    return f"{10**log10_evidence:.0f} to 1" if log10_evidence < ODDS_PLAIN_MAX else f"1e{log10_evidence:.0f} to 1"


def _way(direction: str) -> str:
    return "has changed its shape" if direction == "shape" else f"is {direction}"

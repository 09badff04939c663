"""Whether an interval differs from the reference by more than chance, noise and ordinary days explain. Knows counts, and nobody's rows.

Per signal, the scores s = H'C of the merged counts C have under no drift the mean 0 and the variance

    (N + N^2/M) I        sampling of N rows, and a reference of only M rows
  + K sigma^2 H'H        the noise of K windows
  + N^2 T (1 + 1/b)      ordinary differences between blocks (days), known from b of them

and with T estimated from b blocks, s' V^-1 s is Hotelling's: F with q and b - q degrees of freedom. p-values are adjusted by Bonferroni.
A shift smaller than `EFFECT_MIN` is no alarm however certain it is: large samples always differ.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from hub.core.scores import scores_of_signal
from schemas.insight import SignalDrift
from schemas.signals import Baseline, Signal

ALPHA = 0.01
EFFECT_MIN = 0.03  # in standard deviations of a score
ROWS_MIN = 1.0  # an interval without rows says nothing

Floats = NDArray[np.float64]


def test_window(interval_counts: Sequence[int], windows: int, baseline: Baseline, sigma2: float) -> tuple[SignalDrift, ...]:
    """One result a signal, in the baseline's order; `sigma2` is the noise variance of one window's count."""
    rows = sum(interval_counts) / len(baseline.signals)
    found, at = [], 0
    for signal in baseline.signals:
        counts = np.array(interval_counts[at : at + signal.bins], np.float64)
        at += signal.bins
        found.append(_test_signal(signal, counts, rows, windows * sigma2, baseline))
    return tuple(found)


def alarmed(signals: Sequence[SignalDrift], alpha: float = ALPHA) -> tuple[SignalDrift, ...]:
    """The signals that raise an alarm, the surest first."""
    return tuple(sorted((one for one in signals if one.p_adjusted < alpha and one.size >= EFFECT_MIN), key=lambda one: one.p_value))


def _test_signal(signal: Signal, counts: Floats, rows: float, noise: float, baseline: Baseline) -> SignalDrift:
    if rows < ROWS_MIN:
        return SignalDrift(name=signal.name, p_value=1.0, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")
    scores = scores_of_signal(signal)
    width = scores.shape[1]
    if signal.between:  # more directions than half the blocks cannot be told from ordinary days
        width = min(width, math.isqrt(len(signal.between)), max(1, (baseline.blocks - 1) // 2))
    scores = scores[:, :width]
    total = scores.T @ counts
    variance = (rows + rows * rows / baseline.rows) * np.eye(width) + noise * (scores.T @ scores)
    if signal.between:
        full = int(len(signal.between) ** 0.5)
        between = np.array(signal.between).reshape(full, full)[:width, :width]
        variance = variance + rows * rows * between * (1 + 1 / baseline.blocks)
    statistic = float(total @ np.linalg.solve(variance, total))
    freedom = baseline.blocks - width
    if signal.between and freedom >= 1:
        p_value = float(fdtrc(width, freedom, statistic * freedom / ((baseline.blocks - 1) * width)))
    else:
        p_value = float(chdtrc(width, statistic))
    leading = np.abs(total) / np.sqrt(np.diag(variance))
    direction = "shape" if int(np.argmax(leading)) or signal.kind == "categorical" else ("higher" if total[0] > 0 else "lower")
    return SignalDrift(
        name=signal.name,
        p_value=min(1.0, max(0.0, p_value)),
        p_adjusted=min(1.0, max(0.0, p_value) * len(baseline.signals)),
        effect=float(total[0] / rows),
        size=float(np.linalg.norm(total) / rows),
        direction=direction,  # type: ignore[arg-type]
    )


def in_words(raised: Sequence[SignalDrift]) -> str:
    """An alarm as a person reads it: which signals, which way, how far, how sure."""
    return "; ".join(f"{one.name} {_way(one)} by {one.size:.2f} sd (p {one.p_adjusted:.0e})" for one in raised)


def _way(one: SignalDrift) -> str:
    return "has changed its shape" if one.direction == "shape" else f"is {one.direction}"

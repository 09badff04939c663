"""Decides which of many streams (a release in a cohort) are alarms, when all are watched at once. Knows nothing but their evidence.

Watched alone, a stream is an alarm at evidence A. Of S streams, e-BH takes the k surest as soon as the k-th has at least S A / k (Wang and
Ramdas 2022), under any dependence between them: an hour in which the whole fleet drifts does not count against itself. On e-detectors its
share of false alarms stays below the intervals watched over A (Dandapanthula and Ramdas 2025, e-d-BH).
"""

import math
from collections.abc import Iterable


def needed(others: Iterable[float], run_length: float) -> float:
    """Return the logarithm of the evidence at which one more stream beside these is an alarm."""
    ranked = sorted(others, reverse=True)
    streams = len(ranked) + 1
    # Among k that are taken, k - 1 are others: the surest of them, each of which has to reach the same bar.
    for k in range(streams, 0, -1):
        bar = math.log(streams * run_length / k)
        if k == 1 or ranked[k - 2] >= bar:
            return bar
    raise AssertionError("k = 1 always holds")

"""Finds whether a part of a cohort's windows is unlike the rest: one lying node, or a few, show without knowing which node sent what.

Each window falls at random into one of `GROUPS` sub-groups, and their totals are kept. Nodes differ, so sub-groups do; one is outlying when
its mean score is further from the others' median than `OUTLYING_SDS` of their own spread (median absolute deviation) and of the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.core.drift.scores import reference_shares, scores_of
from schemas.signals import Baseline

GROUPS = 8  # each is a total more that is kept; a lie in one window spoils an eighth
GROUPS_MIN = 5  # with fewer that have rows, nobody can say which is the odd one
OUTLYING_SDS = 8.0  # beside a median of 8: rare even where nodes are unlike each other
MAD_TO_SD = 1.4826  # for a normal distribution
# Windows are also added up by how many rows they have, in classes of half an octave, so that each is weighed beside the median window: none
# weighs more than WEIGHT_TIMES_MAX as much, but for the half octave within a class, so at most twice. A node that is honestly so busy loses
# weight and nothing else: its rows are in, made smaller. Idle nodes must not make those that work small: windows of up to ROWS_ALWAYS rows
# count in full, and the median is of those above, where there are enough of them.
WEIGHT_TIMES_MAX = 1.4
CLASSES_AN_OCTAVE = 2
ROWS_ALWAYS = 64.0
ABOVE_MIN = 5  # windows above ROWS_ALWAYS that have a median; with fewer all weigh as ROWS_ALWAYS at most
GROUP_TIMES_MAX = 2.0  # where windows are known by random sub-group only: a sub-group beside the median one

Totals = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Subgroups:
    """Hold an interval's windows, rows and counts [groups, bins of all signals] by sub-group."""

    windows: Sequence[int]
    rows: Sequence[int]
    counts: Totals
    by_rows: "Subgroups | None" = None  # The same windows by how many rows they have; None where an earlier hub took some of them in.


@dataclass(frozen=True, slots=True)
class Outlying:
    """Hold a sub-group that is unlike the others, and in which signal most."""

    group: int
    signal: str
    sds: float


def weights(rows: Sequence[int], windows: Sequence[int]) -> Floats:
    """Return by what share each sub-group's counts are made smaller, [groups], so that none outweighs the others; 1 for nearly all."""
    heard = np.array(windows) > 0
    if int(heard.sum()) < GROUPS_MIN:
        return np.ones(len(heard))
    means = np.array(rows, np.float64) / np.maximum(1, np.array(windows))
    most = max(ROWS_ALWAYS, GROUP_TIMES_MAX * float(np.median(means[heard])))
    found: Floats = np.minimum(1.0, most / np.maximum(most, means))
    return found


def classes_of(rows: Floats) -> NDArray[np.int64]:
    """Return the class of each number of rows; the mean of a class is in it, so its number need not be kept."""
    heavy = rows > ROWS_ALWAYS
    return np.where(heavy, np.floor(CLASSES_AN_OCTAVE * np.log2(np.maximum(rows, 1.0))), 0).astype(np.int64)


def class_weights(rows: Sequence[int], windows: Sequence[int]) -> Floats:
    """Return by what share the counts of each class of windows are made smaller, so that none of its windows outweighs the others."""
    if sum(windows) < GROUPS_MIN:
        return np.ones(len(windows))
    means = np.array(rows, np.float64) / np.maximum(1, np.array(windows))
    order = [at for at in np.argsort(means).tolist() if means[at] > ROWS_ALWAYS]
    above = np.cumsum([windows[at] for at in order])
    most = ROWS_ALWAYS
    if order and above[-1] >= ABOVE_MIN:
        middle = order[int(np.searchsorted(above, (above[-1] + 1) // 2))]
        most = max(ROWS_ALWAYS, WEIGHT_TIMES_MAX * float(means[middle]))
    found: Floats = np.minimum(1.0, most / np.maximum(most, means))
    return found


def outlying(totals: Totals, rows: Sequence[int], windows: Sequence[int], baseline: Baseline, sigma2: float) -> tuple[Outlying, ...]:
    """Return the sub-groups, the oddest first, from totals [groups, bins of all signals] with their rows and windows.

    Calibrated totals and others are distinguished in the same way: only differences between sub-groups count.
    """
    heard = np.flatnonzero((np.array(windows) > 0) & (np.array(rows) > 0))
    if len(heard) < GROUPS_MIN:
        return ()
    weights = np.array(rows, np.float64)[heard]
    worst: dict[int, Outlying] = {}
    at = 0
    for signal in baseline.signals:
        scores = scores_of(signal.kind, reference_shares(np.array(signal.counts, np.float64)))[:, :1]
        counts = totals[heard, at : at + signal.bins].astype(np.float64)
        at += signal.bins
        means = (counts @ scores)[:, 0] / weights
        noise = np.sqrt(np.array(windows)[heard] * sigma2 * float((scores**2).sum()) + weights) / weights
        for index, group in enumerate(heard.tolist()):
            others = np.delete(means, index)
            middle = float(np.median(others))
            spread = MAD_TO_SD * float(np.median(np.abs(others - middle)))
            sds = abs(float(means[index]) - middle) / float(np.hypot(spread, noise[index]))
            if sds >= OUTLYING_SDS and (group not in worst or sds > worst[group].sds):
                worst[group] = Outlying(group, signal.name, sds)
    return tuple(sorted(worst.values(), key=lambda one: -one.sds))

"""How far one node of twenty moves its cohort, whatever it says within all limits: beside its share, one twentieth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.figures import Figure
from hub.core.drift import intervals, outlier_filter
from hub.core.drift.scores import scores_of_signal
from hub.core.drift.windows import Interval, Taken, supported
from hub.core.publish.baseline import SignalSpec, build_baseline

NODES, OWN_ROWS, START, SECONDS = 20, 1024, 0, 3600
ORDINARY = (100, 300, 1000, 4000)  # rows of the cohort's other nodes
CLAIMED = tuple(int(rows) for rows in np.unique(np.geomspace(65, 64 * OWN_ROWS, 120).astype(int)))  # rows that the hub takes in
BASELINE = build_baseline(
    [(SignalSpec("x", "numeric", "input", "x"), np.random.default_rng(0).normal(size=20_000))], None, calibration_rows=OWN_ROWS
)
RANK = scores_of_signal(BASELINE.signals[0])[:, 0]
SHARES = np.array(BASELINE.signals[0].counts) / sum(BASELINE.signals[0].counts)


def differences(rows: int, shares: NDArray[np.float64]) -> Taken:
    """A calibrated window whose rows lie so, without noise, as the hub believes it."""
    counts = np.round(rows * (shares - SHARES)).astype(np.int64)
    return supported(Taken(START, SECONDS, rows, 1, OWN_ROWS, counts))


def shift(members: Sequence[Taken], *, by_rows: bool = True) -> float:
    """The mean rank of a cohort as it is tested; without `by_rows` as an earlier hub weighed it, by random sub-group only."""
    sums = intervals.add_up(members, range(len(members)))
    groups = intervals.subgroups(sums)
    whole = intervals.interval(sums, release=bytes(32), model="m", cohort="c", start=START, seconds=SECONDS, calibrated=True)
    found: Interval = outlier_filter.balanced(whole, groups if by_rows else replace(groups, by_rows=None))
    return float(np.array(found.counts) @ RANK) / found.rows


def hiding(rows: int, claimed: int, *, by_rows: bool = True) -> float:
    """By how many shares the shift of 19 nodes is smaller where the twentieth says zeros over so many rows."""
    drifted = differences(rows, _top())
    honest, lie = shift([drifted] * NODES, by_rows=by_rows), differences(claimed, SHARES)
    return NODES * (1 - shift([drifted] * (NODES - 1) + [lie], by_rows=by_rows) / honest)


def alarming(rows: int, claimed: int, *, by_rows: bool = True) -> float:
    """How many shares of a whole shift one node brings about that says it, where 19 others have none."""
    usual, moved = differences(rows, SHARES), differences(claimed, _top())
    whole = shift([differences(rows, _top())] * NODES, by_rows=by_rows)
    return NODES * shift([usual] * (NODES - 1) + [moved], by_rows=by_rows) / whole


def measure() -> Sequence[Figure]:
    """The worst of hiding and alarming, over what the others have and what the one says."""
    found, before = (
        max(how(rows, claimed, by_rows=by_rows) for rows in ORDINARY for claimed in CLAIMED for how in (hiding, alarming))
        for by_rows in (True, False)
    )
    unit = "times its share, hiding or alarming, worst of all rows that the hub takes in"
    return [Figure("drift.influence_one_of_20", found, unit, "<= 2", "weighed by random sub-group only", before)]


def _top() -> NDArray[np.float64]:
    """All rows in the highest ordinary bin."""
    found = np.zeros(len(SHARES))
    found[-2] = 1.0
    return found

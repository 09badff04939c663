"""Accuracy as one more signal: counts of right and wrong answers by interval, where a site learns the truth later. Knows no label.

Two ordered bins, wrong below right, so that "lower" means a model that errs more. Tested by the same machinery as every other signal: what
comes weeks late is one more factor of its own interval.
"""

from collections.abc import Sequence

import numpy as np

from hub.core.evidence import Part
from hub.core.scores import reference_shares, scores_of
from hub.core.spread import autocorrelation, between_blocks
from schemas.signals import Baseline, Signal

NAME = "accuracy"


def accuracy_baseline(blocks: Sequence[tuple[int, int]]) -> Baseline:
    """The reference of right and wrong answers, (right, wrong) a block (day, batch) of the publisher's held-out rows, in their order.

    Raises:
        ValueError: no answers, or fewer than none.
    """
    counts = np.array(blocks, np.int64).reshape(-1, 2)
    if (counts < 0).any() or not counts.sum():
        raise ValueError(f"expected counts of right and wrong answers, found {list(blocks)[:4]}")
    counts = counts[counts.sum(axis=1) > 0]
    binned = np.column_stack([counts[:, 1], counts[:, 0], np.zeros(len(counts), np.int64)])
    sizes = counts.sum(axis=1).astype(np.float64)
    between: tuple[float, ...] = ()
    rho = None
    if len(counts) > 1:
        means = binned @ scores_of("numeric", reference_shares(binned.sum(axis=0).astype(np.float64))) / sizes[:, None]
        between = tuple(between_blocks(means, sizes).ravel().tolist())
        rho = round(autocorrelation([means], sizes), 4)
    signal = Signal(
        name=NAME, kind="numeric", side="output", tensor=NAME, edges=(0.5,), counts=tuple(binned.sum(axis=0).tolist()), between=between
    )
    return Baseline(rows=int(counts.sum()), blocks=len(counts), autocorrelation=rho, signals=(signal,))


def accuracy_part(*, start: int, seconds: int, right: int, wrong: int, sites: int = 1) -> Part:
    """What became known of an interval's answers; `sites` that each put noise on their counts, where they do.

    Raises:
        ValueError: counts that cannot be.
    """
    return Part(start=start, seconds=seconds, windows=sites, rows=float(right + wrong), counts=(wrong, right, 0))

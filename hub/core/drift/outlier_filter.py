"""Decides which windows of an interval are tested: all, or all but the sub-groups that are unlike the others, if the operator says so."""

from collections.abc import Sequence

import numpy as np

from hub.core.drift.subgroups import Outlying, Subgroups, class_weights, outlying, weights
from hub.core.drift.windows import Interval, watched
from schemas.analytics_messages import Alert
from schemas.errors import Code
from schemas.manifest import Manifest


def balanced(whole: Interval, groups: Subgroups) -> Interval:
    """Return the interval as it is tested and shown: none of its windows weighs far more than the others."""
    return _without(whole, groups, ())


def trimmed(whole: Interval, groups: Subgroups, odd: Sequence[Outlying]) -> Interval:
    """Return the interval without the odd sub-groups."""
    return _without(whole, groups, [one.group for one in odd])


def odd_groups(whole: Interval, groups: Subgroups, manifest: Manifest) -> tuple[Outlying, ...]:
    """Return the sub-groups that are unlike the others, the oddest first.

    Raises:
        Refused: the release declares no signals.
    """
    baseline, privacy = watched(manifest)
    sigma2 = privacy.sigma2 * whole.noise_units / max(1, whole.windows)
    return outlying(groups.counts, groups.rows, groups.windows, baseline, sigma2)


def alert_of(whole: Interval, odd: Sequence[Outlying], *, at: int, trimmed: bool) -> Alert:
    """Return what an operator reads of odd sub-groups."""
    worst = odd[0]
    text = (
        f"{whole.model}, cohort {whole.cohort}: {len(odd)} of the random sub-groups of the windows at {whole.start} are unlike the others,"
        f" most in {worst.signal} ({worst.sds:.0f} sd); a node may be broken, or lie; they were {'left out' if trimmed else 'counted'}"
    )
    return Alert(kind="refused", at=at, model=whole.model, cohort=whole.cohort, code=str(Code.WINDOW_OUTLIER), text=text)


def _without(whole: Interval, groups: Subgroups, gone: Sequence[int]) -> Interval:
    """Leave sub-groups out of an interval.

    What is not known by sub-group is taken off in proportion: noise by windows, and what the own baselines add by rows, of which each
    window may have a fixed multiple only (hub/core/drift/windows.py).
    """
    left, counts, rows_left = whole.windows - sum(groups.windows[group] for group in gone), whole.counts, whole.rows
    if groups.by_rows is not None and not gone:
        groups = groups.by_rows
        shares = class_weights(groups.rows, groups.windows)
    else:
        shares = weights(groups.rows, groups.windows)
        shares[list(gone)] = 0.0
    if (shares < 1.0).any():
        counts = tuple(np.rint(shares @ groups.counts).astype(np.int64).tolist())
        rows_left = round(float(shares @ np.array(groups.rows)))
    return Interval(
        whole.release,
        whole.model,
        whole.cohort,
        whole.start,
        whole.seconds,
        left,
        counts,
        rows_left,
        whole.calibrated,
        whole.reference_rows * rows_left / whole.rows if whole.rows else whole.reference_rows,
        whole.noise_units * left / max(1, whole.windows),
        whole.late,
        whole.windows - left,
    )

"""Which windows of an interval are tested: all, or all but the sub-groups that are unlike the others, where the operator says so."""

from collections.abc import Sequence

import numpy as np

from hub.core.drift.subgroups import Outlying, outlying, weights
from hub.core.drift.windows import Interval, watched
from hub.database.intervals import groups_of
from hub.database.rows import IntervalRow
from schemas.analytics_messages import Alert
from schemas.errors import Code
from schemas.manifest import Manifest


def interval_of(row: IntervalRow) -> Interval:
    """The interval as it is tested and shown: added up, no sub-group of its windows weighing far more than the others."""
    return _without(row, ())


def _without(row: IntervalRow, gone: Sequence[int]) -> Interval:
    """The interval without some sub-groups. What is not known by sub-group is taken off in proportion: noise by windows, and what the own
    baselines add by rows, of which each window may have a fixed multiple only (hub/core/drift/windows.py).
    """
    windows, rows, totals = groups_of(row)
    left, counts, rows_left = row.windows - sum(windows[group] for group in gone), row.counts, row.rows
    shares = weights(rows, windows)
    shares[list(gone)] = 0.0
    if (shares < 1.0).any():
        counts = tuple(np.rint(shares @ totals).astype(np.int64).tolist())
        rows_left = round(float(shares @ np.array(rows)))
    return Interval(
        row.release,
        row.model,
        row.cohort,
        row.start,
        row.seconds,
        left,
        counts,
        rows_left,
        row.calibrated,
        row.reference_rows * rows_left / row.rows if row.rows else row.reference_rows,
        row.noise_units * left / max(1, row.windows),
        row.late,
        row.windows - left,
    )


def odd_groups(row: IntervalRow, manifest: Manifest) -> tuple[Outlying, ...]:
    """The sub-groups that are unlike the others, the oddest first.

    Raises:
        Refused: the release declares no signals.
    """
    baseline, privacy = watched(manifest)
    windows, rows, totals = groups_of(row)
    return outlying(totals, rows, windows, baseline, privacy.sigma2 * row.noise_units / max(1, row.windows))


def trimmed(row: IntervalRow, odd: tuple[Outlying, ...]) -> Interval:
    """The interval without these."""
    return _without(row, [one.group for one in odd])


def alert_of(row: IntervalRow, odd: tuple[Outlying, ...], *, at: int, trimmed: bool) -> Alert:
    """What a person is told."""
    worst = odd[0]
    text = (
        f"{row.model}, cohort {row.cohort}: {len(odd)} of the random sub-groups of the windows at {row.start} are unlike the others, most"
        f" in {worst.signal} ({worst.sds:.0f} sd); a node may be broken, or lie; they were {'left out' if trimmed else 'counted'}"
    )
    return Alert(kind="refused", at=at, model=row.model, cohort=row.cohort, code=str(Code.WINDOW_OUTLIER), text=text)

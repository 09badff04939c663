"""Which windows of an interval are tested: all, or all but the sub-groups that are unlike the others, where the operator says so."""

from dataclasses import replace

import numpy as np

from hub.core.subgroups import Outlying, outlying
from hub.core.windows import Interval, watched
from hub.intervals import groups_of
from hub.rows import IntervalRow
from schemas.errors import Code
from schemas.insight import Alert
from schemas.manifest import Manifest


def interval_of(row: IntervalRow) -> Interval:
    """The interval as it was added up."""
    return Interval(
        row.release,
        row.model,
        row.cohort,
        row.start,
        row.seconds,
        row.windows,
        row.counts,
        row.rows,
        row.calibrated,
        row.reference_rows,
        row.noise_units,
        row.late,
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
    """The interval without these; what is not known by sub-group is taken off in proportion."""
    interval = interval_of(row)
    windows, rows, totals = groups_of(row)
    gone = [one.group for one in odd]
    left = row.windows - sum(windows[group] for group in gone)
    share = left / max(1, row.windows)
    return replace(
        interval,
        windows=left,
        counts=tuple((np.array(row.counts, np.int64) - totals[gone].sum(axis=0)).tolist()),
        rows=row.rows - sum(rows[group] for group in gone),
        reference_rows=row.reference_rows * share,
        noise_units=row.noise_units * share,
        left_out=row.windows - left,
    )


def alert_of(row: IntervalRow, odd: tuple[Outlying, ...], *, at: int, trimmed: bool) -> Alert:
    """What a person is told."""
    worst = odd[0]
    text = (
        f"{row.model}, cohort {row.cohort}: {len(odd)} of the random sub-groups of the windows at {row.start} are unlike the others, most"
        f" in {worst.signal} ({worst.sds:.0f} sd); a node may be broken, or lie; they were {'left out' if trimmed else 'counted'}"
    )
    return Alert(kind="refused", at=at, model=row.model, cohort=row.cohort, code=str(Code.WINDOW_OUTLIER), text=text)

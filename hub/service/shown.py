"""What may be shown of intervals: nothing of fewer nodes than the minimum, and of the rest what analytics consumers read."""

import math
from collections.abc import Sequence

from hub.core import windows
from hub.core.windows import Interval
from hub.rows import IntervalRow
from schemas.insight import MergedWindow, SignalCounts
from schemas.manifest import Manifest


def merged(row: IntervalRow, manifest: Manifest) -> MergedWindow:
    """An interval as it was published."""
    return windows.merged_window(Interval(row.release, row.model, row.cohort, row.start, row.seconds, row.windows, row.counts), manifest)


def together(parts: Sequence[MergedWindow]) -> MergedWindow | None:
    """Several intervals of one release and cohort as one, which begins with the first and is as long as all; None of none.

    Noise of separate windows is independent: its variances add, as the counts do.
    """
    if not parts:
        return None
    first, last = min(parts, key=lambda one: one.start), max(parts, key=lambda one: one.start + one.seconds)
    signals = tuple(
        SignalCounts(
            name=signal.name,
            kind=signal.kind,
            edges=signal.edges,
            categories=signal.categories,
            counts=tuple(sum(column) for column in zip(*(part.signals[at].counts for part in parts), strict=True)),
            expected=tuple(round(sum(column), 2) for column in zip(*(part.signals[at].expected for part in parts), strict=True)),
        )
        for at, signal in enumerate(first.signals)
    )
    return first.model_copy(
        update={
            "seconds": last.start + last.seconds - first.start,
            "windows": sum(part.windows for part in parts),
            "rows": sum(part.rows for part in parts),
            "noise_sd": math.sqrt(sum(part.noise_sd**2 for part in parts)),
            "signals": signals,
        }
    )

"""What may be shown of intervals: nothing of fewer nodes than the minimum, and of the rest what analytics consumers read."""

import math
from collections.abc import Collection, Sequence

from hub.core.drift import accuracy, windows
from hub.core.drift.windows import Interval
from hub.database.drift_queries import Key
from hub.database.rows import IntervalRow
from hub.service.telemetry.outlier_filter import interval_of, odd_groups, trimmed
from schemas.analytics_messages import MergedWindow, SignalCounts
from schemas.manifest import Manifest


def merged(row: IntervalRow, manifest: Manifest, tested_without: Collection[Key] = ()) -> MergedWindow:
    """An interval as it was tested and published; `tested_without` are those of which a part of the windows was left out.

    Raises:
        Refused: the release declares no signals.
    """
    return windows.merged_window(believed(row, manifest, tested_without), manifest, accuracy.about(manifest))


def believed(row: IntervalRow, manifest: Manifest, tested_without: Collection[Key] = ()) -> Interval:
    """An interval as it was tested."""
    about = accuracy.about(manifest)
    if (manifest.version, row.cohort, row.start, row.seconds, row.calibrated, about or "") in tested_without:
        return trimmed(row, odd_groups(row, manifest))
    return interval_of(row)


def on_reference(window: MergedWindow, manifest: Manifest) -> MergedWindow:
    """The window as counts: differences from nodes' own baselines are put on top of what the reference expects of so many rows."""
    if not window.calibrated or manifest.baseline is None:
        return window
    key, found = manifest.baseline.key_of(window.start), []
    for counted, signal in zip(window.signals, manifest.baseline.signals, strict=True):
        reference = signal.reference(key)
        expected = [window.rows * count / (sum(reference) or 1) for count in reference]
        counts = tuple(round(center) + change for center, change in zip(expected, counted.counts, strict=True))
        found.append(counted.model_copy(update={"counts": counts, "expected": tuple(round(one, 2) for one in expected)}))
    return window.model_copy(update={"signals": tuple(found), "calibrated": None, "reference_rows": None})


def together(parts: Sequence[MergedWindow]) -> MergedWindow | None:
    """Several intervals of one release and cohort as one, which begins with the first and is as long as all; None of none.

    Noise of separate windows is independent: its variances add, as the counts do. Counts and differences do not: of both, those of more
    nodes are taken.
    """
    if not parts:
        return None
    plain, calibrated = [part for part in parts if not part.calibrated], [part for part in parts if part.calibrated]
    parts = max(plain, calibrated, key=lambda some: sum(part.windows for part in some))
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
            "left_out": sum(part.left_out or 0 for part in parts) or None,
        }
    )

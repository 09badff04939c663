"""Reads intervals from the database as they may be shown: as they were tested, without the windows that were left out of the test."""

from collections.abc import Collection

from hub.core.drift import accuracy, outlier_filter, windows
from hub.core.drift.windows import Interval
from hub.database.drift_queries import Key
from hub.database.rows import IntervalRow
from schemas.analytics_messages import MergedWindow
from schemas.manifest import Manifest


def merged(row: IntervalRow, manifest: Manifest, tested_without: Collection[Key] = ()) -> MergedWindow:
    """Return an interval as it was tested and published; `tested_without` are those whose windows were in part left out.

    Raises:
        Refused: the release declares no signals.
    """
    return windows.merged_window(believed(row, manifest, tested_without), manifest, accuracy.about(manifest))


def believed(row: IntervalRow, manifest: Manifest, tested_without: Collection[Key] = ()) -> Interval:
    """Return an interval as it was tested."""
    about, whole, groups = accuracy.about(manifest), row.interval, row.groups
    if (manifest.version, row.cohort, row.start, row.seconds, row.calibrated, about or "") in tested_without:
        return outlier_filter.trimmed(whole, groups, outlier_filter.odd_groups(whole, groups, manifest))
    return outlier_filter.balanced(whole, groups)

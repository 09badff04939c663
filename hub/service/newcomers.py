"""Which intervals are shown and not judged: of nodes without a baseline of their own, in a cohort whose others have one.

Until a cohort has calibrated, its counts are compared with the publisher's reference: that is all there is, and a release that answers
otherwise than where it was made must be seen at once. From then on drift is a change of nodes against themselves, and a site that has just
joined, or lost its disk, is none: its windows count, and are shown, until it has a baseline too.
"""

from hub.store import IntervalRow, Store
from schemas.manifest import Manifest


class Newcomers:
    """What is known of when cohorts had baselines of their own first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since: dict[tuple[bytes, str], int | None] = {}

    def are(self, row: IntervalRow, manifest: Manifest) -> bool:
        """Whether an interval is of newcomers alone."""
        if row.calibrated or manifest.baseline is None or manifest.baseline.calibration_rows is None:
            return False
        key = (row.release, row.cohort)
        if key not in self._since:
            self._since[key] = self._store.calibrated_since(row.model, manifest.version, row.cohort)
        since = self._since[key]
        return since is not None and since <= row.start

    def judged(self, row: IntervalRow) -> None:
        """An interval was judged and is durable."""
        if row.calibrated:
            key = (row.release, row.cohort)
            since = self._since.get(key)
            self._since[key] = row.start if since is None else min(since, row.start)

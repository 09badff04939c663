"""Reports nodes that have no baseline of their own yet: shown beside the publisher's reference, reported once, and never an alarm.

Where nodes are compared with themselves, drift is a change of nodes against themselves. Until they have gathered their baselines, which
sites are online is all that a difference from the reference may mean; and so it is of a site that has just joined, or lost its disk. That a
cohort is unlike the reference is still worth knowing once: it may be that the model was made from other data than it meets.
"""

from collections.abc import Sequence
from typing import Final

from hub.core.drift import interval_significance
from hub.database.store import IntervalRow, Store
from hub.service.alerts.event_log import Notes
from schemas.analytics_messages import Alert, Drift, SignalDrift
from schemas.manifest import Manifest

KIND: Final = "unlike_reference"


def gathers(row: IntervalRow, manifest: Manifest) -> bool:
    """Return whether an interval is of nodes that are to have a baseline of their own, and have none."""
    return not row.calibrated and manifest.baseline is not None and manifest.baseline.calibration_rows is not None


def replaces(result: Drift, newest: Drift | None) -> bool:
    """Return whether a result replaces the newest one on the topic: of one moment, what was judged goes before what was not."""
    if newest is None or newest.start != result.start:
        return newest is None or newest.start < result.start
    return not result.gathering or newest.gathering is True


class Unlike:
    """Report once for a release in a cohort that it is unlike its reference."""

    def __init__(self, store: Store, notes: Notes) -> None:
        self._notes = notes
        self._reported = {(one.model, one.version, one.cohort) for one in store.alerts_of(KIND)}

    def report(self, result: Drift, alarmed: Sequence[SignalDrift], *, at: int) -> None:
        """Report what was found of an interval, where it was not reported before."""
        key = (result.model, result.version, result.cohort)
        if not alarmed or key in self._reported:
            return
        self._reported.add(key)
        why = interval_significance.in_words(alarmed)
        text = (
            f"{result.model} {result.version} in cohort {result.cohort} is unlike the publisher's reference: {why};"
            " its nodes gather baselines of their own, and are compared with themselves from then on"
        )
        self._notes.alert(
            Alert(
                kind=KIND,
                at=at,
                model=result.model,
                cohort=result.cohort,
                code="drift.unlike_reference",
                text=text,
                signals=tuple(alarmed),
                version=result.version,
            )
        )

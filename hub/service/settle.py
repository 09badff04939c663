"""Tests intervals once no window of theirs has come for a while, and says what was found. Shows nothing of fewer nodes than the minimum.

A window that comes later is added, and its interval is tested and published again; an alarm that was raised is not withdrawn by it.
"""

from collections.abc import Callable
from typing import Protocol

import structlog

from hub.core import drift, windows
from hub.core.windows import Interval
from hub.service import trimming
from hub.service.notes import Notes
from hub.service.releases import Releases
from hub.store import IntervalRow, Store
from schemas.errors import Refused
from schemas.insight import Alert, Drift, MergedWindow, SignalDrift
from schemas.manifest import Manifest

log = structlog.get_logger()


class SayInsight(Protocol):
    """Where insights are published."""

    def __call__(self, document: MergedWindow | Drift, *, retain: bool = False) -> None:
        """Publish one."""


class Settling:
    """The intervals that wait to be tested."""

    def __init__(
        self,
        *,
        store: Store,
        notes: Notes,
        releases: Releases,
        say: SayInsight,
        settled: Callable[[str, str, bytes, int], None],
        cohort_nodes_min: int,
        settle_seconds: int,
        trim_outlying: bool,
        alpha: float,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._notes, self._releases, self._say, self._settled, self._clock = store, notes, releases, say, settled, clock
        self._cohort_nodes_min, self._settle_seconds, self._alpha = cohort_nodes_min, settle_seconds, alpha
        self._trim_outlying = trim_outlying

    def tick(self) -> None:
        """Test what has settled."""
        for row in self._store.unsettled_intervals(int(self._clock()) - self._settle_seconds):
            try:
                self._settle(row)
            except Refused as refusal:  # its release is gone from the repository, or declares no signals
                log.error("interval.untestable", model=row.model, start=row.start, code=str(refusal.code), reason=refusal.reason)
                self._store.mark_tested(row, alarmed=row.alarmed)
            except (ArithmeticError, ValueError):  # a baseline that no test can be made of: our bug, and the next interval is not to suffer
                log.exception("interval.bug", model=row.model, start=row.start)
                self._store.mark_tested(row, alarmed=row.alarmed)
            self._settled(row.model, row.cohort, row.release, row.start)

    def newest(self) -> list[Drift]:
        """Of each model, what stands retained on its topic: the newest interval."""
        found: dict[str, Drift] = {}
        for one in self._store.drifts():  # newest first
            found.setdefault(one.model, one)
        return list(found.values())

    def _settle(self, row: IntervalRow) -> None:
        _, manifest = self._releases.find(row.release)
        if row.windows < self._cohort_nodes_min or manifest.baseline is None or manifest.privacy is None:
            self._store.mark_tested(row, alarmed=row.alarmed)
            log.info("interval.too_few", model=row.model, cohort=row.cohort, start=row.start, needed=self._cohort_nodes_min)
            return
        interval = self._believed(row, manifest)
        if interval.calibrated:  # differences: only the windows themselves are shown
            self._store.mark_tested(row, alarmed=row.alarmed)
            self._say(windows.merged_window(interval, manifest))
            return
        tested = drift.test_window(interval.counts, interval.windows, manifest.baseline, manifest.privacy.sigma2)
        # A signal that the publisher has no reference for can only be compared with the nodes' own baselines.
        signals = tuple(one for one, signal in zip(tested, manifest.baseline.signals, strict=True) if sum(signal.counts))
        raised = drift.alarmed(signals, self._alpha)
        result = self._result(row, manifest, signals, alarm=row.alarmed or bool(raised))
        newest = next(iter(self._store.drifts(row.model, limit=1)), None)
        self._store.mark_tested(row, alarmed=result.alarm, drift=result)
        self._say(windows.merged_window(interval, manifest))
        self._say(result, retain=newest is None or newest.start <= result.start)
        if raised and not row.alarmed:
            text = f"{row.model} {manifest.version} drifts in cohort {row.cohort}: {drift.in_words(raised)}"
            at = int(self._clock())
            self._notes.alert(Alert(kind="drift", at=at, model=row.model, cohort=row.cohort, code="drift", text=text, signals=raised))

    def _believed(self, row: IntervalRow, manifest: Manifest) -> Interval:
        """The interval to test; what is odd in it is told, and left out where the operator says so."""
        odd = trimming.odd_groups(row, manifest)
        if odd and not row.tested_windows:
            self._notes.alert(trimming.alert_of(row, odd, at=int(self._clock()), trimmed=self._trim_outlying))
        return trimming.trimmed(row, odd) if odd and self._trim_outlying else trimming.interval_of(row)

    def _result(self, row: IntervalRow, manifest: Manifest, signals: tuple[SignalDrift, ...], *, alarm: bool) -> Drift:
        return Drift(
            model=row.model,
            version=manifest.version,
            cohort=row.cohort,
            start=row.start,
            seconds=row.seconds,
            windows=row.windows,
            alarm=alarm,
            alpha=self._alpha,
            signals=signals,
        )

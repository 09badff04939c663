"""Tests intervals once no window of theirs has come for a while, and publishes the results. Shows nothing of fewer nodes than the minimum.

Every interval is tested twice: alone against the reference, and as one more of its stream, a release in a cohort over time. Streams are
judged together, so that a thousand cohorts do not make a thousand times the false alarms. A window that comes later is added: its interval
is tested and published again, and the stream counts what is new of it; an alarm that was raised is not withdrawn. An alarm is reported when
it is raised and when it is over. Of nodes that have yet to gather a baseline of their own nothing is judged:
hub/service/telemetry/uncalibrated.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import structlog

from hub.core.drift import accuracy, interval_significance, outlier_filter, windows
from hub.core.drift.reference_model import Ordinary, ordinary
from hub.core.drift.stream_alarms import Judged, Seen, part_of
from hub.core.drift.windows import Interval
from hub.database.rows import IntervalRow, Learnt
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_streams import Streams
from hub.service.telemetry.insufficient_data import Unjudged
from hub.service.telemetry.uncalibrated import Unlike, gathers, replaces
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.errors import Refused
from schemas.manifest import Manifest

log = structlog.get_logger()

REFERENCES_KEPT = 64  # as arrays, at some tens of kilobytes each


class PublishInsight(Protocol):
    """Publish an insight."""

    def __call__(self, document: MergedWindow | Drift, *, retain: bool = False) -> None:
        """Publish one."""


class Settling:
    """Test the intervals that have settled."""

    def __init__(
        self,
        *,
        store: Store,
        notes: Notes,
        releases: Releases,
        publish: PublishInsight,
        settled: Callable[[str, str, bytes, int], None],
        cohort_nodes_min: int,
        settle_seconds: int,
        trim_outlying: bool,
        alpha: float,
        run_length: float,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._notes, self._releases, self._publish, self._settled, self._clock = (
            store,
            notes,
            releases,
            publish,
            settled,
            clock,
        )
        self._cohort_nodes_min, self._settle_seconds, self._alpha = cohort_nodes_min, settle_seconds, alpha
        self._trim_outlying = trim_outlying
        self._streams = Streams(store, run_length=run_length, clock=clock)
        self._unlike, self._unjudged = Unlike(store, notes), Unjudged(store, notes, nodes_min=cohort_nodes_min)
        self._references: dict[tuple[bytes, int | None], Ordinary] = {}
        self.tests: Counter[str] = Counter(true=0, false=0)  # Intervals that were judged since the start, by whether they alarm.

    def tick(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Test what has settled, oldest first; those of one moment are judged together. Past `enough` the rest waits for the next time."""
        for together in _rounds(self._store.unsettled_intervals(int(self._clock()) - self._settle_seconds)):
            seen: list[tuple[IntervalRow, Seen]] = []
            for row in together:
                with self._only(row):
                    one = self._look(row)
                    if one is not None:
                        seen.append((row, one))
            self._streams.expect(seen)
            for row, one in seen:
                with self._only(row):
                    self._judge(row, one)
            if enough():
                break

    def newest(self) -> list[Drift]:
        """Return what is retained on each model's topic: the newest interval of its signals."""
        return self._store.newest_drifts()

    @contextmanager
    def _only(self, row: IntervalRow) -> Iterator[None]:
        """Give one interval its turn: what is wrong with it must not keep the others from theirs."""
        try:
            yield
        except Refused as refusal:  # its release is gone from the repository, or declares no signals
            log.error("interval.skipped_untestable", model=row.model, start=row.start, code=str(refusal.code), reason=refusal.reason)
            self._give_up(row)
        except (ArithmeticError, ValueError):  # a baseline that no test can be made of: our bug, and the next interval is not to suffer
            log.exception("interval.failed", model=row.model, start=row.start)
            self._give_up(row)

    def _give_up(self, row: IntervalRow, *, left: int | None = None) -> None:
        self._store.mark_tested(row, alarmed=row.alarmed, left=left)
        self._settled(row.model, row.cohort, row.release, row.start)

    def _too_few(self, row: IntervalRow, manifest: Manifest, *, left: int | None = None) -> None:
        self._give_up(row, left=left)
        log.info("interval.skipped_too_few_nodes", model=row.model, cohort=row.cohort, start=row.start, needed=self._cohort_nodes_min)
        self._unjudged.too_few(row, manifest, at=int(self._clock()))

    def _look(self, row: IntervalRow) -> Seen | None:
        """Test the interval alone, and add it to its stream's evidence; nothing is durable yet."""
        digest, manifest = self._releases.of_stream(row.release)
        if row.windows < self._cohort_nodes_min or manifest.baseline is None or manifest.privacy is None:
            self._too_few(row, manifest)
            return None
        interval, reference = self._believed(row, manifest), self._reference(digest, manifest, row.start)
        if interval.windows < self._cohort_nodes_min:  # what is left of it is too few
            self._too_few(row, manifest, left=interval.windows)
            return None
        if gathers(row, manifest):
            self._show(row, manifest, interval, reference)
            return None
        return self._streams.look(row, interval, reference)

    def _show(self, row: IntervalRow, manifest: Manifest, interval: Interval, reference: Ordinary) -> None:
        """Show what nodes without baselines counted, beside the reference; it is no evidence of drift, and ends none."""
        result = Drift(
            **self._fields(row, manifest, interval),
            alarm=row.alarmed,
            signals=interval_significance.test_interval(part_of(interval, reference), reference),
            gathering=True,
        )
        self._keep(row, manifest, interval, result)
        alarmed = interval_significance.alarmed(result.signals, self._alpha)
        self._unlike.report(result, alarmed, at=int(self._clock()))
        self._unjudged.gathers(result, at=int(self._clock()))

    def _judge(self, row: IntervalRow, seen: Seen) -> None:
        _, manifest = self._releases.of_stream(row.release)
        judged, learnt = self._streams.judge(row, seen, alpha=self._alpha)
        result = self._result(row, manifest, seen.interval, judged)
        self.tests[str(result.alarm).lower()] += 1
        self._keep(row, manifest, seen.interval, result, learnt)
        self._alert(row, manifest, result, judged)

    def _keep(self, row: IntervalRow, manifest: Manifest, interval: Interval, result: Drift, learnt: Learnt | None = None) -> None:
        """Make durable what was found of an interval, then publish it."""
        before = next(iter(self._store.newest_drifts(row.model)), None)
        newest = result.about is None and replaces(result, before)
        self._store.mark_tested(row, alarmed=result.alarm, drift=result, learnt=learnt, newest=newest)
        if learnt is not None:
            self._streams.keep(learnt[0])
        self._settled(row.model, row.cohort, row.release, row.start)
        self._publish(windows.merged_window(interval, manifest, result.about))
        self._publish(result, retain=newest)

    def _believed(self, row: IntervalRow, manifest: Manifest) -> Interval:
        """Return the interval to test; what is odd in it is reported, and left out where the operator says so."""
        whole, groups = row.interval, row.groups
        odd = outlier_filter.odd_groups(whole, groups, manifest)
        if odd and not row.tested_windows:
            self._notes.alert(outlier_filter.alert_of(whole, odd, at=int(self._clock()), trimmed=self._trim_outlying))
        trims = odd and self._trim_outlying
        return outlier_filter.trimmed(whole, groups, odd) if trims else outlier_filter.balanced(whole, groups)

    def _alert(self, row: IntervalRow, manifest: Manifest, result: Drift, judged: Judged) -> None:
        at = int(self._clock())
        if judged.event == "raised":
            why = interval_significance.in_words(judged.named, result.alarm_kind)
            text = f"{row.model} {manifest.version} drifts in cohort {row.cohort}: {why}"
            text += accuracy.shares_in_words(row.counts, manifest)
            self._notes.alert(
                Alert(
                    kind="drift",
                    at=at,
                    model=row.model,
                    cohort=row.cohort,
                    code="drift",
                    text=text,
                    signals=judged.named,
                    since=result.since,
                    alarm_kind=result.alarm_kind,
                    version=manifest.version,
                    about=result.about,
                )
            )
        elif judged.event == "over":
            what = "the accuracy of " if result.about is not None else ""
            text = f"{what}{row.model} {manifest.version} no longer drifts in cohort {row.cohort}"
            self._notes.alert(
                Alert(
                    kind="drift_over",
                    at=at,
                    model=row.model,
                    cohort=row.cohort,
                    code="drift.over",
                    text=text,
                    version=manifest.version,
                    about=result.about,
                )
            )

    def _result(self, row: IntervalRow, manifest: Manifest, interval: Interval, judged: Judged) -> Drift:
        return Drift(
            **self._fields(row, manifest, interval),
            alarm=row.alarmed or judged.alarm_kind is not None,
            signals=judged.signals,
            alarm_kind=judged.alarm_kind,
            evidence=judged.evidence,
            evidence_needed=judged.evidence_needed,
            streams=judged.streams,
            episode=judged.event,
            since=judged.since,
        )

    def _fields(self, row: IntervalRow, manifest: Manifest, interval: Interval) -> dict[str, Any]:
        """Return what every result says of its interval; `windows` are those that were tested."""
        return {
            "model": row.model,
            "version": manifest.version,
            "cohort": row.cohort,
            "start": row.start,
            "seconds": row.seconds,
            "windows": interval.windows,
            "left_out": interval.left_out or None,
            "alpha": self._alpha,
            "calibrated": row.calibrated or None,
            "about": accuracy.about(manifest),
        }

    def _reference(self, digest: bytes, manifest: Manifest, start: int) -> Ordinary:
        """Return what is ordinary for an interval: its hour of the week's own reference, where the release has one."""
        hour = None if manifest.baseline is None else manifest.baseline.key_of(start)
        found = self._references.get((digest, hour))
        if found is None:
            if manifest.baseline is None or manifest.privacy is None:
                raise ValueError("a release without signals is not tested")
            if len(self._references) >= REFERENCES_KEPT:
                del self._references[next(iter(self._references))]
            found = self._references[digest, hour] = ordinary(manifest.baseline, manifest.privacy.sigma2, hour=hour)
        return found


def _rounds(rows: Sequence[IntervalRow]) -> list[list[IntervalRow]]:
    """Return the intervals in rounds of one moment each, oldest first, no stream twice in one: the second is tested knowing the first."""
    found: dict[tuple[int, int], list[IntervalRow]] = {}
    times: Counter[tuple[int, bytes, str]] = Counter()
    for row in rows:
        here = (row.start, row.release, row.cohort)
        found.setdefault((row.start, times[here]), []).append(row)
        times[here] += 1
    return [found[moment] for moment in sorted(found)]

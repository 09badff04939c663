"""Reports that a release in a cohort is not judged: no longer, since too few nodes of a kind are heard; or never yet, for weeks.

Nothing is tested of fewer nodes than the minimum, and nodes with baselines of their own are tested apart from those without. That keeps
the tests honest, and leaves a cohort of both without any. No alarm is then not the same as no drift, and somebody has to hear of it.
"""

from datetime import UTC, datetime
from typing import Final

from hub.core.drift import accuracy
from hub.core.rollouts.active_alarms import StreamName
from hub.database.drift_queries import Findings
from hub.database.rows import IntervalRow
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from schemas.analytics_messages import Alert, Drift
from schemas.manifest import Manifest

KIND: Final = "not_judged"
TOO_FEW, GATHERS = "drift.too_few", "drift.gathers"

INTERVALS = 3  # without a test, after which it is reported: a release that no node serves any more may have as many
AGAIN_SECONDS = 7 * 86_400  # a cohort that is small every night is no news every morning
GATHERS_SECONDS = 14 * 86_400  # the slowest nodes that an own baseline suits have it by then


class Unjudged:
    """Report streams that are not judged: once, and again when they were judged in between, a week later at the soonest."""

    def __init__(self, store: Store, notes: Notes, *, nodes_min: int) -> None:
        self._findings, self._notes, self._nodes_min = Findings(store.database), notes, nodes_min
        self._reported: dict[
            tuple[tuple[str | None, ...], str], tuple[int | None, int]
        ] = {}  # since when it was so, and when it was reported
        for one in sorted(store.alerts_of(KIND), key=lambda one: one.at):
            self._reported[(one.model, one.version, one.cohort, one.about), one.code] = one.since, one.at

    def too_few(self, row: IntervalRow, manifest: Manifest, *, at: int) -> None:
        """Report too few nodes for a test, when that is so for long and the cohort has not gone on to another release."""
        name = (row.model, manifest.version, row.cohort, accuracy.about(manifest))
        last = next(iter(self._findings.drifts(name, limit=1)), None)
        if last is None or row.start - last.start < INTERVALS * row.seconds:
            return
        since, reported_at = self._reported.get((name, TOO_FEW), (None, 0))
        if since is not None and (since == last.start or at - reported_at < AGAIN_SECONDS):
            return
        if self._findings.newest_start(row.model, row.cohort, name[3]) > last.start:
            return
        heard = self._findings.heard(row.model, row.cohort, release=row.release).get((row.release, row.cohort))
        if heard is not None and heard.too_few(self._nodes_min):
            text = f"was last tested at {_written(last.start)} UTC; its newest interval has {heard.in_words(self._nodes_min)}"
            self._report(name, TOO_FEW, last.start, text, at=at)

    def gathers(self, result: Drift, *, at: int) -> None:
        """Report that intervals are shown and not judged, when that has been so for long, and never otherwise."""
        name = (result.model, result.version, result.cohort, result.about)
        if (name, GATHERS) in self._reported:
            return
        since = self._findings.gathers_since(name)
        if since is None or result.start - since < GATHERS_SECONDS:
            return
        text = (
            f"was never judged: its nodes gather baselines of their own since {_written(since)} UTC, and too few have one; they see few"
            " rows, or their budgets do not pay for it (`fleetcast-node` logs baseline.unaffordable)"
        )
        self._report(name, GATHERS, since, text, at=at)

    def _report(self, name: StreamName, code: str, since: int, text: str, *, at: int) -> None:
        model, version, cohort, about = name
        self._reported[name, code] = since, at
        sentence = f"{'the accuracy of ' if about is not None else ''}{model} {version} in cohort {cohort} {text}"
        self._notes.alert(
            Alert(kind=KIND, at=at, model=model, cohort=cohort, code=code, text=sentence, since=since, version=version, about=about)
        )


def _written(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")

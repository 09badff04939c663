"""Gathers what speaks for a drift: the test that raised it, and the counts since it began beside what the reference expects."""

from collections.abc import Sequence

from hub.core.drift import accuracy, periods
from hub.database.drift_queries import Asked, Findings
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry import redaction
from schemas.analytics_messages import Alert, Drift, DriftEvidence, Found, MergedWindow
from schemas.errors import Refused
from schemas.limits import FINDINGS_MAX

INTERVALS_MAX = 1000  # intervals of one drift: one that began longer ago is shown by its newest
BODY_BYTES_MAX = 4 * 2**20  # the JSON's size: beyond, findings are sent without their counts


class Evidence:
    """Gather the evidence of a drift from the database and the repository."""

    def __init__(self, findings: Findings, releases: Releases, *, cohort_nodes_min: int) -> None:
        self._findings, self._releases, self._cohort_nodes_min = findings, releases, cohort_nodes_min

    def of(self, alerts: Sequence[Alert], *, number: str, fleet: str, now: int) -> DriftEvidence:
        """Return the evidence of one model's alerts.

        Raises:
            ValueError: they are of no model.
        """
        model = alerts[0].model
        if model is None:
            raise ValueError("drift is always some model's")
        found = tuple(self._found(alert) for alert in alerts[:FINDINGS_MAX])
        left_out = len(alerts) - len(found)
        evidence = DriftEvidence(id=number, fleet=fleet, model=model, at=now, findings=found, left_out=left_out)
        if len(evidence.model_dump_json(exclude_none=True)) <= BODY_BYTES_MAX:
            return evidence
        return evidence.model_copy(update={"findings": tuple(one.model_copy(update={"window": None}) for one in found)})

    def _found(self, alert: Alert) -> Found:
        raised = self._raised(alert)
        return Found(alert=alert, drift=raised, window=self._window(alert, raised) if raised is not None else None)

    def _raised(self, alert: Alert) -> Drift | None:
        """Return the test by which it was found: the newest that raised an episode which began then."""
        if alert.model is None or alert.version is None or alert.cohort is None:
            return None  # an older hub found it
        tests = self._findings.drifts((alert.model, alert.version, alert.cohort, alert.about), since=alert.since or 0)
        raised = [one for one in tests if one.episode == "raised" and one.since == alert.since]
        return raised[-1] if raised else None

    def _window(self, alert: Alert, raised: Drift) -> MergedWindow | None:
        digest = self.digest(raised.model, raised.version)
        if digest is None:
            return None
        stream = digest if raised.about is None else accuracy.stream_of(digest)
        asked = Asked(
            raised.model,
            raised.cohort,
            since=alert.since if alert.since is not None else raised.start,
            until=raised.start + 1,
            release=stream,
            windows_min=self._cohort_nodes_min,
        )
        rows = list(self._findings.intervals(asked))[-INTERVALS_MAX:]
        rows = [
            row for row in rows if row.calibrated is (raised.calibrated is True)
        ]  # those that were judged, and not newcomers beside them
        manifest, without = self._releases.of_stream(stream)[1], self._findings.trimmed(asked)
        return periods.together([redaction.merged(row, manifest, without) for row in rows])

    def digest(self, model: str, version: str) -> bytes | None:
        """Return the release's digest; None where the repository does not have it."""
        try:
            return self._releases.named(model, version)[0]
        except Refused:
            return None

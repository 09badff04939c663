"""Show what drifts: a row for each stream, with its evidence and how far its signals moved."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hub.core.drift import accuracy
from hub.core.drift import interval_significance as drift_core
from hub.core.drift.episodes import Episode
from hub.core.rollouts import active_alarms
from hub.core.rollouts.gate_summary import Heard
from hub.database.drift_queries import Findings
from hub.database.rows import StreamRow
from hub.operations.moments import iso
from hub.operations.opened_fleet import OpenedFleet
from hub.service.rollouts.release_lookup import Releases
from schemas.analytics_messages import Alert, Drift, SignalDrift
from schemas.errors import Refused
from schemas.manifest import Manifest

SIGNALS = "signals"  # what a stream is about that is not about accuracy


def drift_of(fleet: OpenedFleet, model: str | None = None, cohort: str | None = None) -> list[dict[str, Any]]:
    """Return a row for each stream of a fleet, lasting alarms first."""
    findings, releases = Findings(fleet.store.database), Releases(fleet.repository, fleet.blocks)
    rows = drift_rows(findings, releases, model, cohort, nodes_min=fleet.settings.cohort_nodes_min)
    return [{"reason": None, **row} for row in rows]


def drift_rows(findings: Findings, releases: Releases, model: str | None, cohort: str | None, *, nodes_min: int) -> list[dict[str, Any]]:
    """Return a row for each stream, lasting alarms first."""
    streams = [
        (stream, (stream.model, manifest.version, stream.cohort, accuracy.about(manifest)))
        for stream, manifest in known_streams(findings, releases, model, cohort)
    ]
    newest = findings.newest(name for _, name in streams)
    cohorts = active_alarms.cohort_newest(newest)
    alerts = [one.raised for one in active_alarms.reported_alarms(findings.alerts(model))]
    heard = {key: one for known in {stream.model for stream, _ in streams} for key, one in findings.heard(known, cohort).items()}
    latest = _latest(streams, heard)
    rows = []
    for stream, name in streams:
        last, here = newest.get(name), heard.get((stream.release, stream.cohort))
        few = _too_few(here, last, latest=latest[stream.model, stream.cohort, name[3]], nodes_min=nodes_min)
        if last is not None and (stream.state or last.gathering):
            row = _row(stream, last, alerts, cohorts[name])
        elif few is not None and few.nodes >= nodes_min:
            row = _never_tested(name, few)
        else:
            continue
        rows.append(row if few is None else row | _untested(row["state"], few, nodes_min))
    return sorted(rows, key=lambda row: (not row["alarm"], row["model"], row["cohort"], row["newest_at"]))


def _latest(
    streams: Sequence[tuple[StreamRow, active_alarms.StreamName]], heard: Mapping[tuple[bytes, str], Heard]
) -> dict[tuple[Any, ...], int]:
    """Return when a model was last heard from in a cohort, by any release: one that the cohort has left may well have few nodes."""
    latest: dict[tuple[Any, ...], int] = {}
    for stream, (*_, about) in streams:
        at = heard.get((stream.release, stream.cohort), Heard(0)).start
        latest[stream.model, stream.cohort, about] = max(at, latest.get((stream.model, stream.cohort, about), 0))
    return latest


def _too_few(here: Heard | None, last: Drift | None, *, latest: int, nodes_min: int) -> Heard | None:
    """Return the nodes heard in a stream's newest interval, where they were too few of a kind for a test."""
    if here is None or here.start != latest or (last is not None and here.start <= last.start):
        return None
    return here if here.too_few(nodes_min) else None


def _untested(state: str | None, few: Heard, nodes_min: int) -> dict[str, Any]:
    return {"state": state if state in {"drifts", "left"} else "too few", "reason": few.in_words(nodes_min)}


def _row(stream: StreamRow, last: Drift, alerts: Sequence[Alert], cohort_newest: int) -> dict[str, Any]:
    episode = None if stream.episode is None else Episode.model_validate_json(stream.episode)
    lasts = active_alarms.lasts(episode, newest=last.start, seconds=last.seconds, cohort_newest=cohort_newest)
    mine = [one for one in alerts if stream_name(one) == stream_name(last)]
    named, kind = (mine[-1].signals, mine[-1].alarm_kind) if episode is not None and mine else ((), None)
    return {
        "model": last.model,
        "version": last.version,
        "cohort": last.cohort,
        "about": last.about or SIGNALS,
        "state": "drifts" if lasts else "left" if episode is not None else "calibrates" if last.gathering else "quiet",
        "reason": None,
        "alarm": lasts,
        "since": iso(episode.since) if episode is not None else None,
        "signals": [signal_row(one, kind, next((now for now in last.signals if now.name == one.name), None)) for one in named],
        "evidence": last.evidence,
        "evidence_needed": last.evidence_needed,
        "newest": iso(last.start),
        "newest_at": last.start,
        "windows": last.windows,
        "tested_signals": len(last.signals),
    }


def _never_tested(name: active_alarms.StreamName, heard: Heard) -> dict[str, Any]:
    """Return the row of a release that enough nodes of a cohort serve, but too few of each kind."""
    model, version, cohort, about = name
    found: dict[str, Any] = {"model": model, "version": version, "cohort": cohort, "about": about or SIGNALS, "alarm": False, "signals": []}
    found |= dict.fromkeys(("state", "since", "evidence", "evidence_needed"))
    return found | {"newest": iso(heard.start), "newest_at": heard.start, "windows": heard.nodes, "tested_signals": 0}


def stream_name(one: Alert | Drift) -> tuple[Any, ...]:
    """Return what names the stream of a test or of an alert."""
    return one.model, one.version, one.cohort, one.about or SIGNALS


def signal_row(found: SignalDrift, alarm_kind: str | None, now: SignalDrift | None) -> dict[str, Any]:
    """Return how far a signal had moved by its alert, and how far in the newest interval."""
    moved = drift_core.moved(found, alarm_kind)
    value, low, high, unit = moved.size or (found.size, None, None, None)  # An earlier hub's size is in its own unit, without an interval.
    return {
        "name": found.name,
        "direction": moved.direction,
        "size": round(value, 4),
        "size_low": None if low is None else round(low, 4),
        "size_high": None if high is None else round(high, 4),
        "size_unit": unit,
        "size_newest": None if now is None else round(now.size, 4),
        "size_newest_unit": None if now is None else now.size_unit,
        "p_adjusted": found.p_adjusted,
        "evidence": found.evidence,
    }


def known_streams(findings: Findings, releases: Releases, model: str | None, cohort: str | None) -> Iterator[tuple[StreamRow, Manifest]]:
    """Yield the streams that were tested or heard, each with its release; those of another hub's time are left out."""
    for stream in [*findings.streams(model, cohort), *findings.begun(model, cohort)]:
        try:
            yield stream, releases.of_stream(stream.release)[1]
        except Refused:
            continue

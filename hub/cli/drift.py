"""`fleetcast drift`: what drifts, where, since when and how far; `explain` shows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hub.cli.drift_explain import explain
from hub.cli.drift_story import known_streams
from hub.cli.errors import Ended, Exit
from hub.cli.options import check_model, dir_option, json_option, open_store, show
from hub.cli.time_arguments import MOMENT, iso
from hub.core.drift import accuracy, shift_size
from hub.core.drift import interval_significance as drift_core
from hub.core.drift.episodes import Episode
from hub.core.rollouts import active_alarms
from hub.core.rollouts.gate_summary import Heard
from hub.database.drift_queries import Findings
from hub.database.rows import StreamRow
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert, Drift, SignalDrift

SIGNALS_SHOWN = 4  # in a line of the table; all are in --json
SIGNALS = "signals"  # what a stream is about that is not about accuracy
HISTORY_COLUMNS = ["model", "version", "cohort", "about", "state", "since", "found", "over", "signals"]
COLUMNS = ["model", "version", "cohort", "about", "state", "since", "signals", "evidence", "newest", "windows"]


@click.group(invoke_without_command=True)
@click.option("--model", help="Show only this model.")
@click.option("--cohort", help="Show only this cohort.")
@click.option("--since", type=MOMENT, help="Show every drift that was found or lasted since then, even if it is over.")
@dir_option
@json_option
@click.pass_context
def drift(ctx: click.Context, model: str | None, cohort: str | None, since: int | None, directory: Path, as_json: bool) -> None:
    """Show what drifts, where, since when, and how far.

    Each release and cohort has a line, and one more for its accuracy where sites report right and wrong answers. The command ends with 11
    when an alarm lasts, otherwise with 0. A release is not tested while its nodes gather their own baselines. Cohorts with too few nodes
    are not tested; the line shows how many nodes there are.

    \b
    Examples:
      fleetcast drift
      fleetcast drift --model delay --since 7d --json
      fleetcast drift explain delay --cohort nyc --png drift.png
    """
    if ctx.invoked_subcommand is not None:
        return
    repository = Repository(directory / "trust")
    if model is not None:
        check_model(repository, model)
    findings = Findings(open_store(directory).database)
    releases = Releases(repository, BlockStore(directory / "blocks"))
    rows = _standing(findings, releases, model, cohort, nodes_min=load(directory).cohort_nodes_min)
    lasting = any(row["alarm"] for row in rows)
    if since is not None:
        rows = _history(findings, rows, model, cohort, since)
    table = [{**row, **_for_people(row)} for row in rows]
    show(
        rows if as_json else table,
        COLUMNS if since is None else HISTORY_COLUMNS,
        as_json=as_json,
        empty="Nothing drifts." if since else "No interval has been tested yet.",
    )
    if lasting:
        raise Ended(Exit.DRIFTS, "an alarm lasts", printed=True)


drift.add_command(explain)


def _standing(findings: Findings, releases: Releases, model: str | None, cohort: str | None, *, nodes_min: int) -> list[dict[str, Any]]:
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
    mine = [one for one in alerts if _stream(one) == _stream(last)]
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
        "signals": [_signal(one, kind, next((now for now in last.signals if now.name == one.name), None)) for one in named],
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


def _history(
    findings: Findings, standing_rows: Sequence[dict[str, Any]], model: str | None, cohort: str | None, since: int
) -> list[dict[str, Any]]:
    """Return every episode that was found or lasted at `since` or later, the newest first."""
    states: dict[tuple[Any, ...], dict[str, Any]] = {
        (row["model"], row["version"], row["cohort"], row["about"]): row for row in standing_rows
    }
    rows = []
    for one in active_alarms.reported_alarms(findings.alerts(model)):
        alert = one.raised
        began = alert.since if alert.since is not None else alert.at
        row = states.get(_stream(alert))
        if row is not None and (one.over_at is not None or row["since"] != iso(alert.since)):
            row = None  # another episode of the stream lasts, or none
        if (cohort not in {None, alert.cohort}) or (row is None and max(began, one.over_at or 0) < since):
            continue
        rows.append(
            {
                "model": alert.model,
                "version": alert.version,
                "cohort": alert.cohort,
                "about": alert.about or SIGNALS,
                "state": row["state"] if row is not None else "over",
                "alarm": row is not None and bool(row["alarm"]),
                "since": iso(began),
                "since_at": began,
                "found": iso(alert.at),
                "over": iso(one.over_at),
                "kind": alert.alarm_kind,
                "signals": [_signal(signal, alert.alarm_kind, None) for signal in alert.signals],
                "text": alert.text,
            }
        )
    return sorted(rows, key=lambda row: -row["since_at"])


def _stream(one: Alert | Drift) -> tuple[Any, ...]:
    return one.model, one.version, one.cohort, one.about or SIGNALS


def _signal(found: SignalDrift, alarm_kind: str | None, now: SignalDrift | None) -> dict[str, Any]:
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


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    signals = [_signal_for_people(one) for one in row["signals"]]
    more = [f"and {len(signals) - SIGNALS_SHOWN} more"] if len(signals) > SIGNALS_SHOWN else []
    found: dict[str, Any] = {"signals": [*signals[:SIGNALS_SHOWN], *more]}
    if row.get("reason"):
        found["state"] = f"{row['state']}: {row['reason']}"
    found |= {name: _short(row[name]) for name in ("since", "newest", "found", "over") if name in row}
    if row.get("evidence") is not None and row.get("evidence_needed") is not None:
        found["evidence"] = f"{row['evidence']:.1f} of {row['evidence_needed']:.1f}"
    return found


def _signal_for_people(one: dict[str, Any]) -> str:
    way = f"{one['name']} {'changed shape' if one['direction'] == 'shape' else one['direction']}"
    if one["size_unit"] is None:
        return way
    comma = "," if one["direction"] == "shape" else ""
    return f"{way}{comma} {shift_size.in_short(one['size'], one['size_low'], one['size_high'], one['size_unit'])}"


def _short(moment: str | None) -> str | None:
    return None if moment is None else moment.removesuffix("Z").replace("T", " ").removesuffix(":00")

"""`fleetcast drift`: what drifts, where, since when and how far; `explain` shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import list_options
from hub.cli.drift_explain import explain
from hub.cli.errors import Ended, Exit
from hub.cli.options import check_model, dir_option, json_option, open_store, show
from hub.cli.time_arguments import MOMENT, iso
from hub.core.drift import shift_size
from hub.core.rollouts import active_alarms
from hub.database.drift_queries import Findings
from hub.operations.drift_rows import SIGNALS, drift_rows, signal_row, stream_name
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository

SIGNALS_SHOWN = 4  # in a line of the table; all are in --json
HISTORY_COLUMNS = ["model", "version", "cohort", "about", "state", "since", "found", "over", "signals"]
COLUMNS = ["model", "version", "cohort", "about", "state", "since", "signals", "evidence", "newest", "windows"]


@click.group(invoke_without_command=True)
@click.option("--model", help="Show only this model.")
@click.option("--cohort", help="Show only this cohort.")
@click.option("--since", type=MOMENT, help="Show every drift that was found or lasted since then, even if it is over.")
@dir_option
@json_option
@list_options()
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
    rows = drift_rows(findings, releases, model, cohort, nodes_min=load(directory).cohort_nodes_min)
    lasting = any(row["alarm"] for row in rows)
    if since is not None:
        rows = _history(findings, rows, model, cohort, since)
    table = [{**row, **_for_people(row)} for row in rows]
    show(
        rows,
        COLUMNS if since is None else HISTORY_COLUMNS,
        as_json=as_json,
        empty="Nothing drifts." if since else "No interval has been tested yet.",
        in_words=table,
    )
    if lasting:
        raise Ended(Exit.DRIFTS, "an alarm lasts", printed=True)


drift.add_command(explain)


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
        row = states.get(stream_name(alert))
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
                "signals": [signal_row(signal, alert.alarm_kind, None) for signal in alert.signals],
                "text": alert.text,
            }
        )
    return sorted(rows, key=lambda row: -row["since_at"])


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

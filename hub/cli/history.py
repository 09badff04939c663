"""`fleetcast history`: changes of the fleet with their actors, the newest first."""

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import choice, list_options
from hub.cli.options import dir_option, json_option, open_store, opened, show
from hub.cli.remote import remote
from hub.cli.time_arguments import MOMENT, iso
from hub.database.rows import EventRow

READ_MAX = 100_000  # the database keeps no more events


@click.command()
@click.option("--model", default=None, help="Show only changes of this model.")
@click.option("--node", default=None, help="Show only changes of this node.")
@click.option("--since", type=MOMENT, default=None, help="Show only changes since then: 2026-11-26, 2026-11-26T11:20, or 24h, 7d, 2w ago.")
@click.option("--limit", type=click.IntRange(1, READ_MAX), default=100, show_default=True, help="Number of changes to show.")
@click.option("--blueprint", "of_blueprint", is_flag=True, help="Show the revisions of the blueprint that were applied.")
@dir_option
@json_option
@list_options()
def history(model: str | None, node: str | None, since: int | None, limit: int, of_blueprint: bool, directory: Path, as_json: bool) -> None:
    """Show the changes of the fleet, each with its actor.

    The newest comes first. Shown are releases, rollouts, enrolments, certificates, blueprints, and devices that were forgotten or replaced.

    With --blueprint: the revisions of the blueprint. `fleetcast apply --revision N` goes back to one.

    A column `why` has the reasons that people have given, where there is one.

    The actor is the name that was given by --actor, else the system user's. It is `hub` where the hub went on by itself.

    \b
    Examples:
      fleetcast history
      fleetcast history --model delay --since 7d
      fleetcast history --node gateway-17 --json
      fleetcast history --blueprint
    """
    if (hub := remote()) is not None:
        if of_blueprint:
            _check_alone(model, node, since)
            _show_revisions(list(islice(hub.blueprint_revisions(), limit)), as_json=as_json)
            return
        seen = islice(hub.audit(model=model, node=node, since=since), limit)
        asked = [{**row, "at": iso(int(datetime.fromisoformat(row["at"]).timestamp()))} for row in seen]
        _show_changes(asked, as_json=as_json)
        return
    if of_blueprint:
        _check_alone(model, node, since)
        from hub.operations.blueprint import revision_rows  # noqa: PLC0415  # with SQLAlchemy, which --help does without

        _show_revisions(revision_rows(opened(directory), limit), as_json=as_json)
        return
    found = open_store(directory).changes(since=since, limit=READ_MAX)
    rows = [_row(one) for one in found if (model is None or one.body.get("model") == model) and (node is None or node in _nodes(one))]
    _show_changes(choice().arranged(rows)[:limit], as_json=as_json)


def _show_changes(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print changes; with a column for what people have given as their reason, where one has."""
    columns = ["at", "actor", "kind", "what", *(["why"] if any(row.get("why") for row in rows) else [])]
    show(rows, columns, as_json=as_json, empty="Nothing was changed.")


def _check_alone(*chosen: object) -> None:
    if any(one is not None for one in chosen):
        raise click.UsageError("--blueprint lists revisions: leave --model, --node and --since out")


def _show_revisions(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    columns = ["revision", "at", "actor", "state", "changes", "what"]
    show(rows, columns, as_json=as_json, empty="No blueprint was applied.")


def _nodes(event: EventRow) -> tuple[Any, ...]:
    return event.body.get("node"), event.body.get("name"), *event.body.get("nodes", ())


def _row(event: EventRow) -> dict[str, Any]:
    named = {name: event.body.get(name) for name in ("model", "version", "serial", "rollout", "node", "before", "after", "reason", "why")}
    return {"id": event.id, "at": iso(event.at), "actor": event.actor, "kind": event.kind, "what": event.text, **named}

"""`fleetcast hubs`: the processes of a hub whose roles are apart, or that has others stand by."""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, hub_runs, json_option, open_store, show

if TYPE_CHECKING:
    from hub.database.members import Member

COLUMNS = ("name", "roles", "shard", "leads", "host", "pid", "seen", "since")


@click.command("hubs")
@dir_option
@json_option
def hubs(directory: Path, as_json: bool) -> None:
    """List the processes of the hub, and say which one leads.

    A hub that is one process without PostgreSQL has no list. Ends with code 3
    if no process leads or has a role that is needed, if a shard is nobody's
    or two processes', if a process has not the keys or the clock to lead, or
    has stood down for another hub.

    A process that was killed is listed for a day, or until another takes its
    place.

    \b
    Examples:
      fleetcast hubs
      fleetcast hubs --json
    """
    from hub.database.members import Members  # noqa: PLC0415  # SQLAlchemy
    from hub.database.troubles import Troubles  # noqa: PLC0415
    from hub.operations.troubles import OF_PROCESSES, lasting, no_leader, wrong_with  # noqa: PLC0415
    from hub.settings import load  # noqa: PLC0415
    from schemas.errors import Code  # noqa: PLC0415

    settings = load(directory)
    store = open_store(directory)
    try:
        if not settings.is_on_server:
            is_running = hub_runs(directory)
            said = [one.text for one in Troubles(store.database).all() if one.code in OF_PROCESSES] if is_running else []
            runs = "runs" if is_running else "does not run"
            text = f"this fleet's hub is one process, which {runs}: several need PostgreSQL (docs/scaling.md)"
            raise Ended(Exit.REFUSED, "; ".join([text, *said]))
        members = Members(store.database).all()
        live = [one for one in members if one.is_live]
        troubles = [one for one in lasting(store, live, is_on_server=True) if one.code in OF_PROCESSES]
        wrong = [text for _, text in wrong_with(live, settings, store)] if live else [no_leader(store)]
    finally:
        store.close()
    down = {one.process for one in troubles if one.code == Code.HUB_DUPLICATE}
    show([_row(one, down) for one in members], COLUMNS, as_json=as_json, empty="no process of the hub has run")
    wrong += [one.text for one in troubles]
    if wrong:
        raise Ended(Exit.REFUSED, "; ".join(wrong))


def _row(member: "Member", down: Collection[str]) -> dict[str, Any]:
    return {
        "name": member.name,
        "roles": member.roles,
        "shard": member.shard if "ingest" in member.roles else "",
        "leads": bool(member.term) and member.is_live and member.name not in down,
        "host": member.host,
        "pid": member.pid,
        "seen": "now" if member.is_live else f"{member.age:.0f} s ago",
        "since": datetime.fromtimestamp(member.since, UTC).isoformat(),
        "version": member.version,
        "term": member.term,
        "folder": member.folder,
    }

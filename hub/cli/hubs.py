"""`fleetcast hubs`: the processes of a hub whose roles are apart, or that has others stand by."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, hub_runs, json_option, open_store, show
from hub.core.roles.shards import Finding, findings, parse

if TYPE_CHECKING:
    from hub.database.members import Member

COLUMNS = ("name", "roles", "shard", "leads", "host", "pid", "seen", "since")


@click.command("hubs")
@dir_option
@json_option
def hubs(directory: Path, as_json: bool) -> None:
    """List the processes of the hub, and say which one leads.

    A hub that is one process without PostgreSQL has no list. Ends with code 3
    if a shard is nobody's, or is two processes', or none leads.

    \b
    Examples:
      fleetcast hubs
      fleetcast hubs --json
    """
    from hub.database.leadership import leader_of  # noqa: PLC0415  # SQLAlchemy
    from hub.database.members import Members  # noqa: PLC0415
    from hub.settings import load  # noqa: PLC0415

    if not load(directory).is_on_server:
        runs = "runs" if hub_runs(directory) else "does not run"
        raise Ended(Exit.REFUSED, f"this fleet's hub is one process, which {runs}: several need PostgreSQL (docs/scaling.md)")
    store = open_store(directory)
    try:
        members, leader = Members(store.database).all(), leader_of(store.database)
    finally:
        store.close()
    show([_row(one) for one in members], COLUMNS, as_json=as_json, empty="no process of the hub has run")
    wrong = [one.text for one in _findings(members)]
    if not any(one.is_live and one.term for one in members):
        last = f"; {leader.holder} did last" if leader is not None else ""
        wrong.append(f"no process leads{last}")
    if wrong:
        raise Ended(Exit.REFUSED, "; ".join(wrong))


def _row(member: "Member") -> dict[str, Any]:
    return {
        "name": member.name,
        "roles": member.roles,
        "shard": member.shard if "ingest" in member.roles else "",
        "leads": bool(member.term) and member.is_live,
        "host": member.host,
        "pid": member.pid,
        "seen": "now" if member.is_live else f"{member.age:.0f} s ago",
        "since": datetime.fromtimestamp(member.since, UTC).isoformat(),
        "version": member.version,
        "term": member.term,
    }


def _findings(members: "Sequence[Member]") -> list[Finding]:
    return findings([(one.name, parse(one.shard)) for one in members if one.is_live and "ingest" in one.roles.split(",")])

"""`fleetcast bytes` sums up what a day has cost in bytes, as the console's page of bytes does."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from fleetcast.cli.list_choice import choice, list_options
from hub.cli.options import dir_option, json_option, opened, show
from hub.cli.remote import remote
from hub.operations.byte_sums import RECEIPTS_MAX, By, begin_of, day_of, of_day, sums

COLUMNS = ["name", "nodes", "planned", "received", "reused", "wasted"]


@click.command("bytes")
@click.option("--day", metavar="DATE", help="Sum up this day of UTC, such as 2026-11-26. The default is today.")
@click.option("--by", type=click.Choice(get_args(By)), default="release", show_default=True, help="Sum up by this.")
@dir_option
@json_option
@list_options()
def bytes_paid(day: str | None, by: By, directory: Path, as_json: bool) -> None:
    """Sum up the bytes that nodes have fetched on a day.

    By their receipts, and today also by their reports. Planned = received + reused + missing. Wasted bytes (sent twice, or damaged) come on
    top.

    \b
    Examples:
      fleetcast bytes
      fleetcast bytes --day 2026-11-26 --by site
      fleetcast bytes --by node --json
    """
    now = int(time.time())
    asked = day_of(day, now)
    chosen = asked.isoformat()
    found: dict[str, Any]
    if (hub := remote()) is not None:
        found = hub.day_bytes(chosen, by)
    else:
        from hub.operations.snapshot import Snapshots  # noqa: PLC0415  # over the API it is not needed

        fleet = opened(directory)
        read = of_day(fleet.store.database, Snapshots().get(fleet).seen.nodes, day=begin_of(asked), now=now)
        found = {"day": chosen, "by": by, "is_cut": read.is_cut, "items": [asdict(one) for one in sums(read.transfers, by)]}
    rows = choice().arranged(found["items"])
    if as_json:
        click.echo(json.dumps({"day": chosen, "by": by, "is_cut": found["is_cut"], "sums": rows}, indent=2))
        return
    shown = [{**row, "name": row["name"] or f"no {by}"} for row in rows]
    show(shown, COLUMNS, as_json=False, empty=f"Nothing was fetched on {chosen}.")
    if found["is_cut"]:
        click.echo(f"The day has more than {RECEIPTS_MAX} receipts: the newest are summed up.", err=True)

"""`fleetcast-node ledger`: what releases have cost in bytes."""

import json
from datetime import date
from pathlib import Path

import click

from node.cli.options import json_option, settings_option, store_of
from node.settings import load


@click.command()
@settings_option
@json_option
def ledger(path: Path, as_json: bool) -> None:
    """Show the bytes that releases and days have cost.

    Payload bytes are counted, for each release, and for each day and class of link.

    \b
    Example:
      fleetcast-node ledger --settings node.toml
    """
    store = store_of(load(path))
    releases = [
        {
            "release": release.hex(),
            "planned": one.planned,
            "received": one.received,
            "reused": one.reused,
            "missing": one.planned - one.received - one.reused,
            "wasted": one.wasted,
        }
        for release, one in store.usages().items()
    ]
    days = [{"day": date.fromordinal(day).isoformat(), "link": link, "bytes": count} for day, link, count in store.days()]
    if as_json:
        click.echo(json.dumps({"releases": releases, "days": days}, indent=2))
        return
    for row in releases:
        text = ", ".join(f"{row[what]} {what}" for what in ("planned", "received", "reused", "missing", "wasted"))
        click.echo(f"{str(row['release'])[:12]}  {text}")
    for day in days:
        click.echo(f"{day['day']}  {day['link']:<8} {day['bytes']} bytes")
    if not releases:
        click.echo("Nothing has been fetched.")

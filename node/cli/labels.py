"""`fleetcast-node labels`: how many of a model's answers turned out to be right and wrong, for sites that learn it later."""

import json
import time
from pathlib import Path

import click
from pydantic import ValidationError

from node.cli.options import json_option, settings_option, store_of
from node.core.telemetry.accuracy import LabelCounts, invalid
from node.settings import load
from node.storage.accuracy_counts import take
from node.storage.store import NodeStore
from schemas.errors import Code, Refused


@click.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.option("--right", type=int, default=0, help="Number of answers that were right.  [default: 0]")
@click.option("--wrong", type=int, default=0, help="Number of answers that were wrong.  [default: 0]")
@click.option("--at", required=True, help="Time when the model answered: a time with its zone, or seconds since 1970.")
@click.option("--id", "report_id", help="Your own name for these counts. Counts with the same name are taken once.")
@settings_option
@json_option
def labels(model: str, right: int, wrong: int, at: str, report_id: str | None, path: Path, as_json: bool) -> None:
    """Report how many of a model's answers were right and wrong.

    Counts are added up by the interval in which the model answered. They stay on this device until the interval is sent, once and under
    noise, a day after its first counts (`labels_wait_seconds`). Without a version they belong to the release that answered then. The agent
    may run or not. Programs can use POST /v2/models/MODEL/labels instead.

    \b
    Examples:
      fleetcast-node labels delay --right 96 --wrong 4 --at 2026-03-02T00:00:00Z
      fleetcast-node labels delay@1.2.0 --wrong 3 --at 1772409600 \\
        --id "claims of 9 March" --json
    """
    settings = load(path)
    if not settings.telemetry:
        raise Refused(Code.LABELS_RELEASE, "this node sends no telemetry (`telemetry = false` in its settings)")
    name, _, version = model.partition("@")
    try:
        counts = LabelCounts(at=float(at) if at.isascii() and at.isdigit() else at, right=right, wrong=wrong, id=report_id)  # type: ignore[arg-type]
    except ValidationError as error:
        raise invalid(error) from None
    store_of(settings).close()  # it is there, and can be read
    with NodeStore.beside(settings.data / "node.sqlite") as store:
        taken = take(store, name, version or None, counts, now=int(time.time()), wait_seconds=settings.labels_wait_seconds)
    found = taken.as_json(counts)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    counted = "counted" if found["counted"] else "counted before"
    click.echo(f"{right} right and {wrong} wrong answers of {name} {found['model_version']}, {found['from']} to {found['to']}: {counted}.")
    click.echo(f"The interval is sent at {found['leaves_at']}, once and under noise; it takes more counts until then.")

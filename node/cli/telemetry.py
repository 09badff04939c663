"""`fleetcast-node telemetry`: what left this device, byte for byte, and what it spent."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli.options import json_option, settings_option, store_of
from node.core import privacy
from node.settings import load
from schemas import codec
from schemas.window import Window

DELTA = 1e-6  # at which a day's epsilon is stated


@click.group()
def telemetry() -> None:
    """What left this device, and what it spent."""


@telemetry.command()
@settings_option
@json_option
@click.option("--limit", default=20, show_default=True)
def show(path: Path, as_json: bool, limit: int) -> None:
    """Show the newest windows that left or wait to leave, byte for byte.

    \b
    Example:
      fleetcast-node telemetry show --limit 5 --json
    """
    store = store_of(load(path))
    rows: list[dict[str, Any]] = []
    for _, topic, payload, sent in store.outbox_payloads("window", limit):
        window = codec.decode(Window, payload)
        rows.append(
            {
                "topic": topic,
                "sent": sent,
                "start": datetime.fromtimestamp(window.start, UTC).isoformat(),
                "seconds": window.seconds,
                "rows_noisy": window.rows,
                "payload_hex": payload.hex(),
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['start']}  {'sent' if row['sent'] else 'waits'}  {row['topic']}  about {row['rows_noisy']} rows")
        click.echo(f"  {row['payload_hex']}")
    if not rows:
        click.echo("Nothing has left this device.")


@telemetry.command()
@settings_option
@json_option
def budget(path: Path, as_json: bool) -> None:
    """Show what the newest windows spent of the privacy budget, as zCDP rho and as epsilon.

    \b
    Example:
      fleetcast-node telemetry budget
    """
    settings = load(path)
    store = store_of(settings)
    days = sorted({privacy.day_of(start) for _, _, start, _, _, _, _ in store.windows(1000)}, reverse=True)
    rows = []
    for day in days:
        rho = store.spent([day])
        rows.append(
            {
                "day": datetime.fromtimestamp(day * 86400, UTC).date().isoformat(),
                "rho": rho,
                "rho_day_max": settings.rho_day_max,
                "epsilon_day": privacy.epsilon_of(rho, DELTA) if rho else 0.0,
                "delta": DELTA,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['day']}  rho {row['rho']:.3f} of {row['rho_day_max']}  epsilon {row['epsilon_day']:.2f} at delta {DELTA}")
    if not rows:
        click.echo("Nothing has been spent.")

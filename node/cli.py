"""What a person at the device can ask: run the node, see what telemetry left it. Knows no decision."""

import json
import logging
import signal
import sys
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

import click
import structlog

from node.carried import Carried
from node.core import privacy
from node.settings import NodeSettings, load
from node.store import NodeStore
from schemas import codec
from schemas.errors import Code, Refused
from schemas.window import Window

DELTA = 1e-6  # at which a day's epsilon is stated


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Serve models that a fleet's hub casts to this device.

    \b
    Examples:
      fleetcast-node run --settings /etc/fleetcast/node.toml
      fleetcast-node telemetry show --settings /etc/fleetcast/node.toml
    """


settings_option = click.option(
    "--settings", "path", type=click.Path(path_type=Path), default="node.toml", show_default=True, envvar="FLEETCAST_NODE_SETTINGS"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@command.command()
@settings_option
def run(path: Path) -> None:
    """Run the node until SIGTERM or SIGINT.

    \b
    Example:
      fleetcast-node run --settings node.toml
    """
    from node.agent.loop import Agent, pinned_root  # noqa: PLC0415  # half a second of imports that --help does not need

    settings = load(path)
    _log_to_stderr()
    Agent(settings, pinned_root=pinned_root(settings), wall=time.time, monotonic=time.monotonic, rng=Random()).run(_until_told())


@command.command(name="import")
@settings_option
@json_option
@click.argument("parcel", type=click.Path(path_type=Path, dir_okay=False))
def import_(path: Path, parcel: Path, as_json: bool) -> None:
    """Take a release that was carried here in a file, from `fleetcast export`.

    The file is checked and unpacked; the node that runs here takes it within a second, else when it next starts. What it believes of it is
    what it would believe of a broker: the fleet's signatures.

    \b
    Example:
      fleetcast-node import /media/usb/delay.parcel --settings /etc/fleetcast/node.toml
    """
    settings = load(path)
    found = Carried(settings.data / "carried").unpack(parcel, fleet=settings.fleet)
    if found.node is not None and found.node != settings.id:
        click.echo(f"warning: {parcel} holds only what {found.node} lacks; this is {settings.id}, which may lack more", err=True)
    row = {"model": found.model, "version": found.version, "release": found.release.hex(), "blocks": found.blocks, "bytes": found.bytes}
    if as_json:
        click.echo(json.dumps(row))
    else:
        click.echo(f"{found.model}@{found.version}: {found.blocks} blocks, {found.bytes} bytes")


@command.command()
@settings_option
@json_option
def ledger(path: Path, as_json: bool) -> None:
    """Show what releases have cost, and what came on which day over which class of link, in payload bytes.

    \b
    Example:
      fleetcast-node ledger --settings node.toml
    """
    store = _open(load(path))
    releases = [
        {
            "release": release.hex(),
            "planned": one.planned,
            "received": one.received,
            "reused": one.reused,
            "missing": one.planned - one.received - one.reused,
            "wasted": one.wasted,
        }
        for release, one in store.ledgers().items()
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


@command.command()
@click.option(
    "--settings", "path", type=click.Path(path_type=Path), default="relay.toml", show_default=True, envvar="FLEETCAST_RELAY_SETTINGS"
)
def relay(path: Path) -> None:
    """Fetch each block once over a site's uplink and serve the site's own broker, until SIGTERM or SIGINT.

    \b
    Example:
      fleetcast-node relay --settings /etc/fleetcast/relay.toml
    """
    from node.relay.loop import Relay  # noqa: PLC0415  # imports that --help does not need
    from node.relay.settings import load as load_relay  # noqa: PLC0415

    settings = load_relay(path)
    _log_to_stderr()
    Relay(settings, monotonic=time.monotonic, rng=Random()).run(_until_told())


@command.group()
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
    store = _open(load(path))
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
    store = _open(settings)
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


def _until_told() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    # Every write and every hash lets go of the interpreter; the default 5 ms until it comes back would cost half the rate of a transfer.
    sys.setswitchinterval(0.0005)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _open(settings: NodeSettings) -> NodeStore:
    path = settings.data / "node.sqlite"
    if not path.exists():
        raise Refused(Code.SETTINGS_INVALID, f"{path} does not exist: this node has not run yet")
    return NodeStore(path)


def _log_to_stderr() -> None:
    """Facts as JSON, a line each."""
    logging.basicConfig(level=logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

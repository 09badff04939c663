"""`fleetcast-node telemetry`: what left this device, byte for byte and decoded, what it spent, and what was kept back."""

import json
from pathlib import Path

import click

from fleetcast.counted import counted
from node.cli.options import json_option, settings_option, store_of
from node.settings import load
from node.storage import telemetry_report
from node.storage.inventory import manifest_at
from node.storage.store import TELEMETRY_OFF, NodeStore
from schemas.manifest import Manifest


@click.group()
def telemetry() -> None:
    """Show what telemetry has left this device.

    It also shows the privacy budget, and what stays here.
    """


@telemetry.command()
@settings_option
@json_option
@click.option("--limit", default=20, show_default=True, help="Number of windows to show.")
def show(path: Path, as_json: bool, limit: int) -> None:
    """Show the newest windows that were sent or wait, in bytes and decoded.

    \b
    Example:
      fleetcast-node telemetry show --limit 5 --json
    """
    settings = load(path)
    store = store_of(settings)

    def read(digest: bytes) -> Manifest | None:
        return manifest_at(settings.data / "artifacts" / digest.hex() / "manifest.msgpack", digest)

    found = list(telemetry_report.windows(store, telemetry_report.released(store, read), limit=limit))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for row in found:
        of = f", of {row['windows']} windows" if row["windows"] > 1 else ""
        own = f", against an own baseline of {counted(row['own_baseline_rows'], 'row')}" if row["own_baseline_rows"] else ""
        rows = "rows" if row["about"] == "signals" else "answers known to be right or wrong"
        what = f"about {row['rows_noisy']} {rows} in {row['seconds']} s{of}{own}"
        click.echo(f"{row['start']}  {'sent' if row['sent'] else 'waits'}  {row['topic']}  {what}, {counted(row['bytes'], 'byte')}")
        click.echo(f"  {row['payload_hex']}")
        for one in row["signals"] or ():
            click.echo(f"  {one['name']}: {' '.join(map(str, one['counts']))}")
    if not found:
        click.echo("Nothing has left this device.")


@telemetry.command()
@settings_option
@json_option
def budget(path: Path, as_json: bool) -> None:
    """Show what each day spent of the privacy budget.

    It is given as zCDP rho, as the epsilon of a record in a window, and as the epsilon of the device in the day.

    \b
    Example:
      fleetcast-node telemetry budget
    """
    settings = load(path)
    rows = telemetry_report.spent(store_of(settings), rho_day_max=settings.rho_day_max)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        epsilons = f"epsilon {row['epsilon_record_window']:.2f} a record in a window, {row['epsilon_day']:.2f} the device in the day"
        click.echo(f"{row['day']}  rho {row['rho']:.3f} of {row['rho_day_max']}  {epsilons}, at delta {row['delta']}")
    if not rows:
        click.echo("Nothing has been spent.")


@telemetry.command()
@settings_option
@json_option
def kept(path: Path, as_json: bool) -> None:
    """Show what was withheld or waits, and rows that were not counted.

    These numbers are exact, and stay on this device.

    \b
    Example:
      fleetcast-node telemetry kept
    """
    settings = load(path)
    store = store_of(settings)
    found = {"telemetry": settings.telemetry and not store.fact(TELEMETRY_OFF), **telemetry_report.kept_back(store)}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for code, count in found["withheld_windows"].items():
        click.echo(f"{counted(count, 'window')} withheld  [{code}]")
    for row in found["labels_waiting"]:
        answers = f"{row['right']} right and {row['wrong']} wrong answers"
        click.echo(f"{row['from']}  {row['model']} {row['version']}  {answers}, which leave under noise at {row['leaves_at']}")
    for row in found["odd_rows"]:
        click.echo(f"{row['day']}  {row['model']}  {counted(row['rows'], 'row')}  [{row['code']}]")
    if found["merged_windows"] or found["dropped_windows"]:
        merged = f"{counted(found['merged_windows'], 'window')} that waited went into others"
        click.echo(f"{merged}, and {counted(found['dropped_windows'], 'window')} could go into none")
    entries = f"{found['ledger_entries']} {'entry' if found['ledger_entries'] == 1 else 'entries'}"
    click.echo(f"{counted(found['late_intervals'], 'interval')} had rows after they were closed; the ledger has {entries}")
    if not found["telemetry"]:
        why = "the hub has turned telemetry off" if settings.telemetry else "the settings have `telemetry = false`"
        click.echo(f"nothing is sent: {why}; what waits is kept until that changes")
    if found["quiet_until"]:
        click.echo(f"nothing from before {found['quiet_until']} is sent: the privacy ledger was not trustworthy")


@telemetry.command()
@settings_option
@click.confirmation_option(
    prompt="A new baseline costs as much privacy budget as one window for each day of its calibration. Forget the present one?"
)
def recalibrate(path: Path) -> None:
    """Forget the node's own baseline, and gather a new one.

    Do this after the device was moved or its sensors were changed.

    \b
    Example:
      fleetcast-node telemetry recalibrate --yes
    """
    settings = load(path)
    store_of(settings).close()  # it is there, and can be read
    store = NodeStore(settings.data / "node.sqlite")
    with store.transaction():
        store.forget_own()
    store.close()
    click.echo("Forgotten; the next windows carry counts until the calibration is over.")

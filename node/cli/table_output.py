"""How the device's commands print: rows in columns, or JSON. Plain text, because a device has no library for more."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fleetcast.cli.terminal_text import plain

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows as JSON, or some of their columns as a table."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2))
    elif not rows:
        click.echo(empty)
    else:
        cells = [[name.replace("_", " ") for name in columns], *([_cell(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
        for row in cells:
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: float | None) -> str:
    """Format bytes for people."""
    if count is None:
        return "-"
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.0f} {UNITS[power]}" if power == 0 or count >= 100 else f"{count:.1f} {UNITS[power]}"


def span(seconds: float) -> str:
    """Format a length of time for people."""
    seconds = abs(seconds)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _cell(value: Any) -> str:
    return "-" if value in (None, "") else plain(str(value))

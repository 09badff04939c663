"""Print what a command found: rows in columns, one row by its fields, or either as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from fleetcast.cli.terminal_text import plain

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Lines(list[str]):
    """Hold a value that is printed one item per line."""


def print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print cells in columns as wide as their longest one. A device has no library for more."""
    table = [heads, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(heads))]
    for row in table:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def show(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    empty: str,
    print_table: Callable[[Sequence[str], Sequence[Sequence[str]]], None] = print_columns,
) -> None:
    """Print rows as JSON, or some of their columns as a table."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2))
    elif not rows:
        click.echo(empty)
    else:
        print_table([name.replace("_", " ") for name in columns], [[_cell(row.get(name)) for name in columns] for row in rows])


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one row as JSON, or one line per field."""
    if as_json:
        click.echo(json.dumps(dict(row), indent=2))
        return
    width = max(len(name) for name in row)
    for name, value in row.items():
        label = name.replace("_", " ")
        for number, line in enumerate(value if isinstance(value, Lines) and value else [value]):
            click.echo(f"{'' if number else label:<{width}}  {_cell(line)}")


def _cell(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    return plain(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))

"""Print what a command found: rows in columns, one row by its fields, or either as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from fleetcast.cli.list_choice import choice
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
    in_words: Sequence[Mapping[str, Any]] | None = None,
    print_table: Callable[[Sequence[str], Sequence[Sequence[str]]], None] = print_columns,
) -> None:
    """Print rows as JSON, or some of their columns as a table; as the options of the command want them (`list_choice`).

    `in_words` are the same rows as a table shows them. Options look at the values that JSON has.
    """
    wanted = choice()
    words = in_words or rows
    found = wanted.arrange([{**said, **row} for said, row in zip(words, rows, strict=True)], columns)
    names = list(wanted.columns or columns)
    if as_json:
        chosen = [{name: rows[at].get(name, words[at].get(name)) for name in wanted.columns or rows[at]} for at in found]
        click.echo(json.dumps(chosen, indent=2))
    elif not rows:
        click.echo(empty)
    elif not found:
        click.echo("No row matches --where.")
    else:
        cells = [[_cell(words[at].get(name, rows[at].get(name))) for name in names] for at in found]
        print_table([name.replace("_", " ") for name in names], cells)


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

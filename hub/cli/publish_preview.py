"""Show what `fleetcast publish` found before it signs: columns and what counts them, outputs, three answers, and warnings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from fleetcast.cli.table_output import print_columns
from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Ended, Exit
from hub.cli.progress import Reporter
from hub.core.publish.preview import Preview

WIDTH = 80
GAP = 2  # Spaces between columns, as table_output prints them.
CELL_MIN = 6
ROWS_MAX = 40  # A table of hundreds of columns would push all else off the screen.


def as_fields(preview: Preview) -> dict[str, Any]:
    """Return what scripts read."""
    return {
        "columns": [asdict(one) for one in preview.columns],
        "outputs": [asdict(one) for one in preview.outputs],
        "answers": [dict(one) for one in preview.answers],
        "golden_inputs": preview.golden,
        "warnings": list(preview.warnings),
    }


def confirming(tell: Reporter, release: str, *, asks: bool, as_json: bool) -> Callable[[Preview], None]:
    """Return what shows a preview, and at a terminal asks whether to go on."""

    def confirm(preview: Preview) -> None:
        if as_json:
            return
        with tell.paused():
            show_preview(preview)
            if asks and not click.confirm(f"Publish {release}?", err=True):
                raise Ended(Exit.REFUSED, f"{release} is not published, as you answered")

    return confirm


def show_preview(preview: Preview) -> None:
    """Print the tables within 80 columns, and the warnings to stderr."""
    _table(["column", "input", "feature", "range", "watched as"], [list(asdict(one).values()) for one in preview.columns])
    _table(["output", "datatype", "shape", "watched as"], [list(asdict(one).values()) for one in preview.outputs])
    if preview.answers:
        heads = list(preview.answers[0])
        _table(["row", *heads], [[str(number), *_cells(one, heads)] for number, one in enumerate(preview.answers, start=1)])
    for warning in preview.warnings:
        click.echo(f"warning: {plain(warning)}", err=True)


def _cells(row: Mapping[str, str], heads: Sequence[str]) -> list[str]:
    return [row.get(name, "-") for name in heads]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    shown = [[plain(cell) for cell in row] for row in rows[:ROWS_MAX]]
    widths = _widths([[len(cell) for cell in row] for row in ([*heads], *shown)])
    print_columns(
        [_clipped(one, width) for one, width in zip(heads, widths, strict=True)], [list(map(_clipped, row, widths)) for row in shown]
    )
    if len(rows) > len(shown):
        click.echo(f"... and {len(rows) - len(shown)} more; --json lists all")
    click.echo()


def _widths(lengths: Sequence[Sequence[int]]) -> list[int]:
    """Return widths that fit, the widest columns clipped first."""
    widths = [max(column) for column in zip(*lengths, strict=True)]
    while sum(widths) + GAP * (len(widths) - 1) > WIDTH and max(widths) > CELL_MIN:
        widths[widths.index(max(widths))] -= 1
    return widths


def _clipped(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: max(0, width - 2)] + ".."

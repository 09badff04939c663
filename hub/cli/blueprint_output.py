"""Print what applying a blueprint would change, what it costs, and whom it moves."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from schemas.errors import Code, Refused
from schemas.limits import BLUEPRINT_BYTES_MAX

if TYPE_CHECKING:
    from hub.core.blueprint.reading import Written
    from hub.operations.blueprint import Plan
    from hub.operations.opened_fleet import OpenedFleet

T = TypeVar("T")
MISTAKES_SHOWN = 20
CHANGES_SHOWN = 200
SIGNS = {"add_deployment": "+", "remove_deployment": "-"}


def written(path: Path) -> "Written":
    """Read a blueprint from its file; `-` is the standard input.

    Raises:
        Refused: it cannot be read, or has mistakes, which are printed.
    """
    from hub.core.blueprint.reading import read  # noqa: PLC0415  # with YAML, which --help does without

    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(BLUEPRINT_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                data = file.read(BLUEPRINT_BYTES_MAX + 1)
    except OSError as error:
        mend = "; `fleetcast blueprint > fleet.yaml` writes one of what is now" if isinstance(error, FileNotFoundError) else ""
        raise Refused(Code.BLUEPRINT_INVALID, f"{path} cannot be read: {error.strerror}{mend}") from None
    return _printing(lambda: read(data, name=path.name if str(path) != "-" else "the standard input"))


def planned(fleet: "OpenedFleet", asked: "Written", **insisted: bool) -> "Plan":
    """Compare a blueprint with the fleet.

    Raises:
        Refused: it does not fit the fleet; its mistakes are printed.
    """
    from hub.operations.blueprint import Options, plan  # noqa: PLC0415

    return _printing(lambda: plan(fleet, asked, Options(**insisted)))


def _printing(run: Callable[[], T]) -> T:
    from hub.core.blueprint.reading import InvalidBlueprint  # noqa: PLC0415

    try:
        return run()
    except InvalidBlueprint as invalid:
        if len(invalid.lines) > 1:
            for line in invalid.lines[:MISTAKES_SHOWN]:
                click.echo(plain(line), err=True)
        raise


def show_plan(fleet: "OpenedFleet", found: "Plan", *, err: bool) -> None:
    """Print a plan for a person."""
    from hub.operations.blueprint import changed_by, row_of  # noqa: PLC0415

    for one, by in list(zip(found.planned, changed_by(fleet, found), strict=True))[:CHANGES_SHOWN]:
        row = row_of(one, by)
        click.echo(plain(f"{SIGNS.get(row['kind'], '~')} {row['text']}"), err=err)
        if row["changed_by"]:
            click.echo(plain(f"    changed since the blueprint by {row['changed_by']}"), err=err)
        if row["held"]:
            click.echo(plain(f"    held: {row['held']}"), err=err)
    if len(found.planned) > CHANGES_SHOWN:
        click.echo(f"... and {len(found.planned) - CHANGES_SHOWN} more; --json has all of them", err=err)
    for group in found.moved:
        has_one = group.nodes == 1
        goes = f"{counted(group.nodes, 'node')} {'goes' if has_one else 'go'} from {group.before or 'no release'} to {group.after}"
        unfit = f"; {counted(group.unfit, 'node')} cannot take it" if group.unfit else ""
        click.echo(plain(f"{group.model}: {goes}, and {'fetches' if has_one else 'fetch'} {group.bytes} bytes{unfit}"), err=err)
    for note in (*found.notes, *([found.stale] if found.stale else [])):
        click.echo(plain(f"note: {note}"), err=True)
    if found.planned:
        nodes = sum(group.nodes for group in found.moved)
        click.echo(f"{counted(len(found.planned), 'change')}, {counted(nodes, 'node')} moved, {found.bytes} bytes to fetch.", err=err)
    else:
        click.echo("There is no difference.", err=err)

"""`fleetcast apply`: make the fleet what a blueprint says, or what an earlier revision of it said."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from fleetcast.sentence_end import ended
from hub.cli.blueprint_output import difference, show_plan
from hub.cli.diff import insist_options
from hub.cli.errors import Ended, Exit
from hub.cli.options import changes_fleet, dir_option, json_option
from schemas.errors import Code, Refused, Unreachable


def _insisting(command: Any) -> Any:
    for option in reversed(insist_options):
        command = option(command)
    return command


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--revision", type=click.IntRange(1), help="Go back to this revision, as `fleetcast history --blueprint` lists them.")
@click.option("--auto-approve", is_flag=True, help="Do not ask, for a pipeline.")
@_insisting
@changes_fleet
@dir_option
@json_option
def apply(file: Path | None, revision: int | None, auto_approve: bool, directory: Path, as_json: bool, **insisted: bool) -> None:
    """Make the fleet what a blueprint says.

    What will change, what it costs and which nodes it moves is shown first, and asked once. Changes are made one after another, settings
    of nodes first, each answered by the hub before the next. To apply twice changes nothing; after a crash, apply again.

    The blueprint is kept as a new revision, with your name and the time. Without a terminal and --auto-approve nothing is changed, and the
    command ends with 2 where something differs.

    \b
    Examples:
      fleetcast apply fleet.yaml
      fleetcast apply fleet.yaml --auto-approve --actor ci
      fleetcast apply --revision 3
    """
    if (file is None) == (revision is None):
        raise click.UsageError("give a file, such as fleet.yaml, or --revision N")
    row, found = difference(directory, file=file, revision=revision, **insisted)
    show_plan(row, err=True)
    if not _is_approved(row, auto_approve):
        if as_json:
            click.echo(json.dumps({**row, "state": "not applied", "revision": None}, indent=2))
        click.echo("Nothing was changed: give --auto-approve to change it without being asked.", err=True)
        raise Ended(Exit.USAGE, "there is a difference", printed=True)
    try:
        applied, changes = found.apply(_report)
    except Unreachable as error:
        raise Unreachable(
            f"{ended(str(error))} What was changed is changed, and the hub may go on: apply again, which makes what is left"
        ) from None
    found.close()
    if as_json:
        click.echo(json.dumps({**row, "state": "applied", "revision": applied}, indent=2))
    else:
        click.echo(f"Revision {applied} is in force; {counted(changes, 'change')} made.")


def _is_approved(found: Mapping[str, Any], auto_approve: bool) -> bool:
    """Return whether to go on.

    Raises:
        Refused: nobody looks, and the file was made from an older revision than the one in force.
    """
    if found["stale"] and auto_approve:
        reason = f"{found['stale']}. Write the file anew from `fleetcast blueprint`, or set its `based_on` once you have looked"
        raise Refused(Code.REQUEST_STALE, reason)
    changes = len(found["changes"])
    if not changes or auto_approve:
        return True
    if not sys.stdin.isatty():
        return False
    click.confirm(f"Make {'this change' if changes == 1 else f'these {changes} changes'}?", abort=True, err=True)
    return True


def _report(number: int, of: int, text: str) -> None:
    click.echo(plain(f"{number} of {of}: {text}"), err=True)

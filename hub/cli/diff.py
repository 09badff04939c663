"""`fleetcast diff`: what differs between a blueprint and the fleet."""

import json
from pathlib import Path

import click

from hub.cli.blueprint_output import planned, show_plan, written
from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, json_option, opened
from schemas.errors import Code, Refused

insist_options = (
    click.option("--breaking", is_flag=True, help="Go on even if programs would not work with the release that nodes get."),
    click.option("--supersede", is_flag=True, help="Begin rollouts even if another one of the deployment is left half-way."),
    click.option("--again", is_flag=True, help="Begin rollouts once more from which nodes went back."),
)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--revision", type=click.IntRange(1), help="Compare with this revision. The default is the one in force.")
@dir_option
@json_option
def diff(file: Path | None, revision: int | None, directory: Path, as_json: bool) -> None:
    """Show what `fleetcast apply` would change, what that costs, and which nodes it moves.

    Without FILE the fleet is compared with the blueprint that was applied last: what somebody changed by hand since then is shown, with
    the name of who did. Ends with 0 where nothing differs, and with 2 where something does.

    \b
    Examples:
      fleetcast diff fleet.yaml
      fleetcast diff
      fleetcast diff --revision 3 --json
    """
    from hub.database.blueprint_rows import Blueprints  # noqa: PLC0415  # with SQLAlchemy, which --help does without
    from hub.operations.blueprint import as_row, of_revision  # noqa: PLC0415

    if file is not None and revision is not None:
        raise click.UsageError("give a file or --revision, not both")
    asked = written(file) if file is not None else None
    fleet = opened(directory)
    if asked is None:
        newest = Blueprints(fleet.store.database).newest()
        if revision is None and newest is None:
            reason = "no blueprint was applied to this fleet yet: give a file; `fleetcast blueprint > fleet.yaml` writes one of what is now"
            raise Refused(Code.BLUEPRINT_INVALID, reason)
        asked = of_revision(fleet, revision or (newest.revision if newest is not None else 0))
    found = planned(fleet, asked)
    if as_json:
        click.echo(json.dumps(as_row(fleet, found), indent=2))
    else:
        show_plan(fleet, found, err=False)
    fleet.store.close()
    if found.planned:
        raise Ended(Exit.USAGE, "there is a difference", printed=True)

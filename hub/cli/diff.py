"""`fleetcast diff`: what differs between a blueprint and the fleet."""

import json
from pathlib import Path

import click

from hub.cli.blueprint_output import difference, show_plan
from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, json_option

insist_options = (
    click.option("--breaking", is_flag=True, help="Go on even if programs would not work with the release that nodes get."),
    click.option("--supersede", is_flag=True, help="Begin rollouts, pin and remove even if a rollout of the deployment is left half-way."),
    click.option("--again", is_flag=True, help="Begin rollouts once more from which nodes went back."),
)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--revision", type=click.IntRange(1), help="Compare with this revision. The default is the one in force.")
@dir_option
@json_option
def diff(file: Path | None, revision: int | None, directory: Path, as_json: bool) -> None:
    """Show what `fleetcast apply` would change, and what that costs.

    Shown are the nodes that it moves, too.

    Without FILE the fleet is compared with the blueprint that was applied last: what somebody changed by hand since then is shown, with
    the name of that person. Ends with 0 where nothing differs, and with 2 where something does.

    \b
    Examples:
      fleetcast diff fleet.yaml
      fleetcast diff
      fleetcast diff --revision 3 --json
    """
    if file is not None and revision is not None:
        raise click.UsageError("give a file or --revision, not both")
    found, opener = difference(directory, file=file, revision=revision)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show_plan(found, err=False)
    opener.close()
    if found["changes"]:
        raise Ended(Exit.USAGE, "there is a difference", printed=True)

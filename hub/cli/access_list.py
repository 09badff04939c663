"""`fleetcast access-list`: the broker's access lists of a fleet, as this version needs them."""

from pathlib import Path

import click

from hub.cli.options import dir_option
from hub.service.broker import access_lists
from hub.settings import load
from schemas.errors import Code, Refused
from schemas.topics import access_list as of_nodes
from schemas.topics import consumer_access_list


@click.command(name="access-list")
@click.option("--consumers", is_flag=True, help="Print the list of the consumers' listener instead of that of hub and nodes.")
@click.option("--bridge", "bridges", multiple=True, metavar="NAME", help="Let a site's bridge in, by its certificate's CN. Repeatable.")
@click.option("--process", "processes", multiple=True, metavar="NAME", help="Let a further process of the hub in, by its CN. Repeatable.")
@click.option("--check", is_flag=True, help="Print nothing, and end with code 3 if a list in the fleet's folder lacks a rule.")
@click.option("--write", is_flag=True, help="Write both lists to the fleet's folder instead of printing one.")
@dir_option
def access_list(consumers: bool, bridges: tuple[str, ...], processes: tuple[str, ...], check: bool, write: bool, directory: Path) -> None:
    """Print the access list of the fleet's broker, for mosquitto.

    A list that an earlier version made does not know topics of later ones: mosquitto then keeps their messages from nodes without a word.
    After an upgrade write the lists again, give them to mosquitto, and have it reload them (SIGHUP).

    \b
    Examples:
      fleetcast access-list > /etc/mosquitto/acl
      fleetcast access-list --check
      fleetcast access-list --write --bridge site-7
      fleetcast access-list --write --process hub-ingest-1-of-2
    """
    if check + write + consumers > 1 or (consumers and (bridges or processes)):
        raise click.UsageError("give only one of --consumers, --check and --write; bridges and processes are in the list of hub and nodes")
    fleet = load(directory).fleet
    if check:
        if rules := access_lists.missing(directory, fleet):
            raise Refused(Code.SETTINGS_INVALID, access_lists.in_words(rules))
    elif write:
        folder = directory / access_lists.FOLDER
        folder.mkdir(exist_ok=True)
        for name, text in (
            (access_lists.NODES, of_nodes(fleet, bridges, processes)),
            (access_lists.CONSUMERS, consumer_access_list(fleet)),
        ):
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o644)  # the broker's user reads it
            click.echo(str(folder / name))
    else:
        click.echo(consumer_access_list(fleet) if consumers else of_nodes(fleet, bridges, processes), nl=False)

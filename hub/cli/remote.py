"""Do over a hub's API what a command does on the fleet's folder: `fleetcast --hub URL`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.terminal_text import plain

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient, Operation

META = "fleetcast.hub"
HUB_VARIABLE = "FLEETCAST_HUB"
WAIT_SECONDS = 30.0
# Commands that a hub does over its API. All others work on the fleet's folder, with its keys and its database.
COMMANDS = frozenset(
    {
        "apply",
        "blueprint",
        "bytes",
        "deploy list",
        "deploy remove",
        "deploy set",
        "diff",
        "drift",
        "drift explain",
        "enroll token",
        "history",
        "ledger",
        "models",
        "models remove",
        "nodes",
        "nodes forget",
        "nodes label",
        "nodes list",
        "nodes replace",
        "nodes set",
        "nodes settings",
        "plan",
        "publish",
        "releases",
        "releases remove",
        "rollout approve",
        "rollout back",
        "rollout halt",
        "rollout resume",
        "rollout retry",
        "rollout set",
        "rollout start",
        "rollout status",
        "status",
        "tokens list",
        "tokens make",
        "tokens revoke",
        "watch",
    }
)
NO_FLEET = frozenset({"completion", "simulate"})  # Commands that ask no hub and need no folder of a fleet.


def hub_options(command: Any) -> Any:
    """Add the options that name a hub to the whole command line."""
    for option in (
        click.option("--ca-file", metavar="FILE", help="Authority of the hub's certificate. The default is the system's."),
        click.option("--token-file", metavar="FILE", help="File whose first line is a token of the hub (`fleetcast tokens make`)."),
        click.option("--hub", "hub_url", metavar="URL", envvar=HUB_VARIABLE, help="Ask the hub at this address, instead of a folder."),
    ):
        command = option(command)
    return command


def remember(context: click.Context, hub_url: str | None, token_file: str | None, ca_file: str | None) -> None:
    """Keep which hub is meant, and refuse a command that no hub does over its API.

    Raises:
        click.UsageError: the command works on the fleet's folder.
    """
    for option, value in (("--hub", hub_url), ("--token-file", token_file), ("--ca-file", ca_file)):
        if value is not None and not value.strip():
            raise click.UsageError(f"{option} is empty, such as from a variable that is not set: give its value, or leave the option out")
    if hub_url is None:
        if token_file or ca_file:
            raise click.UsageError("--token-file and --ca-file go with --hub URL")
        return
    context.meta[META] = (hub_url, token_file, ca_file)
    verb = context.invoked_subcommand
    if verb is not None and verb not in NO_FLEET and not any(name.split()[0] == verb for name in COMMANDS):
        raise _folder_only(verb)


def check_command(context: click.Context) -> None:
    """Refuse a command of a group that no hub does over its API.

    Raises:
        click.UsageError: it works on the fleet's folder.
    """
    path = " ".join(word for word in context.command_path.split(" ")[1:] if not word.startswith("["))  # Without a group's argument.
    if META in context.find_root().meta and path not in COMMANDS:
        raise _folder_only(path)


def _folder_only(path: str) -> click.UsageError:
    mend = f"run it on the hub's machine without --hub, with --dir; {HUB_VARIABLE} must not be set there"
    return click.UsageError(f"`fleetcast {path}` needs the fleet's folder, and cannot be done over the API: {mend}")


def is_remote() -> bool:
    """Return whether this command line asks a hub."""
    context = click.get_current_context(silent=True)
    return context is not None and META in context.find_root().meta


def remote() -> "HubClient | None":
    """Return a client of the hub that this command line asks; None where it works on a folder.

    Raises:
        Refused: the address, the token or the authority cannot be used.
    """
    context = click.get_current_context(silent=True)
    given = context.find_root().meta.get(META) if context is not None else None
    if context is None or given is None:
        return None
    from hub.client.connection import Connection  # noqa: PLC0415  # with urllib3, which commands on a folder do without
    from hub.client.hub_client import HubClient  # noqa: PLC0415
    from hub.client.place import place_of  # noqa: PLC0415

    url, token_file, ca_file = given
    place = place_of(url, token_file=Path(token_file) if token_file else None, ca_file=Path(ca_file) if ca_file else None)
    return context.find_root().with_resource(HubClient(place, connection=Connection(place, is_command_line=True)))


def print_operation(operation: "Operation", *, as_json: bool, **facts: Any) -> None:
    """Print what became of what the hub was asked to do, as for a command that was queued in the folder."""
    for sentence in operation.warnings:
        click.echo(f"warning: {plain(sentence)}", err=True)
    for sentence in operation.notes:
        click.echo(f"note: {plain(sentence)}", err=True)
    print_answer(operation, as_json=as_json, **facts)


def print_answer(operation: "Operation", *, as_json: bool, **facts: Any) -> None:
    """Print the hub's answer."""
    if operation.state == "open":
        click.echo("The hub has not obeyed yet: the command stays queued.", err=True)
    state = "queued" if operation.state == "open" else "done"
    named = facts or {"kind": operation.kind, "model": operation.model}
    if as_json:
        click.echo(json.dumps({"command": operation.id, **named, "state": state, "text": operation.text}, indent=2))
    elif state == "done":
        click.echo(plain(operation.text))

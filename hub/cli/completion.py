"""`fleetcast completion`: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

from schemas.errors import Code, Refused


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for a shell.

    \b
    Examples:
      source <(fleetcast completion bash)
      fleetcast completion fish > ~/.config/fish/completions/fleetcast.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Refused(Code.SETTINGS_INVALID, f"no completion for {shell}")
    context = click.get_current_context().find_root()
    click.echo(kind(context.command, {}, "fleetcast", "_FLEETCAST_COMPLETE").source())

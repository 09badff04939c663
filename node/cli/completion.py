"""`fleetcast-node completion`: what a shell needs to complete the device's commands."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    Examples:
      source <(fleetcast-node completion bash)
      fleetcast-node completion fish \\
        > ~/.config/fish/completions/fleetcast-node.fish
    """
    click.echo(_SHELLS[shell](context.find_root().command, {}, "fleetcast-node", "_FLEETCAST_NODE_COMPLETE").source())

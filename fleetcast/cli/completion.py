"""Print what a shell needs to complete the commands of a program."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_HELP = """Print a completion script for a shell.

\b
Examples:
  source <({program} completion bash)
  {program} completion fish \\
    > ~/.config/fish/completions/{program}.fish
"""


def completion_of(program: str) -> click.Command:
    """Return the command `completion` of a program, such as `fleetcast-node`."""

    @click.command("completion", help=_HELP.format(program=program))
    @click.argument("shell", type=click.Choice(list(_SHELLS)))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        variable = f"_{program.replace('-', '_').upper()}_COMPLETE"  # click's own rule
        click.echo(_SHELLS[shell](context.find_root().command, {}, program, variable).source())

    return completion

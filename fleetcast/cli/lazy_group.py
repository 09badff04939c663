"""A click group that imports a command's module when the command is called, and not to list it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from fleetcast.cli.errors import reader


class Verb(NamedTuple):
    """Describe a command that is not imported yet."""

    place: str  # `module:name` below the group's package
    help: str  # the first sentence of the command's own help
    package: str | None = None  # another package than the group's


class LazyGroup(click.Group):
    """List its commands from a table; a command's libraries may take a second to import. A reader that has gone is `ReaderGone`."""

    def __init__(
        self,
        *args: Any,
        package: str,
        verbs: Mapping[str, Verb],
        complete: Callable[[click.Command], click.Command] = lambda command: command,
        **extra: Any,
    ) -> None:
        super().__init__(*args, **extra)
        self.package, self.verbs, self._complete = package, verbs, complete

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line; this prints --help."""
        with reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with reader():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which --help lists them."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when no command has this name."""
        if cmd_name not in self.verbs:
            return None
        verb = self.verbs[cmd_name]
        module, _, name = verb.place.partition(":")
        found: click.Command = getattr(import_module(f"{verb.package or self.package}.{module}"), name)
        return self._complete(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with what was typed, for a shell; for an option, the group's own options."""
        names = [CompletionItem(name, help=verb.help) for name, verb in self.verbs.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

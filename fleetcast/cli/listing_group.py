"""A click group that lists where no command is named: `releases delay` lists, and `releases remove delay@1.0.0` removes."""

from typing import Any

import click


class ListingGroup(click.Group):
    """Takes its own argument unless the first word that is no option is the name of a command."""

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **{"invoke_without_command": True, "subcommand_metavar": "[COMMAND [ARGS]...]", **extra})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line: with a command, all after its name is the command's own."""
        place = self._place_of_command(ctx, args)
        if place is None:
            ctx.allow_interspersed_args = True
            return super().parse_args(ctx, args)
        missing = [""] * sum(isinstance(one, click.Argument) for one in self.params)
        return super().parse_args(ctx, [*args[:place], *missing, *args[place:]])

    def _place_of_command(self, ctx: click.Context, args: list[str]) -> int | None:
        """Return where the name of a command is, if it is the first word that is neither an option nor an option's value."""
        with_value = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] != "--":
            place += 2 if args[place] in with_value else 1
        return place if place < len(args) and args[place] in self.commands else None

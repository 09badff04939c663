"""A click command whose --help lists its options in groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """List options below titles; options that no group names come last, below `Options`."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.groups = groups  # parameters' names by title

    def grouped(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """Return the visible options by their groups' titles, in the order of the groups."""
        titles = {name: title for title, names in self.groups.items() for name in names}
        found: dict[str, list[click.Option]] = {title: [] for title in (*self.groups, "Options")}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and not option.hidden:
                found[titles.get(option.name or "", "Options")].append(option)
        return {title: options for title, options in found.items() if options}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options for --help, each group below its title."""
        for title, options in self.grouped(ctx).items():
            with formatter.section(title):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx)) is not None])

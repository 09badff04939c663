"""Provide `--version`, which shows the build too."""

import click

from fleetcast.build_version import build_version


def _show(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"{context.find_root().info_name}, version {build_version()}")
        context.exit()


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show, help="Show the version and the build, and exit."
)

"""`fleetcast-node run`: the node itself, until it is told to end."""

import time
from pathlib import Path
from random import Random

import click

from node.cli.options import settings_option
from node.cli.service import log_to_stderr, until_told
from node.settings import load


@click.command()
@settings_option
def run(path: Path) -> None:
    """Run the node until SIGTERM or SIGINT.

    \b
    Example:
      fleetcast-node run --settings node.toml
    """
    from node.agent.loop import Agent, pinned_root  # noqa: PLC0415  # half a second of imports that --help does not need

    settings = load(path)
    log_to_stderr()
    Agent(settings, pinned_root=pinned_root(settings), wall=time.time, monotonic=time.monotonic, rng=Random()).run(until_told())

"""`fleetcast-node relay`: a site's relay, until SIGTERM or SIGINT."""

import time
from pathlib import Path
from random import Random

import click

from node.cli.long_running import log_to_stderr, loud, until_stopped
from node.core.trust.clock import MonotonicSeconds
from node.host.pidfile import alone


@click.command()
@click.option(
    "--settings",
    "path",
    type=click.Path(path_type=Path),
    default="relay.toml",
    show_default=True,
    envvar="FLEETCAST_RELAY_SETTINGS",
    help="File with the relay's settings.",
)
def relay(path: Path) -> None:
    """Fetch each block once for a site, and serve its broker.

    The relay fetches over the site's uplink, and runs until SIGTERM or SIGINT.

    \b
    Example:
      fleetcast-node relay --settings /etc/fleetcast/relay.toml
    """
    from node.relay.relay_loop import Relay  # noqa: PLC0415  # imports that --help does not need
    from node.relay.relay_settings import load as load_relay  # noqa: PLC0415

    settings = load_relay(path)
    log_to_stderr()
    with loud(), alone(settings.data):
        Relay(settings, monotonic=lambda: MonotonicSeconds(time.monotonic()), rng=Random()).run(until_stopped())

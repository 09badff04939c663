"""`fleetcast-node run`: the node itself, until SIGTERM or SIGINT."""

import time
from pathlib import Path
from random import Random

import click

from fleetcast.absent_modules import absent
from fleetcast.memory_trim import keep_little
from node.cli.long_running import log_to_stderr, loud, until_stopped
from node.cli.options import settings_option
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from node.host.pidfile import alone, supersede_status
from node.settings import load


@click.command()
@settings_option
def run(path: Path) -> None:
    """Run the node until SIGTERM or SIGINT.

    One data folder is one node: a second agent on the same folder is refused with exit code 6.

    Events are logged to stderr, one JSON object per line. Under systemd the node reports when it is ready, and feeds the watchdog.

    \b
    Example:
      fleetcast-node run --settings node.toml
    """
    with absent("boto3"):  # securesystemslib would load it for keys of AWS KMS, which no node signs with: 0.2 s of CPU
        from node.agent.loop import Agent  # noqa: PLC0415  # half a second of imports that --help does not need
    from node.agent.trust.pinned_root import pinned_root  # noqa: PLC0415  # It comes with the same imports.

    keep_little(arenas_max=1)  # its threads take turns anyway, and one arena has one end that is given back
    settings = load(path)
    log_to_stderr()
    root = pinned_root(settings)

    def wall() -> WallSeconds:
        return WallSeconds(time.time())

    def monotonic() -> MonotonicSeconds:
        return MonotonicSeconds(time.monotonic())

    with loud(), alone(settings.data):
        supersede_status(settings.data)
        Agent(settings, pinned_root=root, wall=wall, monotonic=monotonic, rng=Random()).run(until_stopped())

"""Every command of `fleetcast-node` under one name. Knows which there are, and nothing of what they do."""

import click

from node.cli.imports import import_
from node.cli.ledger import ledger
from node.cli.relay import relay
from node.cli.run import run
from node.cli.telemetry import telemetry


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Serve models that a fleet's hub casts to this device.

    \b
    Examples:
      fleetcast-node run --settings /etc/fleetcast/node.toml
      fleetcast-node telemetry show --settings /etc/fleetcast/node.toml
    """


for one in (run, import_, ledger, relay, telemetry):
    command.add_command(one)

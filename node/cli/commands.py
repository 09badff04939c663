"""Every command of `fleetcast-node` under one name. Knows which there are, and nothing of what they do."""

import click

from node.cli.completion import completion
from node.cli.doctor import doctor
from node.cli.imports import import_
from node.cli.ledger import ledger
from node.cli.models import models
from node.cli.relay import relay
from node.cli.run import run
from node.cli.status import status
from node.cli.telemetry import telemetry


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fleetcast")
def command() -> None:
    """Serve models that a fleet's hub casts to this device.

    \b
    Examples:
      fleetcast-node run --settings /etc/fleetcast/node.toml
      fleetcast-node status --settings /etc/fleetcast/node.toml
      fleetcast-node doctor --settings /etc/fleetcast/node.toml
      export FLEETCAST_NODE_SETTINGS=/etc/fleetcast/node.toml
      fleetcast-node telemetry show
    """


for one in (run, status, models, doctor, telemetry, ledger, import_, relay, completion):
    command.add_command(one)

"""Every command of `fleetcast-node` under one name. Knows which there are, and nothing of what they do."""

import click

from fleetcast.cli.lazy_group import LazyGroup, Verb
from fleetcast.cli.version_option import version_option

# The help is each command's own first sentence: a command is imported only when it is called.
VERBS = {
    "completion": Verb("completion:completion", "Print a completion script for a shell."),
    "doctor": Verb("doctor:doctor", "Check this node for the usual faults."),
    "enroll": Verb("enroll:enroll", "Enrol this device with a token."),
    "import": Verb("import_release:import_", "Import a release from a file of `fleetcast export`."),
    "labels": Verb("labels:labels", "Report how many of a model's answers were right and wrong."),
    "ledger": Verb("ledger:ledger", "Show the bytes that releases and days have cost."),
    "models": Verb("models:models", "List the releases on this disk."),
    "prove": Verb("prove:prove", "Activate a release here, and print the evidence."),
    "relay": Verb("relay:relay", "Fetch each block once for a site, and serve its broker."),
    "renew": Verb("enroll:renew", "Renew this device's certificate now."),
    "run": Verb("run:run", "Run the node until SIGTERM or SIGINT."),
    "status": Verb("status:status", "Show the state of this node."),
    "telemetry": Verb("telemetry:telemetry", "Show what telemetry has left this device."),
}


@click.group(cls=LazyGroup, package="node.cli", verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def command() -> None:
    """Serve models that a fleet's hub casts to this device.

    \b
    Examples:
      fleetcast-node enroll --hub https://hub.example:8443 \\
        --token ft1.K7gNU3sd....
      fleetcast-node run --settings /etc/fleetcast/node.toml
      fleetcast-node status --settings /etc/fleetcast/node.toml
      fleetcast-node doctor --settings /etc/fleetcast/node.toml
      export FLEETCAST_NODE_SETTINGS=/etc/fleetcast/node.toml
      fleetcast-node telemetry show
    """

"""The operator's commands, one file a verb. Wiring: they know the shells, and nothing knows them."""

import click

from hub.cli.completion import completion
from hub.cli.init import init
from hub.cli.nodes import nodes
from hub.cli.publish import publish
from hub.cli.releases import releases
from hub.cli.renew import renew
from hub.cli.rollout import rollout
from hub.cli.serve import serve
from hub.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fleetcast")
def command() -> None:
    """Cast models to a fleet of devices, watch what they serve, and hear when their data drifts.

    \b
    A fleet in five commands:
      fleetcast init ./plant --fleet plant --model delay
      fleetcast hub ./plant &
      export FLEETCAST_DIR=./plant
      fleetcast publish model.onnx --name delay --version 1.0.0 --reference ref.parquet
      fleetcast rollout start delay@1.0.0 --stages 10,50,100 --wait
    """


for _verb in (init, serve, publish, rollout, nodes, releases, watch, renew, completion):
    command.add_command(_verb)

"""Every command of `fleetcast-node` under one name. Knows which there are, and nothing of what they do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from node.cli.completion import completion
from node.cli.doctor import doctor
from node.cli.enroll import enroll, renew
from node.cli.errors import ReaderGone
from node.cli.import_release import import_
from node.cli.labels import labels
from node.cli.ledger import ledger
from node.cli.models import models
from node.cli.prove import prove
from node.cli.relay import relay
from node.cli.run import run
from node.cli.status import status
from node.cli.telemetry import telemetry


class _Group(click.Group):
    """A group that tells a reader who has gone apart from what goes wrong: click alone would end with 1, the doctor's word for warnings."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # prints --help
        with _read():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _read():
            return super().invoke(ctx)


@contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fleetcast")
def command() -> None:
    """Serve models that a fleet's hub casts to this device.

    \b
    Examples:
      fleetcast-node enroll --hub https://hub.example:8443 --token ft1.K7gNU3sd....
      fleetcast-node run --settings /etc/fleetcast/node.toml
      fleetcast-node status --settings /etc/fleetcast/node.toml
      fleetcast-node doctor --settings /etc/fleetcast/node.toml
      export FLEETCAST_NODE_SETTINGS=/etc/fleetcast/node.toml
      fleetcast-node telemetry show
    """


for one in (enroll, renew, run, status, models, doctor, telemetry, labels, ledger, import_, prove, relay, completion):
    command.add_command(one)

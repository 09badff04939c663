"""All commands under one name: what a shell completes and `--help` lists."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hub.cli.authority import ca
from hub.cli.check import check
from hub.cli.completion import completion
from hub.cli.drift import drift
from hub.cli.enroll import enroll
from hub.cli.errors import ReaderGone
from hub.cli.export import export
from hub.cli.export_windows import export_windows
from hub.cli.hooks import hooks
from hub.cli.init import init
from hub.cli.nodes import nodes
from hub.cli.plan import ledger, plan
from hub.cli.publish import publish
from hub.cli.releases import releases
from hub.cli.renew import renew
from hub.cli.rollout import rollout
from hub.cli.serve import serve
from hub.cli.watch import watch


class _Group(click.Group):
    """A group that tells a reader who has gone (`| head`) apart from what goes wrong; click alone would end with 1, our code for bugs."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # prints --help
        with _reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader():
            return super().invoke(ctx)


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
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


for _verb in (
    init,
    serve,
    publish,
    check,
    plan,
    rollout,
    ledger,
    nodes,
    releases,
    drift,
    export,
    export_windows,
    hooks,
    watch,
    renew,
    ca,
    enroll,
    completion,
):
    command.add_command(_verb)

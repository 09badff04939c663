"""All commands under one name: what a shell completes and `--help` lists."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from hub.cli.errors import ReaderGone

VERBS = {  # and where each stands: it is loaded when it is asked for, since the hub's libraries take most of a second
    "ca": "ca:ca",
    "check": "check:check",
    "completion": "completion:completion",
    "drift": "drift:drift",
    "enroll": "enroll:enroll",
    "export": "export:export",
    "export-windows": "export_windows:export_windows",
    "hooks": "hooks:hooks",
    "hub": "hub:serve",
    "init": "init:init",
    "ledger": "plan:ledger",
    "nodes": "nodes:nodes",
    "plan": "plan:plan",
    "publish": "publish:publish",
    "releases": "releases:releases",
    "renew": "renew:renew",
    "rollout": "rollout:rollout",
    "watch": "watch:watch",
}


class _Group(click.Group):
    """A group that tells a reader who has gone (`| head`) apart from what goes wrong; click alone would end with 1, our code for bugs."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # prints --help
        with _reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, verb = VERBS[cmd_name].partition(":")
        found: click.Command = getattr(import_module(f"hub.cli.{module}"), verb)
        return found


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

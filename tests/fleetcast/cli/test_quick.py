"""Each program imports what a command needs, and no more; what it lists is what its commands say."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from hub.cli import commands as hub_commands
from hub.cli import rollout as hub_rollout
from node.cli import commands as node_commands
from tests.hub.cli.fleets import make

HEAVY = {"cryptography", "msgpack", "numpy", "paho", "pydantic", "rich", "scipy", "securesystemslib", "sqlalchemy", "structlog", "tuf"}
PROBE = """
import sys
from {side}.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
COMMANDS = [
    *(pytest.param(hub_commands.command, name, verb.help, id=f"hub-{name}") for name, verb in hub_commands.VERBS.items()),
    *(pytest.param(hub_rollout.rollout, name, verb.help, id=f"hub-rollout-{name}") for name, verb in hub_rollout.VERBS.items()),
    *(pytest.param(node_commands.command, name, verb.help, id=f"node-{name}") for name, verb in node_commands.VERBS.items()),
]


def imported(side: str, *arguments: str) -> set[str]:
    """Run a command in a process of its own, and return the packages that it imported."""
    command = [sys.executable, "-c", PROBE.format(side=side), *arguments]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr.split())


@pytest.mark.parametrize("side", ["hub", "node"])
@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_no_heavy_library(side: str, argument: str) -> None:
    assert not imported(side, argument) & HEAVY


def test_nodes_imports_neither_sqlalchemy_nor_pydantic_settings(tmp_path: Path) -> None:
    made = make(tmp_path, "m")

    found = imported("hub", "nodes", "--dir", str(made.fleet))

    assert not found & {"sqlalchemy", "pydantic_settings", "numpy", "scipy", "tuf", "cryptography", "paho", "structlog"}


def test_halting_a_rollout_imports_no_library_of_signed_metadata(tmp_path: Path) -> None:
    made = make(tmp_path, "m")

    found = imported("hub", "rollout", "halt", "m", "--dir", str(made.fleet))

    assert "sqlalchemy" in found
    assert not found & {"tuf", "securesystemslib", "cryptography", "paho", "onnx"}


@pytest.mark.parametrize(("program", "name", "listed"), COMMANDS)
def test_the_list_of_commands_has_each_commands_first_sentence(program: click.Group, name: str, listed: str) -> None:
    found = program.get_command(click.Context(program), name)

    assert found is not None
    assert found.name == name
    assert listed == found.get_short_help_str(200)

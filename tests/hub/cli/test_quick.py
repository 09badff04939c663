"""`fleetcast` imports what a command needs, and no more; what a group lists is what its commands say."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from hub.cli.commands import VERBS, command
from tests.hub.cli.fleets import make

HEAVY = {"cryptography", "msgpack", "numpy", "paho", "pydantic", "rich", "scipy", "securesystemslib", "sqlalchemy", "structlog", "tuf"}
PROBE = """
import sys
from hub.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """Run a command in a process of its own, and return the packages that it imported."""
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stderr.split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_no_heavy_library(argument: str) -> None:
    assert not imported(argument) & HEAVY


def test_nodes_imports_neither_sqlalchemy_nor_numpy(tmp_path: Path) -> None:
    made = make(tmp_path, "m")

    assert not imported("nodes", "--dir", str(made.fleet)) & {"sqlalchemy", "numpy", "scipy", "tuf", "cryptography", "paho", "structlog"}


@pytest.mark.parametrize("name", VERBS)
def test_the_list_of_commands_has_each_commands_first_sentence(name: str) -> None:
    context = click.Context(command)
    found = command.get_command(context, name)

    assert found is not None
    assert found.name == name
    assert VERBS[name].help == found.get_short_help_str(200)

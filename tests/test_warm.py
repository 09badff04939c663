"""Commands that begin in a warm process do what the installed programs do."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import preloaded, warm


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("fleetcast", ("releases", "--json")), ("fleetcast", ("nodes", "--nonsense")), ("fleetcast-node", ("status", "--settings", "x.toml"))],
)
def test_a_warm_command_prints_and_ends_as_the_installed_one_does(
    tmp_path: Path, program: warm.Program, arguments: tuple[str, ...]
) -> None:
    asked = {**os.environ, "FLEETCAST_DIR": "nowhere"}
    cold = subprocess.run([str(warm.BIN / program), *arguments], capture_output=True, text=True, check=False, env=asked, cwd=tmp_path)

    done = warm.run(program, *arguments, env=asked, cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert done.returncode != 0


def test_a_command_reads_what_is_typed_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    fifo = tmp_path / "secret"
    os.mkfifo(fifo)

    typed = warm.run("fleetcast-node", "enroll", "--hub", "https://localhost:1", "--token", "-", typed="no token\n", cwd=tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run("fleetcast", "init", tmp_path / "fleet", "--fleet", "f", "--passphrase-file", fifo, seconds=1)

    assert typed.returncode != 0
    assert "token" in typed.stderr


def test_what_is_imported_before_a_command_leaves_its_own_modules_to_it() -> None:
    """`preloaded` is imported here so that an error in it is seen: the server process passes it over in silence."""
    program = "import sys, tests.preloaded, tests.node.agent.lives; "
    program += "print(*(name for name in sys.modules if name.startswith(('hub.cli', 'node.cli'))))"
    done = subprocess.run([warm.BIN / "python", "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
    assert preloaded.__all__

"""Commands that begin in a warm process do what the installed programs do."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import warm


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


LATE = """
import contextlib, importlib, sys
import tests.preloaded, tests.node.agent.lives
print(*(name for name in sys.modules if name.startswith(("hub.cli", "node.cli"))))
for entry, words in (("hub", "status"), ("hub", "releases"), ("node", "status --settings x.toml"), ("node", "run --settings x.toml")):
    before, sys.argv = set(sys.modules), [entry, *words.split()]
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"{entry}.__main__").main()
    print(*(name for name in sys.modules.keys() - before if not name.startswith(("hub.cli", "node.cli"))))
"""


def test_what_is_imported_before_a_command_leaves_its_own_modules_to_it(tmp_path: Path) -> None:
    """`preloaded` is imported here so that an error in it is seen: the server process passes it over in silence."""
    command = [warm.BIN / "python", "-c", LATE]
    checkout = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=checkout, capture_output=True, text=True, check=True)
    early, *late = [line.split() for line in done.stdout.splitlines()]

    assert early == []
    assert len(late) == 4
    for names in late:
        assert len(names) < 30, f"name what commands import in tests/preloaded.py: {sorted(names)}"

"""A program's own module that has the name of one of ours is named, with the mend; one that hides nothing needed does no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcast.hidden_modules import HERE


def run(folder: Path, program: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "train.py"
    script.write_text(program)
    command = [sys.executable, *options, str(script)]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("beside", "program"),
    [
        ("schemas.py", "import fleetcast; fleetcast.Refused"),
        ("hub.py", "import hub, fleetcast; fleetcast.connect('http://127.0.0.1:1', token='t')"),
    ],
)
def test_a_module_beside_the_script_that_hides_ours_is_named(beside: str, program: str, tmp_path: Path) -> None:
    (tmp_path / beside).write_text("ours = False\n")

    done = run(tmp_path, program)

    last = done.stderr.splitlines()[-1]
    assert last == (
        f"fleetcast.hidden_modules.HiddenModule: {tmp_path / beside} hides fleetcast's own package {beside[:-3]!r}: "
        f"rename {tmp_path / beside}, or run the program with `python -P`, which does not look beside the script"
    )


def test_python_that_does_not_look_beside_the_script_finds_ours(tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("ours = False\n")

    assert run(tmp_path, "import fleetcast; print(fleetcast.Refused.__name__)", "-P").stdout == "Refused\n"


def test_an_empty_folder_beside_the_script_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "schemas").mkdir()

    done = run(tmp_path, "import fleetcast; fleetcast.open('.')", PYTHONPATH=str(HERE))  # As with a wheel: ours are on the path.

    assert "there is no fleet in" in done.stderr


def test_a_module_that_is_not_needed_may_have_any_name(tmp_path: Path) -> None:
    for name in ("node.py", "hub.py", "simulation.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')\n")

    done = run(tmp_path, "import fleetcast; fleetcast.Link; fleetcast.Refused; fleetcast.Fleet; print('good')")

    assert (done.stdout, done.stderr) == ("good\n", "")


def test_ours_are_where_fleetcast_is() -> None:
    assert (HERE / "schemas" / "__init__.py").is_file()

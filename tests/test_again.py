"""`.ci/again` on small projects of its own: what a busy machine hurts passes and is named, and a defect of any kind passes never."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CONFTEST = """
import sys
sys.path.insert(0, {checkout!r})
from tests import ended

def pytest_configure(config):
    ended.follow(config)
"""
PYTEST = """#!/bin/sh
exec {python} -m pytest -p xdist -p pytest_timeout "$@"
"""
# What a busy machine hurts passes where no other process runs tests.
BEGIN = """
import os, time
import pytest
alone = "PYTEST_XDIST_WORKER" not in os.environ

def test_well(): pass
"""
HURT = """
@pytest.mark.parametrize("name", ["a", "b::c [d]"])
def test_hurt(name): assert alone
"""
FAILS = "def test_fails(): assert False\n"
SKIPS = "def test_skips(): pytest.skip('not here') if alone else pytest.fail('there')\n"
CRASHES = "def test_crashes(): alone or os._exit(9)\n"
HANGS = "@pytest.mark.timeout(1)\ndef test_hangs(): alone or time.sleep(600)\n"
NOT_COLLECTED = "import no_such_module\n"
LEAVES = "def test_leaves(): alone or pytest.exit('enough')\n"
MANY = "@pytest.mark.parametrize('number', range(11))\ndef test_many(number): assert alone\n"


def again(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    (folder / "tests").mkdir()
    (folder / "tests" / "conftest.py").write_text(CONFTEST.format(checkout=str(CHECKOUT)))
    (folder / "tests" / "test_it.py").write_text(BEGIN + test)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -q\n")
    (folder / "Makefile").write_text("test:\n\t.venv/bin/pytest -n 1\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "pytest").write_text(PYTEST.format(python=sys.executable))
    (folder / ".venv" / "bin" / "pytest").chmod(0o755)
    shutil.copy(CHECKOUT / ".ci" / "again", folder / "again")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE", "MFLAGS"))}
    asked = {**outside, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([sys.executable, "again"], cwd=folder, env=asked, capture_output=True, text=True, check=False, timeout=240)


def test_what_a_busy_machine_hurts_passes_alone_and_is_named(tmp_path: Path) -> None:
    done = again(tmp_path, HURT)

    named = done.stderr.partition("passed only when run alone:")[2]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_it.py::test_hurt[a]\ntests/test_it.py::test_hurt[b::c [d]]\n" in named
    assert "test_well" not in named


SKIPPED = """
@pytest.mark.parametrize("number", [1, 2])
def test_on_a_disk(number): pytest.skip("no disk can be mounted")

@pytest.mark.skip(reason="of another day")
def test_of_another_day(): pass
"""


def test_the_last_line_of_a_run_names_what_was_skipped_and_why(tmp_path: Path) -> None:
    done = again(tmp_path, SKIPPED)

    last = done.stdout.splitlines()[-1]
    disk, day = "2 of tests/test_it.py::test_on_a_disk (no disk can be mounted)", "tests/test_it.py::test_of_another_day (of another day)"
    assert done.returncode == 0, done.stdout + done.stderr
    assert last.startswith("skipped, 3 in all: ")
    assert disk in last
    assert day in last


def test_a_file_that_is_skipped_as_a_whole_is_named_once(tmp_path: Path) -> None:
    done = again(tmp_path, "pytest.importorskip('no_such_module', reason='needs no_such_module')\n")

    assert done.stdout.splitlines()[-1] == "skipped, 1 in all: tests/test_it.py (needs no_such_module)"


def test_where_nothing_is_skipped_the_last_line_says_so(tmp_path: Path) -> None:
    assert again(tmp_path, "").stdout.splitlines()[-1] == "skipped: nothing"


def test_where_all_pass_there_is_no_second_run(tmp_path: Path) -> None:
    done = again(tmp_path, "")

    assert (done.returncode, "alone" in done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (HURT + FAILS, "failed when run alone, too:\ntests/test_it.py::test_fails\n"),
        (SKIPS, "failed when run alone, too:\ntests/test_it.py::test_skips\n"),
        (HURT + CRASHES, "crashed: tests/test_it.py::test_crashes\n"),
        (HURT + HANGS, "timed out: tests/test_it.py::test_hangs\n"),
        (HURT + NOT_COLLECTED, "not collected: tests/test_it.py\n"),
        (HURT + LEAVES, "are not run again"),
        (MANY, "are not run again"),
    ],
    ids=["fails", "skips", "crashes", "hangs", "not collected", "leaves", "many"],
)
def test_a_defect_passes_never(tmp_path: Path, test: str, words: str) -> None:
    done = again(tmp_path, test)

    assert done.returncode == 1, done.stdout + done.stderr
    assert words in done.stderr
    assert "passed only when run alone" not in done.stderr

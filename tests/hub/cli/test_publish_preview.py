"""What `publish` shows before it signs, within 80 columns; and that it asks at a terminal, and only there."""

import json
import os
import pty
import select
import subprocess
import time

import numpy as np
import pandas as pd
import pytest

from hub.cli.errors import Exit
from hub.signing.tuf_repository import Repository
from tests.hub.cli.fleets import BIN, COLUMNS, Made, digest_of, features, make

WIDTH = 80


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet, and a reference in `r.csv` with a column that is the same in every row."""
    fleet = make(tmp_path_factory.mktemp("made"), "m")
    frame = pd.DataFrame(features())
    frame[COLUMNS[1]] = np.float32(1)
    frame.to_csv(fleet.folder / "r.csv", index=False)
    return fleet


def published(made: Made, version: str, *more: str) -> tuple[str, str]:
    done = made.run("publish", str(made.folder / "good.onnx"), "--name", "m", "--version", version, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_columns_outputs_answers_and_warnings_are_shown_within_80_columns(made: Made) -> None:
    shown, warned = published(made, "1.0.0", "--reference", str(made.folder / "r.csv"))

    lines = shown.splitlines()
    heads = [line.split() for line in lines]
    assert ["column", "input", "feature", "range", "watched", "as"] in heads
    assert ["output", "datatype", "shape", "watched", "as"] in heads
    row = next(line for line in lines if line.startswith(COLUMNS[0] + " "))
    assert row.split()[1:4] == ["X", "1", "of"]
    assert row.endswith("numeric")
    assert next(line for line in lines if line.startswith(COLUMNS[1] + " ")).endswith("not: constant")
    assert [line.split()[0] for line in lines if line[:2] in {"1 ", "2 ", "3 "}] == ["1", "2", "3"]
    assert f"unwatched         {COLUMNS[1]}" in shown
    assert f"column {COLUMNS[1]!r} has one value in every row" in warned
    assert "--columns" in warned
    tables = lines[: next(at for at, line in enumerate(lines) if line.startswith("model "))]
    assert max(map(len, tables)) <= WIDTH


def test_scripts_read_the_same_and_are_not_asked(made: Made) -> None:
    done = made.publish("1.1.0", "--reference", str(made.folder / "r.csv"), "--columns", ",".join(COLUMNS))

    said = json.loads(done.stdout)
    assert [one["column"] for one in said["columns"]] == COLUMNS
    assert said["columns"][0] | {"range": ""} == {
        "column": COLUMNS[0], "input": "X", "feature": f"1 of {len(COLUMNS)}", "range": "", "watched_as": "numeric"
    }  # fmt: skip
    assert [one["output"] for one in said["outputs"]] == ["variable"]
    assert len(said["answers"]) == 3
    assert said["golden_inputs"] == "made from the reference"
    assert [COLUMNS[1] in one for one in said["warnings"]] == [True]
    assert said["unwatched"] == [COLUMNS[1]]


def test_without_a_reference_nothing_is_called_watched(made: Made) -> None:
    shown, _ = published(made, "1.2.0")

    assert "unwatched         X, variable" in shown
    assert "not: there is no reference" in shown


@pytest.mark.parametrize(("answer", "version"), [("n\n", "2.0.0"), ("y\n", "2.1.0")])
def test_at_a_terminal_nothing_is_signed_before_the_answer(made: Made, answer: str, version: str) -> None:
    before = digest_of(made.fleet / "trust")

    code, printed = at_terminal(made, version, answer)

    assert f"Publish m {version}?" in printed
    assert "watched as" in printed
    if answer == "n\n":
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in printed.partition("[y/N]")[2]  # No bar of work that is done is drawn again.
    signed = version in Repository(made.fleet / "trust").releases("m")
    assert (signed, code) == ((True, 0) if answer == "y\n" else (False, Exit.REFUSED))
    assert (digest_of(made.fleet / "trust") == before) is not signed


def test_yes_goes_on_at_a_terminal(made: Made) -> None:
    code, printed = at_terminal(made, "2.2.0", "", "--yes")

    assert code == 0
    assert "Publish m" not in printed


def at_terminal(made: Made, version: str, answer: str, *more: str) -> tuple[int, str]:
    """Publish with a terminal of 80 columns, and type the answer once it is asked for."""
    ours, theirs = pty.openpty()
    words = [
        "publish",
        str(made.folder / "good.onnx"),
        "--name",
        "m",
        "--version",
        version,
        "--reference",
        str(made.folder / "r.csv"),
        *more,
    ]
    environment = {**os.environ, "FLEETCAST_DIR": str(made.fleet), "FLEETCAST_PASSPHRASE_FILE": str(made.secret), "COLUMNS": str(WIDTH)}
    process = subprocess.Popen([str(BIN / "fleetcast"), *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed, typed, until = "", False, time.monotonic() + 120
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # The other end is closed.
                    break
                if not data:
                    break
                printed += data.decode(errors="replace")
            if not typed and "[y/N]" in printed:
                os.write(ours, answer.encode())
                typed = True
        return process.wait(30), printed
    finally:
        process.kill()
        os.close(ours)

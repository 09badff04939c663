"""Standard streams that are closed, full or not read: the exit code says so, nothing else does, and no file takes a stream's place."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub.cli.fleets import Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("fleet"), "m")


def ended(module: str, words: list[str], streams: str) -> tuple[int, str]:
    """Run a command by a shell that redirects its streams, and return its exit code and what is on stderr."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["hub", "node"])
@pytest.mark.parametrize(("streams", "code", "word"), [(">/dev/full", 7, "No space left on device"), (">&-", 141, "Bad file descriptor")])
def test_an_output_that_takes_nothing_is_said_in_a_line(module: str, streams: str, code: int, word: str) -> None:
    found, said = ended(module, ["--help"], streams)

    assert (found, said.count("\n")) == (code, 1)
    assert f"the output could not be written whole: {word}" in said


def test_a_table_whose_reader_has_ended_is_exit_code_141_and_no_word(made: Made) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hub", "models", "--dir", str(made.fleet)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(streams: str, tmp_path: Path) -> None:
    assert ended("hub", ["models", "--dir", str(tmp_path)], streams) == (3, "")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os, sys; from fleetcast.cli import standard_streams; standard_streams.prepare(); "
        "number = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); assert number > 2, number; print('x', file=sys.stderr)"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(tmp_path / "file")]

    assert subprocess.run(command, check=False, timeout=60).returncode in {0, 120}  # 120: nothing else failed than the last flush
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.slow
def test_a_service_runs_with_all_streams_closed(made: Made) -> None:
    ready = made.fleet / "hub.ready"
    program = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "hub", "hub", str(made.fleet)]
    process = subprocess.Popen([*program, "--passphrase-file", str(made.secret)])
    try:
        while process.poll() is None and not ready.exists():
            time.sleep(0.05)
        assert json.loads(ready.read_text())["pid"] == process.pid
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()

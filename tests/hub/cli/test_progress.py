"""How far long work is, where nobody looks at a terminal."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from itertools import count

import pytest

from hub.cli.progress import SECONDS_BETWEEN, lines, progress


def test_a_log_gets_a_line_now_and_then_and_not_one_a_step() -> None:
    target, ticks = io.StringIO(), count()
    report = lines(target, lambda: float(next(ticks)))  # each look at the clock is a second

    for done in range(100):
        report("encoding model.onnx", done, 100)

    written = target.getvalue().splitlines()
    assert written[0].startswith("encoding model.onnx: ")
    assert 5 <= len(written) <= 100 / SECONDS_BETWEEN


def test_short_work_writes_nothing_into_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        report("encoding model.onnx", 0, 10)

    assert capfd.readouterr() == ("", "")


def test_work_whose_size_is_not_known_is_said_to_have_begun() -> None:
    target = io.StringIO()
    moments = iter([0.0, 10.0, 10.0])
    lines(target, lambda: next(moments))("asking the golden inputs", 0, 0)

    assert target.getvalue() == "asking the golden inputs: begun\n"


@pytest.mark.parametrize(
    ("what", "done", "total", "seconds", "words"),
    [
        ("encoding model.onnx", 50_000_000, 200_000_000, 5.0, "encoding model.onnx: 25%, 10.0 MB/s, 15 s left"),
        ("encoding model.onnx", 5_000, 200_000, 5.0, "encoding model.onnx: 2%, 1.0 kB/s, 3 min left"),
        ("running the reference", 500, 1_000_000, 5.0, "running the reference: 0%, 100 rows/s, 2.8 h left"),
        ("simulating", 250, 1000, 5.0, "simulating: 25%, 15 s left"),
        ("profiles", 1, 4, 6.0, "profiles: 25%, 0.2 profiles/s, 18 s left"),
    ],
)
def test_a_line_names_rate_and_time_left(what: str, done: int, total: int, seconds: float, words: str) -> None:
    target, now = io.StringIO(), [0.0]
    report = lines(target, lambda: now[0])
    report(what, 0, total)
    now[0] = seconds
    report(what, done, total)

    assert target.getvalue() == f"{words}\n"


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    master, slave = pty.openpty()
    program = (
        "import time\nfrom hub.cli.progress import progress\n"
        "with progress() as report:\n"
        "    for done in range(4):\n        report('encoding model.onnx', done * 10_000_000, 100_000_000); time.sleep(0.6)\n"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", program], stdout=slave, stderr=slave, check=True, env=environment, timeout=60)
    os.close(slave)
    drawn = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 65536):
            drawn += chunk
    os.close(master)

    assert b"encoding model.onnx" in drawn
    assert re.search(rb"\d\d\.\d MB/s, \d+ s left", drawn)

"""How far long work is, where nobody looks at a terminal."""

import io
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

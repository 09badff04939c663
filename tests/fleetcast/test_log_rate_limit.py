"""A log under a flood of one kind of line: the hub's, and a node's."""

import logging
import subprocess
import sys

import pytest
import structlog

from fleetcast.log_rate_limit import KINDS_MAX, LINES_MAX, SECONDS, Limit, LogLimit


def test_an_event_that_floods_is_left_out_and_others_are_written() -> None:
    now = [0.0]
    limit = LogLimit(monotonic=lambda: now[0])

    def written(event: str, number: int) -> bool:
        try:
            limit(None, "error", {"event": event, "number": number})
        except structlog.DropEvent:
            return False
        return True

    assert sum(written("broker.unreachable", number) for number in range(1000)) == LINES_MAX
    assert written("rollout.signed", 0)
    now[0] = SECONDS
    assert limit(None, "error", {"event": "broker.unreachable"}) == {"event": "broker.unreachable", "left_out": 1000 - LINES_MAX}


def test_a_librarys_line_that_floods_is_left_out_whatever_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(limit := LogLimit(monotonic=lambda: 0.0))
    try:
        for number in range(1000):
            logging.getLogger("somebody").error("connection %d failed", number)
    finally:
        caplog.handler.removeFilter(limit)

    assert len(caplog.records) == LINES_MAX


def test_a_log_takes_so_many_lines_of_a_kind_and_says_how_many_it_left_out() -> None:
    limit = Limit(lines_max=2, seconds=60.0)

    said = [limit.admit("a", now) for now in (0.0, 1.0, 2.0, 3.0)]

    assert said == [0, 0, None, None]
    assert limit.admit("b", 3.0) == 0
    assert [limit.admit("a", 60.0), limit.admit("a", 61.0)] == [2, 0]


def test_a_log_remembers_a_bounded_number_of_kinds() -> None:
    limit = Limit(lines_max=1, seconds=60.0)

    for number in range(10 * KINDS_MAX):
        limit.admit(f"kind {number}", 0.0)

    assert len(limit._kinds) == KINDS_MAX


NOISY = """
import logging, structlog
from {module} import {name}

{name}({arguments})
for number in range(1000):
    structlog.get_logger().error("broker.unreachable", number=number)
    logging.getLogger("asyncio").error("socket.accept() failed: %d", number)
"""


@pytest.mark.parametrize(("module", "name", "arguments"), [("node.cli.long_running", "log_to_stderr", ""), ("hub.cli.hub", "_log", "True")])
def test_the_logs_of_both_sides_take_a_limited_number_of_lines_of_a_kind(module: str, name: str, arguments: str) -> None:
    program = NOISY.format(module=module, name=name, arguments=arguments)
    lines = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr.splitlines()

    assert len(lines) == 2 * LINES_MAX

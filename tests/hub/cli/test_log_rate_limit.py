"""The hub's log under a flood of one kind of line."""

import logging

import pytest
import structlog

from hub.cli.log_rate_limit import LINES_MAX, SECONDS, LogLimit


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

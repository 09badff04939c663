"""Keep the hub's log from filling the disk: a limited number of lines of one kind a minute, for our own events and for libraries'."""

import logging
import threading
import time
from collections.abc import Callable

import structlog

from hub.core.floods.log_rate_limit import Limit

LINES_MAX = 120  # Lines of one kind a minute: a fleet set up by hand logs less, and far fewer show a flood.
SECONDS = 60.0


class LogLimit(logging.Filter):
    """Filter lines for structlog and `logging`; the first line after a flood says how many like it were left out."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit, self._monotonic = Limit(lines_max=LINES_MAX, seconds=SECONDS), monotonic
        self._lock = threading.Lock()

    def __call__(self, logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        """Return the event.

        Raises:
            DropEvent: too many of its kind were written of late.
        """
        left_out = self._admit(f"{method} {event.get('event')}")
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a library's line is written; its kind is its text before values are put into it."""
        left_out = self._admit(f"{record.name} {record.levelname} {str(record.msg)[:80]}")
        if left_out:
            record.msg = f"{record.msg} ({left_out} lines like this one were left out)"
        return left_out is not None

    def _admit(self, kind: str) -> int | None:
        with self._lock:
            return self._limit.admit(kind, self._monotonic())

"""Keep a log from filling the disk: a limited number of lines of one kind a minute, for our events and for libraries', on both sides."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from fleetcast.counted import counted

LINES_MAX = 120  # Lines of one kind a minute: a fleet set up by hand logs less, and far fewer show a flood.
SECONDS = 60.0
KINDS_MAX = 256  # The kind that began longest ago is forgotten first.


@dataclass(slots=True)
class _Kind:
    began: float
    written: int = 0
    left_out: int = 0


class Limit:
    """Allow at most `lines_max` lines of a kind in `seconds`; the first line after that says how many were left out. Reads no clock."""

    def __init__(self, *, lines_max: int, seconds: float) -> None:
        self._lines_max, self._seconds = lines_max, seconds
        self._kinds: OrderedDict[str, _Kind] = OrderedDict()

    def admit(self, kind: str, now: float) -> int | None:
        """Return how many lines were left out before this one; None when this one is to be left out too."""
        found = self._kinds.get(kind)
        before = 0
        if found is None or now - found.began >= self._seconds:
            before = found.left_out if found else 0
            found = self._kinds[kind] = _Kind(now)
            self._kinds.move_to_end(kind)
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        if found.written >= self._lines_max:
            found.left_out += 1
            return None
        found.written += 1
        return before


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
            record.msg = f"{record.msg} ({counted(left_out, 'line')} like this one {'was' if left_out == 1 else 'were'} left out)"
        return left_out is not None

    def _admit(self, kind: str) -> int | None:
        with self._lock:
            return self._limit.admit(kind, self._monotonic())


def limited() -> LogLimit:
    """Return one limit for a whole process: libraries' lines pass it from now on, and it is to be structlog's first processor."""
    limit = LogLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)
    return limit

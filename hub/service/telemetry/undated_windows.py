"""Keeps windows that the hub's clock cannot date yet until it can: durable and bounded.

A window that seems to be of the future is not lost for good while the clock may be wrong: while it is held after a step
(hub/core/publish/believed_time.py), all that it would refuse waits; at any other time, what is up to a day ahead, because a step of less
than a day is followed at once, and may still come.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from hub.core.publish.believed_time import STEP_SECONDS_MIN
from hub.database.connection import Database
from hub.database.undated_windows import UndatedRow, UndatedRows
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import WindowArrived
from hub.service.steady_clock import is_held
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import WINDOW_FUTURE_SECONDS_MAX

log = structlog.get_logger()

POOL_MAX: Final = 16_384  # Windows: those of ten minutes after a night, of thousands of nodes; the loudest cohort makes room for others.
AT_ONCE: Final = 1024  # Judged again in one turn.
DATES: Final = frozenset({Code.WINDOW_FUTURE, Code.WINDOW_PAST})
AHEAD_SECONDS: Final = WINDOW_FUTURE_SECONDS_MAX + int(STEP_SECONDS_MIN)


class UndatedWindows:
    """Hold them."""

    def __init__(self, database: Database, notes: Notes, *, clock: Callable[[], float]) -> None:
        self._store, self._notes, self._clock = UndatedRows(database), notes, clock
        self._counts = Counter(self._store.counts())
        self._is_held = False
        self._coming: list[WindowArrived] = []

    def look(self) -> None:
        """Look at the clock before windows are judged by it."""
        self._is_held = is_held(self._clock)

    def refused(self, event: WindowArrived, refusal: Refused) -> None:
        """Have a window wait, where only the clock is against it, until `keep`; note the refusal of any other."""
        if self._is_held and refusal.code in DATES:
            self._coming.append(event)  # The alert is about the clock.
            return
        if refusal.code == Code.WINDOW_FUTURE and event.window.start <= self._clock() + AHEAD_SECONDS:
            self._coming.append(event)
            refusal = Refused(refusal.code, f"{refusal.reason}; it waits until the hub's clock is there")
        self._notes.refusal(refusal, event.message.topic)

    def keep(self) -> None:
        """Keep the windows that are to wait: durable when this returns. Those for which there is no room are refused."""
        kept = list[tuple[str, str, int, bytes]]()
        for event in self._coming:
            if self._counts.total() >= POOL_MAX and not self._make_room(event.cohort, kept):
                self._notes.refusal(Refused(Code.WINDOW_FUTURE, "too many windows wait for the hub's clock"), event.message.topic)
                continue
            self._counts[event.cohort] += 1
            kept.append((event.model, event.cohort, event.window.start, codec.encode(event.window)))
        self._coming.clear()
        if kept:
            self._store.add(kept)
            log.info("windows.kept_undated", windows=len(kept))

    def _make_room(self, cohort: str, coming: list[tuple[str, str, int, bytes]]) -> bool:
        """Drop a window of the cohort with the most, of these or of those in the store, unless it is this cohort."""
        loudest, count = self._counts.most_common(1)[0]
        if self._counts[cohort] >= count:
            return False
        own = next((one for one in coming if one[1] == loudest), None)
        if own is not None:
            coming.remove(own)
        elif not self._store.drop_oldest(loudest):
            return False
        self._counts[loudest] -= 1
        return True

    def due(self) -> list[UndatedRow]:
        """Return windows that the clock can judge now. They wait until `done`."""
        if not self._counts.total() or is_held(self._clock):
            return []
        now = int(self._clock())
        return self._store.due(until=now + WINDOW_FUTURE_SECONDS_MAX, beyond=now + AHEAD_SECONDS, limit=AT_ONCE)

    def done(self, rows: Sequence[UndatedRow]) -> None:
        """Drop windows that wait no more."""
        if rows:
            self._store.drop([one.id for one in rows])
            self._counts = Counter(self._store.counts())

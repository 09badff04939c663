"""Keeps windows of cohorts that nothing names until something does, or their time is over: durable, bounded, and with one alert.

hub/core/drift/cohorts.py decides.
"""

from collections.abc import Callable, Iterable, Sequence

import structlog

from hub.core.drift.cohorts import POOL_MAX, POOL_SECONDS, Named, surplus
from hub.database.connection import Database
from hub.database.early_windows import EarlyWindowRow, EarlyWindows
from hub.service.alerts.event_log import Notes
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.errors import Code
from schemas.window import Window

log = structlog.get_logger()

LOOK_SECONDS = 1.0  # Between two looks at what operators have named.
QUIET_SECONDS = 3600.0  # An episode is over when no such window has come for this long.
NAMES_SHOWN = 5


class Cohorts:
    """Know which cohorts count, and hold the windows of the others."""

    def __init__(self, database: Database, notes: Notes, *, set_cohorts: Callable[[], Iterable[str]], clock: Callable[[], float]) -> None:
        self._store, self._notes, self._clock, self._set_cohorts = EarlyWindows(database), notes, clock, set_cohorts
        self.named = Named()
        self._operators: set[str] = set()
        self._looked_at = float("-inf")
        self._waiting = self._store.all()
        self._came_at = clock() if self._waiting else float("-inf")
        self._dropped = 0

    def counts(self, cohort: str) -> bool:
        """Return whether windows of a cohort count, whatever the model."""
        if cohort in self.named:
            return True
        now = self._clock()
        if not 0 <= now - self._looked_at < LOOK_SECONDS:
            self._looked_at = now
            self._operators = {*self._store.enrolled_cohorts(), *self._set_cohorts()}
        return cohort in self._operators

    def wait(self, windows: Sequence[tuple[str, str, Window]]) -> None:
        """Keep windows, each with its model and cohort: durable when this returns. Beyond the bounds others go."""
        if not windows:
            return
        now = int(self._clock())
        add = [(model, cohort, now, codec.encode(window)) for model, cohort, window in windows]
        fresh = [EarlyWindowRow(0, *one) for one in add]
        gone = surplus([*self._waiting, *fresh])
        held = len(self._waiting)
        self._store.change(
            add=[one for at, one in enumerate(add, held) if at not in gone], drop=[self._waiting[at].id for at in gone if at < held]
        )
        self._waiting = self._store.all()
        self._dropped += len(gone)
        self._report(windows)

    def due(self) -> list[EarlyWindowRow]:
        """Return windows whose cohort counts by now. They wait until `done`; those whose time is over are dropped."""
        if not self._waiting:
            return []
        now = self._clock()
        late = [one.id for one in self._waiting if not 0 <= now - one.at < POOL_SECONDS]
        if late:
            self._dropped += len(late)
            self.done(late)
            log.warning("windows.dropped_unknown_cohort", windows=len(late), code=str(Code.WINDOW_COHORT))
        known = {cohort for cohort in {one.cohort for one in self._waiting} if self.counts(cohort)}
        return [one for one in self._waiting if one.cohort in known]

    def done(self, ids: Sequence[int]) -> None:
        """Drop windows that wait no more."""
        if ids:
            self._store.change(add=(), drop=ids)
            self._waiting = [one for one in self._waiting if one.id not in set(ids)]

    def _report(self, windows: Sequence[tuple[str, str, Window]]) -> None:
        """Raise one alert an episode, however many cohorts are invented in it."""
        now, before = self._clock(), self._came_at
        self._came_at = now
        if now - before < QUIET_SECONDS:
            return
        names = sorted({cohort for _, cohort, _ in windows})
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        text = (
            f"windows came of cohorts that no enrolment, setting or node names: {', '.join(names[:NAMES_SHOWN])}{more}; they wait, at most"
            f" {POOL_MAX} for {POOL_SECONDS // 3600} h, and count when a node or an operator names their cohort"
        )
        self._notes.alert(Alert(kind="refused", at=int(now), model=windows[0][0], code=str(Code.WINDOW_COHORT), text=text))

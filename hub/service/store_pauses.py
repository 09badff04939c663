"""Pauses ever longer while the database takes nothing: nothing is done meanwhile that would need it, and the log is not flooded."""

from collections.abc import Callable
from random import Random

import structlog
from sqlalchemy import select

from fleetcast.backoff import Backoff
from hub.database.connection import Database
from schemas.errors import Unreachable

log = structlog.get_logger()

SECONDS_MAX = 30.0
PAUSES = Backoff(0.2, SECONDS_MAX)
WORKED_SECONDS = 10.0  # A database that has worked for this long works: the next failure begins with a short pause again.
TURN_SECONDS = 0.2


class StorePauses:
    """Hold when a process tries its database again. Called by the loop's thread alone; times are monotonic."""

    def __init__(
        self, database: Database, *, monotonic: Callable[[], float], sleep: Callable[[float], object], rng: Random, pauses: Backoff = PAUSES
    ) -> None:
        self._database, self._monotonic, self._sleep, self._rng = database, monotonic, sleep, rng
        self._shortest = self._pauses = pauses
        self._due_at = float("-inf")
        self._failed_at: float | None = None  # The last failure, until the database has worked again for a while.
        self._began_at = 0.0
        self._is_away = False

    def failed(self, error: Unreachable) -> None:
        """Take in that it did not answer: the next attempt is made after a longer pause than the one before."""
        now = self._monotonic()
        if self._failed_at is None:
            self._began_at = now
        self._failed_at, self._is_away = now, True
        seconds = min(SECONDS_MAX, self._pauses.wait_seconds(self._rng.random()))
        self._pauses = self._pauses.doubled()
        self._due_at = now + seconds
        log.error("store.failed", reason=str(error), again_seconds=round(seconds, 1))

    def pauses(self) -> bool:
        """Return whether to do nothing in this turn, having slept for a part of the pause."""
        if not self._is_away:
            return False
        left = self._due_at - self._monotonic()
        if left > 0:
            self._sleep(min(TURN_SECONDS, left))
            return True
        try:
            with self._database.read() as db:  # Before the broker is connected to, which would bring what cannot be kept.
                db.execute(select(1))
        except Unreachable as error:
            self.failed(error)
            return True
        self._is_away = False
        return False

    def worked(self) -> None:
        """Take in that a turn went well."""
        now = self._monotonic()
        if self._failed_at is not None and now - self._failed_at >= WORKED_SECONDS:
            log.info("store.recovered", after_seconds=round(now - self._began_at))
            self._failed_at, self._pauses = None, self._shortest

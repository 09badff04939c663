"""Elects one leader among the hubs of one PostgreSQL, and fences those who led before.

The leader holds an advisory lock in a session of its own, and says in it every second that it is there. The server ends a session in which
nothing happens, and so frees the lock of a process that was stopped, by its own clock. Each leader takes the next term in the session that
holds the lock. A change is made under the term: the transaction locks the row and reads it, so that a leader of an earlier term is refused
whatever it believes, and a new one waits for what the earlier one has begun.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, select, text

from hub.database import tables
from hub.database.connection import Database
from schemas.errors import Unreachable

log = structlog.get_logger()

LEADER_LOCK: Final = 0x666C_6C65_6164  # "fllead"
BEAT_SECONDS = 1.0
SESSION_SECONDS = 5  # The server ends a leader's session in which nothing has happened for this long.
SURE_SECONDS = 4.0  # A leader that has heard nothing from the server for this long does not take itself for one.
CLOCK_SECONDS_MAX = 60.0  # Between a hub's clock and the database's: what a hub signs says until when it holds.

_NOW = text("SELECT pg_backend_pid() AS pid, CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS at")
_TERM = text(
    "INSERT INTO leadership (id, term, holder, since) VALUES (1, 1, :holder, CAST(extract(epoch FROM clock_timestamp()) AS bigint))"
    " ON CONFLICT (id) DO UPDATE SET term = leadership.term + 1, holder = excluded.holder, since = excluded.since RETURNING term"
)
_FENCE = text("SELECT term FROM leadership WHERE id = 1 FOR SHARE")


class Deposed(Unreachable):
    """Report that this process led the fleet and no longer does: it may sign nothing, and ends."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Hold who leads, or led last."""

    term: int
    holder: str
    since: int


def leader_of(database: Database) -> Leader | None:
    """Return who leads a fleet, or led it last; None where nobody ever has."""
    row = tables.leadership.c
    found: list[Leader] = database.rows(Leader, select(row.term, row.holder, row.since).where(row.id == 1))
    return found[0] if found else None


class Leadership:
    """Be a candidate, or the leader."""

    def __init__(
        self,
        database: Database,
        *,
        holder: str,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._holder, self._wall, self._monotonic = database, holder, wall, monotonic
        self._session: Connection | None = None
        self._beat_at = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._why = ""  # Why this process gave the lead away, where it did so itself.
        self.term = 0
        self.clock_differs = 0.0  # Seconds that this machine's clock is ahead of the database's, as of the last beat.

    @property
    def leads(self) -> bool:
        """Return whether this process surely leads now. A process that was stopped finds that it does not as soon as it runs again."""
        return self._session is not None and self._monotonic() - self._beat_at < SURE_SECONDS

    @property
    def is_clock_wrong(self) -> bool:
        """Return whether the clocks of this machine and of the database differ by too much."""
        return abs(self.clock_differs) > CLOCK_SECONDS_MAX

    def try_to_lead(self) -> bool:
        """Take the lead where nobody has it, and the clock agrees with the database's; then keep it until `resign`.

        Raises:
            Unreachable: the database does not answer.
        """
        session = self._session or self._database.session(idle_seconds=SESSION_SECONDS)
        self._session = None
        try:
            pid = self._compare_clocks(session)
            if self.is_clock_wrong or not session.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LEADER_LOCK}).scalar():
                session.close()
                return False
            began = self._monotonic()
            self.term = int(session.execute(_TERM, {"holder": self._holder}).scalar_one())
        except Exception as error:
            session.invalidate()
            raise Unreachable(f"database: leadership cannot be asked for: {error}") from error
        self._session, self._beat_at = session, began
        self._thread = threading.Thread(target=self._beat, args=(session, pid), name="leadership", daemon=True)
        self._thread.start()
        return True

    def check(self) -> None:
        """Check that this process leads.

        Raises:
            Deposed: it does not, or not surely.
        """
        if not self.leads:
            why = self._why or f"it was stopped, or the database did not answer, for more than {SURE_SECONDS:.0f} s"
            raise Deposed(
                f"{self._holder} ends, and no longer leads this fleet (term {self.term}): {why}; start it again, and it stands by"
            )

    def fence(self, db: Connection) -> None:
        """Keep the term for as long as this transaction lasts.

        Raises:
            Deposed: another process leads by now.
        """
        term = db.execute(_FENCE).scalar()
        if term != self.term:
            raise Deposed(f"{self._holder} led this fleet in term {self.term}, and another leads in term {term}: nothing was signed")

    def resign(self, why: str = "") -> None:
        """Let another lead, and keep why."""
        self._why = self._why or why
        self._stop.set()
        if self._thread is not None:
            self._thread.join(BEAT_SECONDS * 5)
        session, self._session = self._session, None
        if session is not None:
            session.invalidate()  # The server frees the lock with the session.

    def _beat(self, session: Connection, pid: int) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            began = self._monotonic()
            try:
                if self._compare_clocks(session) != pid:
                    raise Unreachable("the session that held the lead was replaced")  # with all other ends of it
            except Exception as error:
                reason = str(error).splitlines()[0]
                log.error("leadership.lost", holder=self._holder, term=self.term, reason=reason)
                self._why = f"the lead is held by a connection to the database, and that has ended ({reason})"
                self._session = None
                return
            self._beat_at = began

    def _compare_clocks(self, session: Connection) -> int:
        """Compare the clocks, and return the number of the server's process: another one has not the lock."""
        before = self._wall()
        there = session.execute(_NOW).one()
        self.clock_differs = (before + self._wall()) / 2 - float(there.at)
        return int(there.pid)

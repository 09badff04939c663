"""Keeps in SQL until when a process has taken in what its broker had for it, and which nodes it still asks for windows that were lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from hub.core.rollouts.listening import Listened
from hub.database import tables
from hub.database.connection import Database, fields, put, put_all

# A node that is asked already keeps the earlier beginning, for it has not answered yet.
_LOSE = text(
    "INSERT INTO window_requests (process, node, number, since, until, asks, asked_at, due_at, session)"
    " SELECT CAST(:process AS text), node, CAST(:number AS bigint), CAST(:since AS double precision), NULL, 0, 0, 0, -1"
    " FROM nodes WHERE true ORDER BY node"
    " ON CONFLICT (process, node) DO UPDATE SET number = excluded.number, until = NULL, asks = 0, due_at = 0, session = -1"
)
_GRANT = text("UPDATE window_requests SET until = :until WHERE process = :process AND until IS NULL")
_OTHER_BOOT = text(  # A clock that was read before the machine started again says nothing; everything since may be lost.
    "UPDATE window_requests SET since = NULL, until = CASE WHEN until IS NULL THEN NULL ELSE :now END WHERE process = :process"
)
_DUE = text(
    "SELECT r.process, r.node, r.number, r.since, r.until, r.asks, r.asked_at, r.due_at, n.session"
    " FROM window_requests r JOIN nodes n ON n.node = r.node"
    " WHERE r.process = :process AND r.until IS NOT NULL AND n.status = 'online'"
    " AND (r.due_at <= :now OR (r.session <> n.session AND r.asked_at <= :earlier))"
    " ORDER BY r.asks, r.node LIMIT :at_most"
)
_ANSWERED = text(
    "DELETE FROM window_requests WHERE process = :process AND ((asks >= :asks AND EXISTS ("
    "SELECT 1 FROM nodes n JOIN heard h ON h.node = n.node WHERE n.node = window_requests.node AND n.status = 'online'"
    " AND n.session = window_requests.session AND h.at > window_requests.asked_at + :seconds))"
    " OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = window_requests.node))"
)
_COUNT = text("SELECT count(*) FROM window_requests WHERE process = :process")


@dataclass(frozen=True, slots=True)
class WindowSession:
    """Hold what a process knows of its session at the broker."""

    process: str
    boot: str  # The boot of the machine whose monotonic clock gave `heard_at`.
    heard_at: float | None  # Until when all that came was taken in; None: it is not known.
    is_judged: bool  # False: it may be that a lost session was noticed and not yet written down.


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """Hold what one node is asked for; its session is the node's present one."""

    process: str
    node: str
    number: int
    since: float | None
    until: float
    asks: int
    asked_at: float
    due_at: float
    session: int


class WindowRequests:
    """Read and write what one process asks of nodes."""

    def __init__(self, database: Database, process: str) -> None:
        self._database, self._process = database, process

    def session(self) -> WindowSession | None:
        """Return what is known of this process's session; None where it has never had one."""
        found = self._database.rows(WindowSession, tables.window_sessions.select().where(tables.window_sessions.c.process == self._process))
        return found[0] if found else None

    def keep(self, session: WindowSession) -> None:
        """Keep it over any crash."""
        with self._database.write() as db:
            put(db, tables.window_sessions, ("process",), fields(session))

    def keep_soon(self, session: WindowSession) -> None:
        """Keep it; a power cut may take it away, so that more than necessary is asked for."""
        with self._database.write_soon() as db:
            put(db, tables.window_sessions, ("process",), fields(session))

    def lose(self, session: WindowSession, *, number: int, since: float | None) -> int:
        """Have every known node asked, and return how many are; the session is judged in the same transaction."""
        with self._database.write() as db:
            db.execute(_LOSE, {"process": self._process, "number": number, "since": since})
            put(db, tables.window_sessions, ("process",), fields(session))
            return int(db.execute(_COUNT, {"process": self._process}).scalar() or 0)

    def grant(self, until: float) -> None:
        """Take in that the broker gives this process windows again: what it takes from now on is not lost."""
        with self._database.write() as db:
            db.execute(_GRANT, {"process": self._process, "until": until})

    def other_boot(self, now: float) -> None:
        """Take in that moments of the clock before are of no use any more."""
        with self._database.write() as db:
            db.execute(_OTHER_BOOT, {"process": self._process, "now": now})

    def count(self) -> int:
        """Return how many nodes are still asked."""
        with self._database.read() as db:
            return int(db.execute(_COUNT, {"process": self._process}).scalar() or 0)

    def due(self, now: Listened, *, pause_seconds: float, at_most: int) -> list[NodeRequest]:
        """Return nodes that are there and are to be asked now: those that never were come first.

        A node that has connected anew since it was asked is asked again, after a pause.
        """
        values = {"process": self._process, "now": now, "earlier": now - pause_seconds, "at_most": at_most}
        with self._database.read() as db:
            return [NodeRequest(**row) for row in db.execute(_DUE, values).mappings()]

    def asked(self, requests: Sequence[NodeRequest]) -> None:
        """Keep that these were asked. A crash of the machine may have them asked once more, which they do not answer twice."""
        rows: list[Mapping[str, object]] = [fields(one) for one in requests]
        with self._database.write_soon() as db:
            put_all(db, tables.window_requests, ("process", "node"), rows)

    def drop_answered(self, *, asks: int, seconds: float) -> int:
        """Drop nodes that were asked so often and then heard over one connection, and those that are gone; return how many are left."""
        with self._database.write_soon() as db:
            db.execute(_ANSWERED, {"process": self._process, "asks": asks, "seconds": seconds})
            return int(db.execute(_COUNT, {"process": self._process}).scalar() or 0)

"""Keeps who is signed in to the console, and the links that sign somebody in once. Each method is one transaction."""

from dataclasses import dataclass

from sqlalchemy import delete, insert, or_, select, update

from hub.database import tables
from hub.database.connection import Database, fields


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Hold one session; `digest` is SHA-256 of its cookie. `before_at`: when the visit before this one ended."""

    digest: bytes
    name: str
    role: str
    token: str | None
    made_at: int
    used_at: int
    looked_at: int
    before_at: int | None = None


@dataclass(frozen=True, slots=True)
class LinkRow:
    """Hold a link that signs somebody in once; `digest` is SHA-256 of what it carries."""

    digest: bytes
    name: str
    role: str
    expires_at: int


class Sessions:
    """Read and write the sessions of the console."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: SessionRow, *, kept_max: int) -> None:
        """Keep a session that begins; of one name's, those that were used longest ago end where there are more than `kept_max`."""
        table = tables.console_sessions
        with self._database.write() as db:
            mine = select(table.c.digest).where(table.c.name == row.name).order_by(table.c.used_at.desc())
            surplus = [found.digest for found in db.execute(mine.offset(kept_max - 1))]
            if surplus:
                db.execute(delete(table).where(table.c.digest.in_(surplus)))
            db.execute(insert(table).values(fields(row)))

    def get(self, digest: bytes) -> SessionRow | None:
        """Return a session, whether it is still good or not."""
        table = tables.console_sessions
        found = self._database.rows(SessionRow, select(table).where(table.c.digest == digest))
        return found[0] if found else None

    def newest_of(self, name: str) -> SessionRow | None:
        """Return the session of this name that was looked at last."""
        table = tables.console_sessions
        query = select(table).where(table.c.name == name).order_by(table.c.looked_at.desc()).limit(1)
        found = self._database.rows(SessionRow, query)
        return found[0] if found else None

    def touch(self, digest: bytes, *, used_at: int, looked_at: int, before_at: int | None) -> None:
        """Note that a session was used. A power cut may take it away."""
        table = tables.console_sessions
        with self._database.write_soon() as db:
            values = {"used_at": used_at, "looked_at": looked_at, "before_at": before_at}
            db.execute(update(table).where(table.c.digest == digest).values(values))

    def end(self, digest: bytes) -> None:
        """End a session."""
        with self._database.write() as db:
            db.execute(delete(tables.console_sessions).where(tables.console_sessions.c.digest == digest))

    def end_old(self, *, made_before: int, used_before: int) -> None:
        """End sessions that are too old, or were not used for too long."""
        table = tables.console_sessions
        with self._database.write() as db:
            db.execute(delete(table).where(or_(table.c.made_at < made_before, table.c.used_at < used_before)))

    def add_link(self, row: LinkRow, *, now: int) -> None:
        """Keep a link, and forget those whose time is over."""
        table = tables.console_links
        with self._database.write() as db:
            db.execute(delete(table).where(table.c.expires_at <= now))
            db.execute(insert(table).values(fields(row)))

    def link(self, digest: bytes) -> LinkRow | None:
        """Return a link that was not used."""
        table = tables.console_links
        found = self._database.rows(LinkRow, select(table).where(table.c.digest == digest))
        return found[0] if found else None

    def take_link(self, digest: bytes) -> bool:
        """Use up a link, and return whether it was there: of two who come at once one gets it."""
        table = tables.console_links
        with self._database.write() as db:
            return bool(db.execute(delete(table).where(table.c.digest == digest)).rowcount)

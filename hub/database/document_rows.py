"""Keeps signed documents in SQL by the path that a file would have, where several hubs share one database. Knows no key and no rule of TUF.

All that changes them is one transaction under one lock, and a leader's is fenced (hub/database/leadership.py): no version is signed twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, delete, select, text

from hub.database import tables
from hub.database.connection import Database, put

DOCUMENTS_LOCK: Final = 0x666C_646F_6373  # "fldocs"
# A hub that is stopped in the middle of signing keeps the next leader waiting no longer than this.
HELD_SECONDS = 6

Fence = Callable[[Connection], None]

ALL, COUNTED = 1, 2  # Rows that count changes: all, and those that somebody vouches for.
_LAST = select(tables.document_changes.c.number).where(tables.document_changes.c.id == ALL)
_GENERATION = select(tables.document_changes.c.number).where(tables.document_changes.c.id == COUNTED)


class DocumentRows:
    """Read and write documents in one database of PostgreSQL's."""

    def __init__(self, database: Database, *, fence: Fence | None = None) -> None:
        self._database, self._fence = database, fence

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Begin one transaction in which nobody else changes a document.

        Raises:
            Unreachable: the database does not answer, or this process led the fleet and no longer does.
        """
        with self._database.write() as db:
            db.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{HELD_SECONDS}s'")
            db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": DOCUMENTS_LOCK})
            if self._fence is not None:
                self._fence(db)
            yield db

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection to read by."""
        with self._database.read() as db:
            yield db

    def paths(self, db: Connection, folder: str) -> list[str]:
        """Return the paths below a folder, by name."""
        path = tables.documents.c.path
        below = select(path).where(path >= f"{folder}/", path < f"{folder}0").order_by(path)  # "0" is what follows "/"
        return list(db.execute(below).scalars())

    def stamps(self, db: Connection, folder: str) -> dict[str, int]:
        """Return for each path below a folder a number that changes with it."""
        path, changed = tables.documents.c.path, tables.documents.c.changed
        rows = db.execute(select(path, changed).where(path >= f"{folder}/", path < f"{folder}0"))
        return {row.path: int(row.changed) for row in rows}

    def body(self, db: Connection, path: str) -> bytes | None:
        """Return one document; None where there is none."""
        found = db.execute(select(tables.documents.c.body).where(tables.documents.c.path == path)).scalar()
        return None if found is None else bytes(found)

    def put(self, db: Connection, path: str, body: bytes, *, counts: bool = True) -> None:
        """Write one; `counts`: the generation changes."""
        put(db, tables.documents, ("path",), {"path": path, "body": body, "changed": self._next(db, counts=counts)})

    def drop(self, db: Connection, path: str, *, counts: bool = True) -> None:
        """Remove one."""
        db.execute(delete(tables.documents).where(tables.documents.c.path == path))
        self._next(db, counts=counts)

    def generation(self, db: Connection) -> int:
        """Return a number that grows with every change that counts."""
        return int(db.execute(_GENERATION).scalar() or 0)

    def _next(self, db: Connection, *, counts: bool) -> int:
        number = int(db.execute(_LAST).scalar() or 0) + 1
        for row in (ALL, COUNTED) if counts else (ALL,):
            put(db, tables.document_changes, ("id",), {"id": row, "number": number})
        return number

"""Keeps in SQL what is wrong with each process of a hub now, for commands and the console to show. Decides nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from hub.database import tables
from hub.database.connection import Database


@dataclass(frozen=True, slots=True)
class Trouble:
    """Hold one thing that is wrong: `code` is a code of schemas/errors.py or an event's kind, `about` tells several of a code apart."""

    process: str
    code: str
    about: str
    since: int
    text: str


class Troubles:
    """Read and write the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, process: str, found: Collection[Trouble]) -> None:
        """Keep what is wrong with a process in place of what was; a power cut may take it away."""
        with self._database.write_soon() as db:
            db.execute(delete(tables.troubles).where(tables.troubles.c.process == process))
            if found:
                names = ("process", "code", "about", "since", "text")
                db.execute(insert(tables.troubles), [{name: getattr(one, name) for name in names} for one in found])

    def of(self, process: str) -> list[Trouble]:
        """Return what is kept of one process."""
        return [one for one in self.all() if one.process == process]

    def all(self) -> list[Trouble]:
        """Return what is kept of all processes, also of those that were killed, the oldest first."""
        table = tables.troubles.c
        query = select(table.process, table.code, table.about, table.since, table.text).order_by(table.since, table.code, table.about)
        found: list[Trouble] = self._database.rows(Trouble, query)
        return found

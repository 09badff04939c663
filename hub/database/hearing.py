"""Keeps in SQL how long the hub has listened, and when it last heard each node. See hub/core/rollouts/listening.py for their meaning."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select

from hub.core.rollouts.listening import Listened
from hub.database import tables
from hub.database.connection import Database, put, put_all


class Hearing:
    """Store the times of the clock of listening in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listened(self) -> Listened:
        """Return how long the hub has listened to its nodes in all."""
        with self._database.read() as db:
            return Listened(float(db.execute(select(tables.listened.c.seconds)).scalar() or 0.0))

    def keep_listened(self, seconds: Listened) -> None:
        """Keep how long it is."""
        with self._database.write() as db:
            put(db, tables.listened, {"id": 1}, {"id": 1, "seconds": seconds})

    def heard(self, names: Sequence[str] | None = None) -> dict[str, Listened]:
        """Return when each node was last heard, or each of these."""
        query = select(tables.heard)
        with self._database.read() as db:
            found = db.execute(query if names is None else query.where(tables.heard.c.node.in_(names)))
            return {row.node: Listened(float(row.at)) for row in found}

    def keep_heard(self, heard: Mapping[str, tuple[Listened, int]]) -> None:
        """Keep when these nodes were last heard, and when that was by the wall clock. A power cut may take it away again."""
        if heard:
            with self._database.write_soon() as db:
                rows = [{"node": node, "at": at, "last_seen": last_seen} for node, (at, last_seen) in heard.items()]
                put_all(db, tables.heard, ("node",), rows)

"""Queues commands as rows, as another program over the same database may: what they say need not make sense."""

from sqlalchemy import insert, select

from hub.database import tables
from hub.database.store import Store


def queue(store: Store, kind: str, model: str, body: str) -> int:
    """Queue a command as it stands in the database, and return its number."""
    row = {"at": 1, "kind": kind, "model": model, "body": body, "state": "open", "code": "", "text": ""}
    with store.database.write() as db:
        db.execute(insert(tables.commands).values(row))
        return max(db.execute(select(tables.commands.c.id)).scalars())

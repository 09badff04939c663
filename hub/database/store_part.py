"""Give every part of the store its transactions, and the writing of events, which are in the transaction of what happened."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, insert

from hub.database import tables
from hub.database.connection import Database

_EVENT = insert(tables.events)


class Part:
    """Read and write some tables of the hub's database; each method is one transaction, durable when it returns."""

    database: Database

    def _event(self, db: Connection, kind: str, text: str, body: Mapping[str, Any], actor: str | None = None) -> None:
        db.execute(_EVENT, {"at": self._now(), "kind": kind, "text": text, "body": json.dumps(body), "actor": actor})

    def _events(self, db: Connection, kind: str, found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep several, each a sentence and what a program wants to know."""
        if found:
            at = self._now()
            db.execute(_EVENT, [{"at": at, "kind": kind, "text": text, "body": json.dumps(body), "actor": None} for text, body in found])

    def _now(self) -> int:
        return self.database.now()

    def _read(self) -> AbstractContextManager[Connection]:
        return self.database.read()

    def _write(self) -> AbstractContextManager[Connection]:
        return self.database.write()

    def _rows(self, kind: Callable[..., Any], query: Any) -> list[Any]:
        return self.database.rows(kind, query)

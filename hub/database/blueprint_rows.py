"""Keeps the blueprints that were applied. Each method is one transaction, durable when it returns."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import zstandard
from sqlalchemy import Select, insert, select, update

from hub.database import tables
from hub.database.connection import Database, inserted
from schemas.errors import Code, Refused
from schemas.limits import BLUEPRINT_BYTES_MAX
from schemas.names import sha256

State = Literal["applying", "applied", "failed"]
_AND = ", "  # Between the actors of a revision.
ACTORS_CHARACTERS_MAX = 512
_COLUMNS = [column for column in tables.blueprints.columns if column.name not in {"body", "digest"}]


@dataclass(frozen=True, slots=True)
class BlueprintRow:
    """Describe a revision of the blueprint. `done` of its `changes` were made; `reason` says why not all of them.

    `actor` names everybody who applied it: who began, and who went on.
    """

    revision: int
    at: int
    actor: str
    state: State
    reason: str
    changes: int
    done: int
    finished_at: int | None = None
    same_as: int | None = None

    @property
    def actors(self) -> list[str]:
        """Return who applied it, in order."""
        return self.actor.split(_AND)


class Blueprints:
    """Read and write revisions of the blueprint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> BlueprintRow | None:
        """Return the revision in force: the one that was applied last, or begun."""
        found = self._rows(select(*_COLUMNS).order_by(tables.blueprints.c.revision.desc()).limit(1))
        return found[0] if found else None

    def get(self, revision: int) -> BlueprintRow | None:
        """Return one revision."""
        found = self._rows(select(*_COLUMNS).where(tables.blueprints.c.revision == revision))
        return found[0] if found else None

    def page(self, limit: int, *, before: int | None = None) -> list[BlueprintRow]:
        """Return revisions, the newest first; those before one, where it is given."""
        query = select(*_COLUMNS).order_by(tables.blueprints.c.revision.desc()).limit(limit)
        return self._rows(query if before is None else query.where(tables.blueprints.c.revision < before))

    def with_text(self, text: str) -> BlueprintRow | None:
        """Return the newest revision that has this very text."""
        table = tables.blueprints.c
        found = self._rows(select(*_COLUMNS).where(table.digest == sha256(text.encode())).order_by(table.revision.desc()).limit(1))
        return found[0] if found else None

    def text(self, revision: int) -> str:
        """Return the text of a revision.

        Raises:
            Refused: REQUEST_UNKNOWN: there is none; DATABASE_DAMAGED: its text cannot be read.
        """
        with self._database.read() as db:
            body = db.execute(select(tables.blueprints.c.body).where(tables.blueprints.c.revision == revision)).scalar()
        if body is None:
            reason = f"there is no revision {revision} of the blueprint; `fleetcast history --blueprint` lists them"
            raise Refused(Code.REQUEST_UNKNOWN, reason)
        try:
            return zstandard.ZstdDecompressor().decompress(body, max_output_size=BLUEPRINT_BYTES_MAX).decode()
        except (zstandard.ZstdError, UnicodeDecodeError):
            raise Refused(Code.DATABASE_DAMAGED, f"revision {revision} of the blueprint cannot be read: restore the database") from None

    def begin(self, text: str, *, left: int, same_as: int | None) -> BlueprintRow:
        """Keep a revision that is about to be applied, in the name of the database's actor; `left` changes are to be made.

        The newest one goes on if its text is this, and its actor is named with those before. What was made of it by an apply that did not
        come to its end counts: of its changes, all that are not left, whether or not that apply came to count them.
        """
        body, actor = text.encode(), self._database.actor
        table = tables.blueprints
        with self._database.write() as db:
            newest = db.execute(select(table).order_by(table.c.revision.desc()).limit(1)).first()
            begun: dict[str, Any] = {"state": "applying", "reason": ""}
            if newest is not None and newest.digest == sha256(body):
                revision, is_whole = int(newest.revision), newest.state == "applied"
                changes = left if is_whole else max(newest.changes, newest.done + left)
                who = newest.actor if actor in newest.actor.split(_AND) else f"{newest.actor}{_AND}{actor}"
                begun |= {"changes": changes, "done": changes - left, "actor": who if len(who) <= ACTORS_CHARACTERS_MAX else newest.actor}
                db.execute(update(table).where(table.c.revision == revision).values(**begun, finished_at=None))
            else:
                packed = zstandard.ZstdCompressor(level=9).compress(body)
                begun |= {"at": self._database.now(), "actor": actor, "changes": left, "done": 0}
                revision = inserted(db, table, {**begun, "same_as": same_as, "digest": sha256(body), "body": packed})
        found = self.get(revision)
        assert found is not None  # noqa: S101  # it was written above
        return found

    def count(self, revision: int, done: int) -> None:
        """Count the changes that were made."""
        with self._database.write_soon() as db:
            db.execute(update(tables.blueprints).where(tables.blueprints.c.revision == revision).values(done=done))

    def finish(self, revision: int, *, state: State, done: int, reason: str, text: str) -> None:
        """Keep how it ended, with a sentence for the fleet's history."""
        now, actor = self._database.now(), self._database.actor
        values = {"state": state, "done": done, "reason": reason, "finished_at": now}
        with self._database.write() as db:
            table = tables.blueprints.c
            earlier = db.execute(select(table.revision).where(table.revision < revision).order_by(table.revision.desc()).limit(1)).scalar()
            before = {"revision": earlier} if earlier is not None else None
            after = {"revision": revision, "state": state, "changes": done}
            body = json.dumps({**after, "before": before, "after": after})
            db.execute(update(tables.blueprints).where(tables.blueprints.c.revision == revision).values(values))
            db.execute(insert(tables.events).values(at=now, kind="blueprint", text=text, body=body, actor=actor))

    def _rows(self, query: Select[Any]) -> list[BlueprintRow]:
        found: list[BlueprintRow] = self._database.rows(BlueprintRow, query)
        return found

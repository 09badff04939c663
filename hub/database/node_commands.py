"""Keep commands about nodes in the queue that commands about rollouts are in; each kind has its own reader."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select, update

from hub.core.nodes.device_settings import KIND, SetNodeSettings, body_of
from hub.database import tables
from hub.database.connection import Database, inserted


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """Hold one command about nodes; `body` is read by `hub.core.nodes.device_settings.read`."""

    id: int
    body: str
    actor: str | None
    state: Literal["open", "done", "refused"]
    code: str
    text: str


_COLUMNS = ("id", "body", "actor", "state", "code", "text")
_TABLE = tables.commands.c
_OLDEST_OPEN = select(*[_TABLE[name] for name in _COLUMNS]).where(_TABLE.state == "open", _TABLE.kind == KIND).order_by(_TABLE.id).limit(1)


class NodeCommands:
    """Read and write commands about nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, command: SetNodeSettings) -> int:
        """Queue a command for the hub."""
        values = {"at": self._database.now(), "model": "", "kind": KIND, "body": body_of(command), "state": "open", "code": "", "text": ""}
        with self._database.write() as db:
            return inserted(db, tables.commands, {**values, "actor": self._database.actor})

    def oldest_open(self) -> NodeCommand | None:
        """Return the command that is next."""
        found: list[NodeCommand] = self._database.rows(NodeCommand, _OLDEST_OPEN)
        return found[0] if found else None

    def get(self, number: int) -> NodeCommand | None:
        """Return one command."""
        table = tables.commands.c
        found: list[NodeCommand] = self._database.rows(NodeCommand, select(*[table[name] for name in _COLUMNS]).where(table.id == number))
        return found[0] if found else None

    def finish(self, number: int, *, text: str, code: str = "") -> None:
        """Answer a command; a code says that it was refused."""
        values = {"state": "refused" if code else "done", "text": text, "code": code}
        with self._database.write() as db:
            db.execute(update(tables.commands).where(tables.commands.c.id == number).values(values))

"""Keeps commands about rollouts, and the working state of rollouts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update

from hub.core.nodes.device_settings import KIND
from hub.core.rollouts import commands
from hub.core.rollouts.commands import Command
from hub.database import tables
from hub.database.connection import fields, inserted, put, where
from hub.database.rows import CommandRow, RolloutRow
from hub.database.store_part import Part
from schemas.errors import Refused

# What a running hub asks again and again is put together once: SQLAlchemy takes longer for that than SQLite for the answer.
# Commands about nodes: hub/database/node_commands.py.
_OPEN_COMMANDS = (
    select(tables.commands).where(tables.commands.c.state == "open", tables.commands.c.kind != KIND).order_by(tables.commands.c.id)
)


class RolloutRows(Part):
    """Read and write commands and rollouts."""

    def add_command(self, model: str, command: Command) -> int:
        """Queue a command for the hub; it answers within a second or two of running."""
        asked = {"kind": commands.kind_of(command), "body": commands.body_of(command)}
        with self._write() as db:
            values = {"at": self._now(), "model": model, **asked, "state": "open", "code": "", "text": "", "actor": self.database.actor}
            return inserted(db, tables.commands, values)

    def open_commands(self) -> list[CommandRow]:
        """Return what waits for the hub about rollouts, oldest first."""
        return self._rows(_command_row, _OPEN_COMMANDS)

    def finish_command(self, command_id: int, ok: bool, text: str, code: str = "") -> None:
        """Answer a command; `code` is the refusal's where it was refused."""
        with self._write() as db:
            values = {"state": "done" if ok else "refused", "text": text, "code": code}
            db.execute(update(tables.commands).where(tables.commands.c.id == command_id).values(values))

    def command(self, command_id: int) -> CommandRow | None:
        """Return one command."""
        found = self._rows(_command_row, select(tables.commands).where(tables.commands.c.id == command_id))
        return found[0] if found else None

    def rollout_rows(self) -> list[RolloutRow]:
        """Return the controller's working state, a row a deployment."""
        table = tables.rollouts
        return self._rows(RolloutRow, select(table).order_by(table.c.model, table.c.deployment))

    def put_rollout_row(
        self, row: RolloutRow, happened: str = "", actor: str | None = None, *, change: Mapping[str, Any] | None = None, why: str = ""
    ) -> None:
        """Keep the working state; `happened` is a sentence for those who watch, where something did; `actor` asked for it, and said `why`.

        `change` is what differs, before and after.
        """
        with self._write() as db:
            put(db, tables.rollouts, {"model": row.model, "deployment": row.deployment}, fields(row))
            if happened:
                facts = {"model": row.model, "deployment": row.deployment, "serial": row.serial, "rollout": row.rollout, **(change or {})}
                self._event(db, "rollout", happened, facts | ({"why": why} if why else {}), actor or self.database.actor)

    def drop_rollout_row(
        self,
        model: str,
        deployment: str,
        happened: str,
        *,
        actor: str | None = None,
        change: Mapping[str, Any] | None = None,
        why: str = "",
    ) -> None:
        """Drop the working state of a deployment that was taken away."""
        with self._write() as db:
            db.execute(where(delete(tables.rollouts), tables.rollouts, {"model": model, "deployment": deployment}))
            facts = {"model": model, "deployment": deployment, **(change or {})} | ({"why": why} if why else {})
            self._event(db, "rollout", happened, facts, actor or self.database.actor)


def _command_row(*, kind: str, body: str, **columns: Any) -> CommandRow:
    try:
        command: Command | Refused = commands.read(kind, body)
    except Refused as refusal:  # for the hub to answer with; the other commands are still read
        command = refusal
    return CommandRow(kind=kind, command=command, **columns)

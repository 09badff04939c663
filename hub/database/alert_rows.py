"""Keeps alerts, refusals and events."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, select

from hub.database import tables
from hub.database.connection import inserted
from hub.database.postgresql import wait_for_writers
from hub.database.rows import AlertRow, EventRow, RefusalRow
from hub.database.store_part import Part
from schemas.analytics_messages import Alert

# Kinds of events that change a fleet.
CHANGES = frozenset({"rollout", "release", "enrolment", "device", "certificate", "metadata", "key", "token", "blueprint"})


class AlertRows(Part):
    """Read and write what is reported to people and programs."""

    def alerts_of(self, kind: str) -> list[Alert]:
        """Return every alert of a kind that is kept."""
        with self._read() as db:
            found = db.execute(select(tables.alerts.c.body).where(tables.alerts.c.kind == kind)).scalars()
            return [Alert.model_validate_json(body) for body in found]

    def add_alert(self, alert: Alert) -> int:
        """Keep an alert."""
        with self._write() as db:
            self._event(db, "alert", alert.text, {"alert": alert.model_dump(mode="json")})
            values = {"at": alert.at, "kind": alert.kind, "model": alert.model, "body": alert.model_dump_json()}
            return inserted(db, tables.alerts, values)

    def alerts(self, limit: int = 100, since_id: int = 0) -> list[AlertRow]:
        """Return alerts after `since_id`, oldest first; the newest `limit` of them."""
        table = tables.alerts
        with self._read() as db:
            wait_for_writers(db, table)
            rows = db.execute(select(table.c.id, table.c.body).where(table.c.id > since_id).order_by(table.c.id.desc()).limit(limit)).all()
        return [AlertRow(one, Alert.model_validate_json(body)) for one, body in reversed(rows)]

    def alerts_before(self, before_id: int | None, limit: int) -> list[AlertRow]:
        """Return a page of alerts, the newest first: those before this one."""
        table = tables.alerts
        query = select(table.c.id, table.c.body).order_by(table.c.id.desc()).limit(limit)
        with self._read() as db:
            rows = db.execute(query if before_id is None else query.where(table.c.id < before_id)).all()
        return [AlertRow(one, Alert.model_validate_json(body)) for one, body in rows]

    def silence_alerts(self, *, since: int = 0) -> dict[str, int]:
        """Return when the silence of each node was last reported, at `since` or later, as far as alerts are kept."""
        table = tables.alerts
        query = select(table.c.at, table.c.body).where(table.c.kind == "node_silent", table.c.at >= since).order_by(table.c.id)
        with self._read() as db:
            return {str(json.loads(body).get("node")): at for at, body in db.execute(query)}

    def add_refusal(self, at: int, topic: str, code: str, reason: str) -> None:
        """Keep a refusal."""
        with self._write() as db:
            db.execute(insert(tables.refusals).values(at=at, topic=topic[:256], code=code, reason=reason))
            self._event(db, "refusal", f"{topic}: {reason} [{code}]", {"topic": topic[:256], "code": code, "reason": reason})

    def refusals(self, limit: int = 100, since_id: int = 0) -> list[RefusalRow]:
        """Return refusals after `since_id`, oldest first; the newest `limit` of them."""
        table = tables.refusals
        rows = self._rows(RefusalRow, select(table).where(table.c.id > since_id).order_by(table.c.id.desc()).limit(limit))
        return rows[::-1]

    def add_event(self, kind: str, text: str, body: Mapping[str, Any] | None = None, *, actor: str | None = None) -> None:
        """Keep an event, for programs and people who watch; `actor` asked for it, else it was this process."""
        with self._write() as db:
            self._event(db, kind, text, body or {}, actor or (self.database.actor if kind in CHANGES else None))

    def events(self, since_id: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return events after `since_id`, oldest first."""
        query = select(tables.events).where(tables.events.c.id > since_id).order_by(tables.events.c.id).limit(limit)
        with self._read() as db:
            if db.execute(query.limit(1)).first() is None:
                return []
            wait_for_writers(db, tables.events)
            return [EventRow(**{**row, "body": json.loads(row["body"])}) for row in db.execute(query).mappings()]

    def changes(self, *, since: int | None = None, limit: int = 1000, before_id: int | None = None) -> list[EventRow]:
        """Return changes of the fleet, the newest first: those that have an actor, and of earlier versions those of their kinds."""
        table = tables.events
        query = select(table).where(table.c.actor.is_not(None) | table.c.kind.in_(sorted(CHANGES))).order_by(table.c.id.desc()).limit(limit)
        if since is not None:
            query = query.where(table.c.at >= since)
        if before_id is not None:
            query = query.where(table.c.id < before_id)
        with self._read() as db:
            found = db.execute(query).mappings()
            return [EventRow(**{**row, "body": json.loads(row["body"])}) for row in found]

    def last_event_id(self) -> int:
        """Return the newest event's id."""
        with self._read() as db:
            return int(db.execute(select(func.max(tables.events.c.id))).scalar() or 0)

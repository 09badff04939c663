"""Keeps what the hub remembers, in SQL: nodes, receipts, commands, rollouts, intervals, alerts, refusals, retained payloads, events.

SQLite in WAL for one machine, PostgreSQL by URL for more. The hub's loop and the operator's commands are processes of their own over one
database. Every method is one transaction, durable when it returns. Knows no topic, no broker and no policy.
"""

import json
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Connection, Integer, bindparam, delete, func, insert, select, update

from fleetcast.counted import counted
from hub.core.drift.intervals import Sums, add_up, merge
from hub.core.nodes.device_settings import KIND
from hub.core.rollouts import commands
from hub.core.rollouts.commands import Command
from hub.core.rollouts.receipt_order import Newest, epoch_of, newer
from hub.database import migrations, tables
from hub.database.connection import Database
from hub.database.connection import fields as _fields
from hub.database.connection import inserted as _inserted
from hub.database.connection import put as _put
from hub.database.connection import where as _where
from hub.database.rows import (
    INTERVAL_KEY,
    AlertRow,
    CommandRow,
    EarlyReceiptRow,
    EventRow,
    IntervalRow,
    Kept,
    Learnt,
    NodeRow,
    ReceiptRow,
    RefusalRow,
    RetainedRow,
    RolloutRow,
    StreamRow,
    WindowRow,
)
from schemas.analytics_messages import Alert, Drift
from schemas.errors import Code, Refused

log = structlog.get_logger()

__all__ = [
    "AlertRow",
    "CommandRow",
    "EarlyReceiptRow",
    "EventRow",
    "IntervalRow",
    "NodeRow",
    "ReceiptRow",
    "RefusalRow",
    "RetainedRow",
    "RolloutRow",
    "Store",
    "WindowRow",
]

CHANGES = frozenset({"rollout", "release", "enrolment", "device", "certificate", "metadata", "key"})  # kinds of events that change a fleet
STREAM_SECONDS = 35 * 86_400  # a stream that got nothing for this long is over, and counts no longer among the others


IntervalKey = tuple[bytes, str, int, int, bool]  # the values of INTERVAL_KEY
_SUMS = ("windows", "rows", "reference_rows", "noise_units", "late", "last_at", "counts", "subgroups")
_GROW = (
    update(tables.intervals)
    .where(*[tables.intervals.c[name] == bindparam(f"its_{name}") for name in INTERVAL_KEY])
    .values({name: bindparam(name) for name in _SUMS})
)


# What a running hub asks again and again is put together once: SQLAlchemy takes longer for that than SQLite for the answer.
# Commands about nodes: hub/database/node_commands.py.
_OPEN_COMMANDS = (
    select(tables.commands).where(tables.commands.c.state == "open", tables.commands.c.kind != KIND).order_by(tables.commands.c.id)
)
_UNSETTLED = (
    select(tables.intervals)
    .where(tables.intervals.c.windows > tables.intervals.c.tested_windows, tables.intervals.c.last_at <= bindparam("before"))
    .order_by(tables.intervals.c.start)
)
_STATUS = select(tables.nodes.c.status).where(tables.nodes.c.node == bindparam("name"))


class Store:
    """Read and write the hub's database."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(url, clock=clock)

    def open(self) -> None:
        """Make the tables of a database that has none; for commands, beside which a hub of an earlier version may run.

        Raises:
            Refused: some are missing: an earlier version made it, and to take its tables over is for the hub.
        """
        missing = self.database.missing(tables.metadata)
        if missing == frozenset(tables.metadata.tables):
            self.create()
        elif missing:
            raise Refused(
                Code.SCHEMA_UNSUPPORTED,
                f"the database is of an earlier version: it has no table {', '.join(sorted(missing))}; start the hub of this version first",
            )
        elif not migrations.has_epochs(self.database):
            raise Refused(Code.SCHEMA_UNSUPPORTED, "the database is of an earlier version; start the hub of this version first")

    def create(self) -> None:
        """Make the tables that are missing, and take over those of earlier versions; for the hub, which holds its fleet's lock."""
        with self.database.write() as db:
            migrations.add_columns(db)
        self.database.create(tables.metadata)
        with self.database.write() as db:
            migrations.take_over(db)

    def close(self) -> None:
        """Release the database."""
        self.database.close()

    # Nodes

    def upsert_node(self, row: NodeRow) -> None:
        """Keep a node's report of itself."""
        self.upsert_nodes([row])

    def upsert_nodes(self, rows: Sequence[NodeRow]) -> None:
        """Keep nodes' reports of themselves; a change of status is an event."""
        with self._write() as db:
            for row in rows:
                before = db.execute(_STATUS, {"name": row.node}).scalar()
                _put(db, tables.nodes, {"node": row.node}, _fields(row))
                if before != row.status:
                    self._event(db, "node", f"node {row.node} is {row.status}", {"node": row.node, "status": row.status})

    def node(self, node_id: str) -> NodeRow | None:
        """Return one node."""
        found = self._rows(NodeRow, select(tables.nodes).where(tables.nodes.c.node == node_id))
        return found[0] if found else None

    def nodes(self) -> list[NodeRow]:
        """Return every node, by name."""
        return self._rows(NodeRow, select(tables.nodes).order_by(tables.nodes.c.node))

    def counted_nodes(self) -> list[NodeRow]:
        """Return every node that rollouts count, by name: those that were not revoked."""
        revoked = select(tables.enrolments.c.node).where(tables.enrolments.c.revoked_at.is_not(None))
        return self._rows(NodeRow, select(tables.nodes).where(tables.nodes.c.node.not_in(revoked)).order_by(tables.nodes.c.node))

    # Receipts

    def add_receipts(self, rows: Sequence[ReceiptRow]) -> list[Kept]:
        """Keep verified receipts, all in one transaction; those that are here already are not fresh.

        Of two different receipts with one number, the first stays, unless the second is of an epoch in which its node counts anew.
        """
        table, found = tables.receipts, list[Kept]()
        with self._write() as db:
            sequences = defaultdict[str, list[int]](list)
            for row in rows:
                sequences[row.node].append(row.sequence)
            here: dict[tuple[str, int], tuple[bytes, int]] = {}
            newest: dict[str, Newest | None] = {}
            for node, mine in sequences.items():
                query = select(table.c.sequence, table.c.sealed, table.c.epoch).where(table.c.node == node, table.c.sequence.in_(mine))
                here |= {(node, sequence): (sealed, epoch) for sequence, sealed, epoch in db.execute(query)}
                last = select(table.c.epoch, table.c.sequence, table.c.at).where(table.c.node == node)
                last = last.order_by(table.c.epoch.desc(), table.c.sequence.desc()).limit(1)
                newest[node] = next((Newest(*one) for one in db.execute(last)), None)
            new: dict[tuple[str, int], ReceiptRow] = {}
            for row in rows:
                before = here.get(key := (row.node, row.sequence))
                if before is not None and before[0] == row.sealed:
                    found.append(Kept(is_fresh=False, epoch=before[1]))
                    continue
                epoch = epoch_of(newest[row.node], sequence=row.sequence, at=row.at)
                if before is not None and epoch <= before[1]:
                    log.warning("receipt.not_kept", node=row.node, sequence=row.sequence, reason="another of this number came first")
                    found.append(Kept(is_fresh=False, epoch=None))
                    continue
                if before is not None:  # Its node counts anew.
                    log.warning("receipt.replaced", node=row.node, sequence=row.sequence)
                    db.execute(delete(table).where(table.c.node == row.node, table.c.sequence == row.sequence))
                newest[row.node] = newer(newest[row.node], Newest(epoch, row.sequence, row.at))
                here[key], new[key] = (row.sealed, epoch), replace(row, epoch=epoch)
                found.append(Kept(is_fresh=True, epoch=epoch, replaces=before is not None))
            if new:
                db.execute(insert(table), [_fields(row) for row in new.values()])
            for row in new.values():
                what = f"{row.model} {row.version}" if row.version else (row.model or "a message")
                text = f"node {row.node}: {row.outcome} {what}" + (f" [{row.code}]" if row.code else "")
                body = {"node": row.node, "outcome": row.outcome, "model": row.model, "version": row.version, "code": row.code}
                self._event(db, "receipt", text, {**body, "reason": row.reason, "digest": row.digest.hex() if row.digest else None})
        return found

    def receipts(self, model: str | None = None, node: str | None = None, limit: int | None = None) -> list[ReceiptRow]:
        """Return receipts, the newest of each node first."""
        table = tables.receipts.c
        query = select(tables.receipts).order_by(table.node, table.epoch.desc(), table.sequence.desc())
        if model is not None:
            query = query.where(tables.receipts.c.model == model)
        if node is not None:
            query = query.where(tables.receipts.c.node == node)
        return self._rows(ReceiptRow, query.limit(limit))

    def add_early_receipt(self, node: str, sealed: bytes, *, at_most: int) -> bool:
        """Keep a receipt until its node's key is known; False when `at_most` wait already."""
        with self._write() as db:
            if int(db.execute(select(func.count()).select_from(tables.early_receipts)).scalar() or 0) >= at_most:
                return False
            db.execute(insert(tables.early_receipts).values(node=node, at=self._now(), sealed=sealed))
        return True

    def early_receipts(self) -> list[EarlyReceiptRow]:
        """Return what waits, oldest first."""
        return self._rows(EarlyReceiptRow, select(tables.early_receipts).order_by(tables.early_receipts.c.id))

    def drop_early_receipt(self, row_id: int) -> None:
        """Drop a receipt that waits no more."""
        with self._write() as db:
            db.execute(delete(tables.early_receipts).where(tables.early_receipts.c.id == row_id))

    # Commands

    def add_command(self, model: str, command: Command) -> int:
        """Queue a command for the hub; it answers within a second or two of running."""
        asked = {"kind": commands.kind_of(command), "body": commands.body_of(command)}
        with self._write() as db:
            values = {"at": self._now(), "model": model, **asked, "state": "open", "code": "", "text": "", "actor": self.database.actor}
            return _inserted(db, tables.commands, values)

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

    # Rollouts

    def rollout_rows(self) -> list[RolloutRow]:
        """Return the controller's working state, a row a deployment."""
        table = tables.rollouts
        return self._rows(RolloutRow, select(table).order_by(table.c.model, table.c.deployment))

    def put_rollout_row(self, row: RolloutRow, happened: str = "", actor: str | None = None) -> None:
        """Keep the working state; `happened` is a sentence for those who watch, where something did; `actor` asked for it."""
        with self._write() as db:
            _put(db, tables.rollouts, {"model": row.model, "deployment": row.deployment}, _fields(row))
            if happened:
                facts = {"model": row.model, "deployment": row.deployment, "serial": row.serial}
                self._event(db, "rollout", happened, facts, actor or self.database.actor)

    def drop_rollout_row(self, model: str, deployment: str, happened: str, *, actor: str | None = None) -> None:
        """Drop the working state of a deployment that was taken away."""
        with self._write() as db:
            db.execute(_where(delete(tables.rollouts), tables.rollouts, {"model": model, "deployment": deployment}))
            self._event(db, "rollout", happened, {"model": model, "deployment": deployment}, actor or self.database.actor)

    # Windows

    def add_windows(self, rows: Sequence[WindowRow]) -> list[bool]:
        """Add windows to their intervals, all in one transaction; False for those whose id was seen."""
        with self._write() as db:
            ids = [row.id for row in rows]
            seen = set(db.execute(select(tables.windows_seen.c.id).where(tables.windows_seen.c.id.in_(ids))).scalars())
            fresh: list[bool] = []
            members: dict[IntervalKey, list[WindowRow]] = {}
            for row in rows:
                fresh.append(row.id not in seen)
                if fresh[-1]:
                    seen.add(row.id)
                    members.setdefault((row.release, row.cohort, row.start, row.seconds, row.calibrated), []).append(row)
            new = [{"id": row.id, "at": self._now()} for row, is_fresh in zip(rows, fresh, strict=True) if is_fresh]
            if new:
                db.execute(insert(tables.windows_seen), new)
                _add_to_intervals(db, members, self._now())
        return fresh

    def intervals(self, model: str, since: int | None = None) -> list[IntervalRow]:
        """Return a model's intervals that started at `since` or later, oldest first."""
        table = tables.intervals
        query = select(table).where(table.c.model == model).order_by(table.c.start, table.c.cohort)
        return self._intervals(query if since is None else query.where(table.c.start >= since))

    def unsettled_intervals(self, before: int) -> list[IntervalRow]:
        """Return intervals with windows that were not tested yet, the last of which came at `before` or earlier."""
        return self._intervals(_UNSETTLED, before=before)

    def count_open_intervals(self) -> dict[tuple[str, str], int]:
        """Return how many intervals every (model, cohort) has that were not tested yet; 0 where all were."""
        table = tables.intervals
        untested = func.sum((table.c.windows > table.c.tested_windows).cast(Integer))
        with self._read() as db:
            rows = db.execute(select(table.c.model, table.c.cohort, untested).group_by(table.c.model, table.c.cohort)).all()
        return {(model, cohort): int(count or 0) for model, cohort, count in rows}

    def mark_tested(
        self,
        row: IntervalRow,
        *,
        alarmed: bool,
        drift: Drift | None = None,
        learnt: Learnt | None = None,
        left: int | None = None,
        newest: bool = False,
    ) -> None:
        """Mark an interval as tested with the windows that `row` has.

        With its result, and what its stream has learnt of it, unless too few nodes were heard. That only `left` windows are left to be
        tested is remembered, so that the whole is not shown. `newest`: the result is retained on its model's topic.
        """
        with self._write() as db:
            values = {"tested_windows": row.windows, "alarmed": alarmed}
            db.execute(_where(update(tables.intervals), tables.intervals, row.key).values(values))
            db.execute(_where(delete(tables.withheld), tables.withheld, row.key))
            if left is not None:
                db.execute(insert(tables.withheld).values({**row.key, "windows_left": left}))
            if drift is not None:
                self._drift(db, drift)
                if newest:
                    newest_row = {"model": drift.model, "tested_at": self._now(), "body": drift.model_dump_json()}
                    _put(db, tables.newest_drifts, {"model": drift.model}, newest_row)
            if learnt is not None:
                stream, counted = learnt
                _put(db, tables.streams, {"release": stream.release, "cohort": stream.cohort}, _fields(stream))
                values = _fields(counted)
                key = {name: value for name, value in values.items() if name != "part"}
                _put(db, tables.counted, key, {**values, "at": self._now()})

    def counted(self, release: bytes, cohort: str, start: int, seconds: int, *, calibrated: bool) -> str | None:
        """Return what its stream has counted of an interval, as `mark_tested` was given it; None where it has counted nothing."""
        key = {"release": release, "cohort": cohort, "start": start, "seconds": seconds, "calibrated": calibrated}
        with self._read() as db:
            found: str | None = db.execute(_where(select(tables.counted.c.part), tables.counted, key)).scalar()
        return found

    def streams(self) -> list[StreamRow]:
        """Return every release in every cohort that was tested within the time for which late windows are taken."""
        table = tables.streams.c
        query = select(tables.streams).where(table.at >= self._now() - STREAM_SECONDS).order_by(table.model, table.cohort)
        return self._rows(StreamRow, query)

    def _intervals(self, query: Any, **values: int) -> list[IntervalRow]:
        with self._read() as db:
            rows = db.execute(query, values).mappings().all()
        return [IntervalRow(**{**row, "counts": tuple(array("q", row["counts"]))}) for row in rows]

    # Insights and alerts

    def drifts(self, model: str | None = None, limit: int | None = None, *, of_signals: bool = False) -> list[Drift]:
        """Return tested intervals, the newest interval first; `of_signals`: none that are about accuracy."""
        table = tables.drifts.c
        query = select(table.body).order_by(table.start.desc(), table.cohort, table.calibrated.desc())
        if model is not None:
            query = query.where(tables.drifts.c.model == model)
        if of_signals:
            query = query.where(tables.drifts.c.about == "")
        with self._read() as db:
            return [Drift.model_validate_json(body) for body in db.execute(query.limit(limit)).scalars()]

    def newest_drifts(self, model: str | None = None) -> list[Drift]:
        """Return the test that is retained on each model's topic, or on that of one model."""
        table = tables.newest_drifts.c
        query = select(table.body).order_by(table.model)
        with self._read() as db:
            found = db.execute(query if model is None else query.where(table.model == model)).scalars()
            return [Drift.model_validate_json(body) for body in found]

    def alerts_of(self, kind: str) -> list[Alert]:
        """Return every alert of a kind that is kept."""
        with self._read() as db:
            found = db.execute(select(tables.alerts.c.body).where(tables.alerts.c.kind == kind)).scalars()
            return [Alert.model_validate_json(body) for body in found]

    def _drift(self, db: Connection, drift: Drift) -> None:
        key = {name: getattr(drift, name) for name in ("model", "version", "cohort", "start", "seconds")}
        key |= {"calibrated": drift.calibrated is True, "about": drift.about or ""}
        table, now = tables.drifts, self._now()
        first = db.execute(select(table.c.first_tested_at).where(*[table.c[name] == value for name, value in key.items()])).scalar()
        values = {
            "first_tested_at": now if first is None else first,
            "tested_at": now,
            "alarm": drift.alarm,
            "body": drift.model_dump_json(),
        }
        _put(db, table, key, {**key, **values})
        found = f"{'ALARM' if drift.alarm else 'no alarm'} over {counted(drift.windows, 'window')}"
        text = f"{drift.model} {drift.version}, cohort {drift.cohort}: {found}"
        self._event(db, "drift", text, {"drift": drift.model_dump(mode="json")})

    def add_alert(self, alert: Alert) -> int:
        """Keep an alert."""
        with self._write() as db:
            self._event(db, "alert", alert.text, {"alert": alert.model_dump(mode="json")})
            values = {"at": alert.at, "kind": alert.kind, "model": alert.model, "body": alert.model_dump_json()}
            return _inserted(db, tables.alerts, values)

    def alerts(self, limit: int = 100, since_id: int = 0) -> list[AlertRow]:
        """Return alerts after `since_id`, oldest first; the newest `limit` of them."""
        table = tables.alerts
        with self._read() as db:
            rows = db.execute(select(table.c.id, table.c.body).where(table.c.id > since_id).order_by(table.c.id.desc()).limit(limit)).all()
        return [AlertRow(one, Alert.model_validate_json(body)) for one, body in reversed(rows)]

    def silence_alerts(self) -> dict[str, int]:
        """Return when the silence of each node was last reported, as far as alerts are kept."""
        table = tables.alerts
        with self._read() as db:
            found = db.execute(select(table.c.at, table.c.body).where(table.c.kind == "node_silent").order_by(table.c.id)).all()
        return {str(json.loads(body).get("node")): at for at, body in found}

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

    # What the broker holds for us

    def retained(self) -> list[RetainedRow]:
        """Return every payload that we had the broker retain, the oldest expiry first."""
        return self._rows(RetainedRow, select(tables.retained).order_by(tables.retained.c.expires_at))

    def forget_retained(self) -> None:
        """Forget all retained payloads, since the broker lost everything."""
        with self._write() as db:
            db.execute(delete(tables.retained))

    def note_sends(self, sends: Sequence[tuple[bytes, int, int | None]], cleared: Sequence[bytes]) -> None:
        """Note what one turn of the block server sends and clears, in one transaction; sends are (digest, bytes, expires_at or None)."""
        with self._write() as db:
            for digest, size_bytes, expires_at in sends:
                _count(db, digest, size_bytes)
                if expires_at is not None:
                    _put_retained(db, digest, size_bytes, expires_at)
            if cleared:
                db.execute(delete(tables.retained).where(tables.retained.c.digest.in_(list(cleared))))

    def publish_counts(self, digests: Sequence[bytes] | None = None) -> dict[bytes, int]:
        """Return how often each payload was published."""
        query = select(tables.publishes.c.digest, tables.publishes.c.count)
        if digests is not None:
            query = query.where(tables.publishes.c.digest.in_(list(digests)))
        with self._read() as db:
            return {row.digest: int(row[1]) for row in db.execute(query)}

    # Events

    def add_event(self, kind: str, text: str, body: Mapping[str, Any] | None = None, *, actor: str | None = None) -> None:
        """Keep an event, for programs and people who watch; `actor` asked for it, else it was this process."""
        with self._write() as db:
            self._event(db, kind, text, body or {}, actor or (self.database.actor if kind in CHANGES else None))

    def events(self, since_id: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return events after `since_id`, oldest first."""
        query = select(tables.events).where(tables.events.c.id > since_id).order_by(tables.events.c.id).limit(limit)
        with self._read() as db:
            return [EventRow(**{**row, "body": json.loads(row["body"])}) for row in db.execute(query).mappings()]

    def changes(self, *, since: int | None = None, limit: int = 1000) -> list[EventRow]:
        """Return changes of the fleet, the newest first: those that have an actor, and of earlier versions those of their kinds."""
        table = tables.events
        query = select(table).where(table.c.actor.is_not(None) | table.c.kind.in_(sorted(CHANGES))).order_by(table.c.id.desc()).limit(limit)
        with self._read() as db:
            found = db.execute(query if since is None else query.where(table.c.at >= since)).mappings()
            return [EventRow(**{**row, "body": json.loads(row["body"])}) for row in found]

    def last_event_id(self) -> int:
        """Return the newest event's id."""
        with self._read() as db:
            return int(db.execute(select(func.max(tables.events.c.id))).scalar() or 0)

    def prune(self, *, events_kept: int = 100_000, ids_days: int = 35, intervals_days: int = 400, history_days: int = 400) -> None:
        """Forget what is no longer asked for.

        Ids of long-gone windows, intervals that were tested, drifts, alerts and refusals that are so old, and all but the newest events.
        """
        day, now = 24 * 3600, self._now()
        with self._write() as db:
            table, withheld, tested_before = tables.intervals, tables.withheld, now - intervals_days * day
            db.execute(delete(tables.windows_seen).where(tables.windows_seen.c.at < now - ids_days * day))
            db.execute(delete(table).where(table.c.last_at < tested_before, table.c.windows <= table.c.tested_windows))
            kept = select(table.c.start).where(*(withheld.c[name] == table.c[name] for name in INTERVAL_KEY))
            db.execute(delete(withheld).where(~kept.exists()))
            for table in (tables.counted, tables.streams):  # streams and counts to which no window can come any more
                db.execute(delete(table).where(table.c.at < now - ids_days * day))
            for table in (tables.drifts, tables.newest_drifts):
                db.execute(delete(table).where(table.c.tested_at < now - history_days * day))
            db.execute(delete(tables.alerts).where(tables.alerts.c.at < now - history_days * day))
            db.execute(delete(tables.refusals).where(tables.refusals.c.at < now - history_days * day))
            newest = db.execute(select(func.max(tables.events.c.id))).scalar() or 0
            db.execute(delete(tables.events).where(tables.events.c.id <= newest - events_kept))

    def _event(self, db: Connection, kind: str, text: str, body: Mapping[str, Any], actor: str | None = None) -> None:
        db.execute(insert(tables.events).values(at=self._now(), kind=kind, text=text, body=json.dumps(body), actor=actor))

    # The database

    def _now(self) -> int:
        return self.database.now()

    def _read(self) -> AbstractContextManager[Connection]:
        return self.database.read()

    def _write(self) -> AbstractContextManager[Connection]:
        return self.database.write()

    def _rows(self, kind: Callable[..., Any], query: Any) -> list[Any]:
        return self.database.rows(kind, query)


def _add_to_intervals(db: Connection, members: Mapping[IntervalKey, Sequence[WindowRow]], now: int) -> None:
    known = _known_intervals(db, members)
    added: list[dict[str, Any]] = []
    grown: list[dict[str, Any]] = []
    for key, those in members.items():
        sums, found = add_up(those, [row.group for row in those]), known.get(key)
        if found is not None:
            sums = merge(_sums(found), sums, tested=found["tested_windows"] > 0)
        values = {
            "windows": sums.windows,
            "rows": sums.rows,
            "reference_rows": sums.reference_rows,
            "noise_units": sums.noise_units,
            "late": sums.late,
            "last_at": now,
            "counts": sums.counts.tobytes(),
            "subgroups": sums.groups.tobytes(),
        }
        if found is None:
            fields = dict(zip(INTERVAL_KEY, key, strict=True))
            added.append({**fields, **values, "model": those[0].model, "tested_windows": 0, "alarmed": False})
        else:
            grown.append({**{f"its_{name}": part for name, part in zip(INTERVAL_KEY, key, strict=True)}, **values})
    if added:
        db.execute(insert(tables.intervals), added)
    if grown:
        db.execute(_GROW, grown)


def _sums(found: Mapping[str, Any]) -> Sums:
    counts, groups = np.frombuffer(found["counts"], np.int64), np.frombuffer(found["subgroups"], np.int64)
    return Sums(found["windows"], found["rows"], found["reference_rows"], found["noise_units"], counts, groups, found["late"])


def _known_intervals(db: Connection, keys: Iterable[IntervalKey]) -> dict[IntervalKey, Mapping[str, Any]]:
    """Return those of the intervals that there are already, with one query for each cohort."""
    table = tables.intervals
    starts: dict[tuple[bytes, str], set[int]] = {}
    for release, cohort, start, _, _ in keys:
        starts.setdefault((release, cohort), set()).add(start)
    found: dict[IntervalKey, Mapping[str, Any]] = {}
    for (release, cohort), mine in starts.items():
        here = (table.c.release == release) & (table.c.cohort == cohort) & table.c.start.in_(sorted(mine))
        for row in db.execute(select(table).where(here)).mappings():
            found[release, cohort, row["start"], row["seconds"], bool(row["calibrated"])] = dict(row)
    return found


def _command_row(*, kind: str, body: str, **columns: Any) -> CommandRow:
    try:
        command: Command | Refused = commands.read(kind, body)
    except Refused as refusal:  # for the hub to answer with; the other commands are still read
        command = refusal
    return CommandRow(kind=kind, command=command, **columns)


def _put_retained(db: Connection, digest: bytes, size_bytes: int, expires_at: int) -> None:
    _put(db, tables.retained, {"digest": digest}, {"digest": digest, "bytes": size_bytes, "expires_at": expires_at})


def _count(db: Connection, digest: bytes, size_bytes: int) -> None:
    table = tables.publishes
    change = update(table).where(table.c.digest == digest).values(count=table.c.count + 1, bytes=table.c.bytes + size_bytes)
    if not db.execute(change).rowcount:
        db.execute(insert(table).values(digest=digest, count=1, bytes=size_bytes))

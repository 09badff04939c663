"""Forgets what is no longer asked for: how long each table keeps its rows, and their removal in pieces that keep nobody waiting.

What a running rollout, an open alarm, an interval that was not tested, or an alert on its way to a receiver needs stays, whatever its age.
Tables that are not here do not grow with time: docs/operations.md lists all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, delete, func, not_, or_, select, tuple_

from hub.core.drift.episodes import Episode
from hub.database import tables
from hub.database.connection import Database
from hub.database.rows import INTERVAL_KEY

DAY = 86_400
KNOWN_DAYS = 8  # A drift counts as known for seven (hub/operations/known_drifts.py).
CONSOLE_DAYS = 8  # A session of the console ends after seven.
PIECE = 500  # Rows of one transaction.
BLUEPRINTS_KEPT = 100  # The newest revisions of the blueprint, which are kept whatever their age.
BLUEPRINTS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Retention:
    """Say for how many days rows are kept; `needed_from` is since when running rollouts need the history of their models."""

    ids_days: int = 35
    intervals_days: int = 400
    history_days: int = 400
    receipts_days: int = 400
    events_kept: int = 100_000
    needed_from: Mapping[str, int] = field(default_factory=dict)


def pieces(database: Database, kept: Retention) -> Iterator[int]:
    """Remove what is too old, a piece each time that the next value is asked for: how many rows it had."""
    with database.read() as db:
        needed = _needed(db, kept.needed_from)
        found = [(table, query) for table, query in _rules(db, kept, needed, database.now())]
    for table, query in found:
        removed = PIECE
        while removed == PIECE:
            with database.write() as db:
                removed = _remove(db, table, query)
            if removed:
                yield removed


def _remove(db: Connection, table: Table, query: Select[Any]) -> int:
    keys = [tuple(row) for row in db.execute(query.limit(PIECE))]
    if keys:
        db.execute(delete(table).where(tuple_(*table.primary_key.columns).in_(keys)))
        if table is tables.intervals:
            db.execute(delete(tables.withheld).where(tuple_(*(tables.withheld.c[name] for name in INTERVAL_KEY)).in_(keys)))
    return len(keys)


def _needed(db: Connection, running: Mapping[str, int]) -> dict[str, int]:
    """Return since when the history of each model is needed: by its running rollout, or by an alarm that is not over."""
    found = dict(running)
    streams = tables.streams.c
    for model, body in db.execute(select(streams.model, streams.episode).where(streams.episode.is_not(None))):
        found[model] = min(found.get(model, Episode.model_validate_json(body).since), Episode.model_validate_json(body).since)
    return found


def _rules(db: Connection, kept: Retention, needed: Mapping[str, int], now: int) -> Iterator[tuple[Table, Select[Any]]]:
    """Yield for each table that grows with time the keys of what is too old in it."""
    ids, history = now - kept.ids_days * DAY, now - kept.history_days * DAY
    yield _old(tables.windows_seen, tables.windows_seen.c.at < ids)
    for table in (tables.counted, tables.streams):  # Streams and counts to which no window can come any more.
        yield _old(table, table.c.at < ids)
    intervals, drifts, alerts = tables.intervals.c, tables.drifts.c, tables.alerts.c
    before = now - kept.intervals_days * DAY
    settled = intervals.windows <= intervals.tested_windows
    yield _old(tables.intervals, intervals.last_at < before, settled, _not_needed(intervals.model, intervals.last_at, needed))
    yield _old(tables.drifts, drifts.tested_at < history, _not_needed(drifts.model, drifts.tested_at, needed))
    yield _old(tables.newest_drifts, tables.newest_drifts.c.tested_at < history)
    waiting = select(tables.deliveries.c.alert)
    yield _old(tables.alerts, alerts.at < history, _not_needed(alerts.model, alerts.at, needed), alerts.id.not_in(waiting))
    yield _old(tables.refusals, tables.refusals.c.at < history)
    yield _old(tables.known_drifts, tables.known_drifts.c.at < now - KNOWN_DAYS * DAY)
    yield _old(tables.release_hours, tables.release_hours.c.hour < history)
    yield _receipts(kept, needed, now)
    commands = tables.commands.c
    yield _old(tables.commands, commands.at < history, commands.state != "open")
    yield _old(tables.api_requests, tables.api_requests.c.at < now - DAY)
    yield _old(tables.api_tokens, tables.api_tokens.c.expires_at < history)
    yield _old(tables.console_sessions, tables.console_sessions.c.made_at < now - CONSOLE_DAYS * DAY)
    yield _old(tables.console_links, tables.console_links.c.expires_at < now)
    yield _old(tables.publishes, tables.publishes.c.last_at < history)
    blueprints = tables.blueprints.c
    last = int(db.execute(select(func.max(blueprints.revision))).scalar() or 0)
    yield _old(tables.blueprints, blueprints.revision <= last - BLUEPRINTS_KEPT, blueprints.at < history)
    yield _old(tables.blueprints, blueprints.revision <= last - BLUEPRINTS_MAX)
    events = tables.events.c
    newest = int(db.execute(select(func.max(events.id))).scalar() or 0)
    beyond = events.id <= newest - kept.events_kept
    yield _old(tables.events, beyond, events.actor.is_(None))
    yield _old(tables.events, beyond, events.actor.is_not(None), events.at < history)


def _old(table: Table, *which: Any) -> tuple[Table, Select[Any]]:
    return table, select(*table.primary_key.columns).where(*which)


def _receipts(kept: Retention, needed: Mapping[str, int], now: int) -> tuple[Table, Select[Any]]:
    """Choose receipts but those of what is served, and each node's newest, which says how the next one is to be read."""
    receipts, serving = tables.receipts.c, tables.serving.c
    later = tables.receipts.alias("later")
    is_newest = (
        ~select(later.c.node)
        .where(
            later.c.node == receipts.node,
            or_(later.c.epoch > receipts.epoch, and_(later.c.epoch == receipts.epoch, later.c.sequence > receipts.sequence)),
        )
        .exists()
    )
    is_served = select(serving.node).where(serving.node == receipts.node, serving.served_by == receipts.sequence).exists()
    before = now - kept.receipts_days * DAY
    return _old(
        tables.receipts, receipts.received_at < before, ~is_served, ~is_newest, _not_needed(receipts.model, receipts.received_at, needed)
    )


def _not_needed(model: Any, at: Any, needed: Mapping[str, int]) -> Any:
    """Return the condition that no running rollout and no open alarm needs a row."""
    ours = [and_(model == name, at >= since) for name, since in needed.items()]
    return or_(model.is_(None), not_(or_(*ours))) if ours else True

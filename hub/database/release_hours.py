"""Keeps how many nodes have served which release, a row an hour and model: what receipts alone would tell only by reading all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from hub.database import tables
from hub.database.connection import Database, put

HOUR = 3600


@dataclass(frozen=True, slots=True)
class ReleaseHour:
    """Hold an hour of a model: nodes by the version that they served at its end, and for how long of it the hub heard its nodes."""

    hour: int  # When it began, in seconds since 1970.
    model: str
    counts: Mapping[str, int]
    listened_seconds: float


class ReleaseHours:
    """Read and write the hours of releases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, hours: Sequence[ReleaseHour]) -> None:
        """Keep hours, in place of what was known of them. A power cut may take them away again: the next look writes them."""
        if not hours:
            return
        with self._database.write_soon() as db:
            for one in hours:
                key = {"hour": one.hour, "model": one.model}
                counts = json.dumps(dict(sorted(one.counts.items())), separators=(",", ":"))
                put(db, tables.release_hours, key, {**key, "counts": counts, "listened_seconds": one.listened_seconds})

    def of_model(self, model: str, *, since: int) -> list[ReleaseHour]:
        """Return the hours of a model from a moment on, and the last one before it, the oldest first."""
        table = tables.release_hours.c
        with self._database.read() as db:
            before = db.execute(select(func.max(table.hour)).where(table.model == model, table.hour < since)).scalar()
            rows = db.execute(
                select(tables.release_hours)
                .where(table.model == model, table.hour >= (since if before is None else int(before)))
                .order_by(table.hour)
            )
            return [ReleaseHour(row.hour, row.model, json.loads(row.counts), row.listened_seconds) for row in rows]

    def serving_now(self) -> dict[str, dict[str, int]]:
        """Return how many nodes serve which version of each model, by their receipts."""
        serving, receipts = tables.serving.c, tables.receipts.c
        query = (
            select(receipts.model, receipts.version, func.count())
            .select_from(tables.serving)
            .join(tables.receipts, (receipts.node == serving.node) & (receipts.sequence == serving.served_by))
            .where(serving.digest.is_not(None), receipts.version.is_not(None))
            .group_by(receipts.model, receipts.version)
        )
        found: dict[str, dict[str, int]] = {}
        with self._database.read() as db:
            for model, version, nodes in db.execute(query):
                found.setdefault(model, {})[version] = int(nodes)
        return found

    def listened_in(self, hour: int) -> float:
        """Return for how long of an hour the hub has heard its nodes, as it is kept."""
        table = tables.release_hours.c
        with self._database.read() as db:
            return float(db.execute(select(func.max(table.listened_seconds)).where(table.hour == hour)).scalar() or 0.0)

"""What the hub remembers of streams, each one release in one cohort over time. Statements over a connection; the transaction is the
store's.

What a detector has learnt, and which counts of an interval it has learnt from, become durable together with the interval's test: after a
crash an interval is either wholly counted or not at all.
"""

from array import array
from typing import Any

from sqlalchemy import Connection, delete, select

from hub.database import fields, put, where
from hub.rows import IntervalRow, StreamRow
from hub.tables import counted, streams


def keep(db: Connection, row: IntervalRow, stream: StreamRow, *, now: int) -> None:
    """The stream after it has counted all that `row` has."""
    put(db, streams, {"release": row.release, "cohort": row.cohort}, fields(stream))
    key = _key(row)
    put(db, counted, key, {**key, "windows": row.windows, "counts": array("q", row.counts).tobytes(), "at": now})


def counted_of(db: Connection, row: IntervalRow) -> tuple[int, tuple[int, ...]]:
    """How many windows of an interval its stream has counted, and their counts; 0 and none where it has none."""
    found = db.execute(where(select(counted.c.windows, counted.c.counts), counted, _key(row))).first()
    return (0, ()) if found is None else (int(found.windows), tuple(array("q", found.counts)))


def since(db: Connection, moment: int) -> list[StreamRow]:
    """The streams that were tested at `moment` or later."""
    query = select(streams).where(streams.c.at >= moment).order_by(streams.c.model, streams.c.cohort)
    return [StreamRow(**row) for row in db.execute(query).mappings()]


def forget(db: Connection, before: int) -> None:
    """Streams and counts of which nothing can come any more."""
    for table in (counted, streams):
        db.execute(delete(table).where(table.c.at < before))


def _key(row: IntervalRow) -> dict[str, Any]:
    return {"release": row.release, "cohort": row.cohort, "start": row.start, "seconds": row.seconds}

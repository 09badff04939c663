"""What the hub remembers of streams, each one release in one cohort over time. Statements over a connection; the transaction is the
store's.

What a detector has learnt, and which counts of an interval it has learnt from, become durable together with the interval's test: after a
crash an interval is either wholly counted or not at all.
"""

from sqlalchemy import Connection, delete, select

from hub.database.connection import fields, put, where
from hub.database.rows import CountedRow, StreamRow
from hub.database.tables import counted, streams

Learnt = tuple[StreamRow, CountedRow]  # a stream after an interval, and what of the interval it has counted


def keep(db: Connection, stream: StreamRow, counted_row: CountedRow, *, now: int) -> None:
    """The stream after it has counted all that the row has."""
    put(db, streams, {"release": stream.release, "cohort": stream.cohort}, fields(stream))
    values = fields(counted_row)
    put(db, counted, {name: value for name, value in values.items() if name != "part"}, {**values, "at": now})


def counted_of(db: Connection, *, release: bytes, cohort: str, start: int, seconds: int, calibrated: bool) -> str | None:
    """What its stream has counted of an interval; None where it has counted nothing."""
    key = {"release": release, "cohort": cohort, "start": start, "seconds": seconds, "calibrated": calibrated}
    found: str | None = db.execute(where(select(counted.c.part), counted, key)).scalar()
    return found


def since(db: Connection, moment: int) -> list[StreamRow]:
    """The streams that were tested at `moment` or later."""
    query = select(streams).where(streams.c.at >= moment).order_by(streams.c.model, streams.c.cohort)
    return [StreamRow(**row) for row in db.execute(query).mappings()]


def forget(db: Connection, before: int) -> None:
    """Streams and counts of which nothing can come any more."""
    for table in (counted, streams):
        db.execute(delete(table).where(table.c.at < before))

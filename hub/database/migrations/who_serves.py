"""Find who serves what by reading every receipt once: for revision 0002, and again where an earlier hub ran in between.

Like a revision, it has its own copy of the tables, and is never changed.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, MetaData, String, Table, delete, insert, text

PIECE = 5_000

metadata = MetaData()
serving = Table(
    "serving",
    metadata,
    Column("node", String(64), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("digest", LargeBinary),
    Column("served_by", BigInteger),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("serving_by_release", "digest"),
)
proofs = Table("proofs", metadata, Column("node", String(64), primary_key=True), Column("body", LargeBinary, nullable=False))


def fill(db: Connection) -> None:
    """Find what each node serves of each model: the release of its newest receipt that says so, unless it went back from that one.

    What receipts prove is folded by the hub, at its next start.
    """
    db.execute(delete(serving))
    db.execute(delete(proofs))
    rows = list[dict[str, Any]]()
    for one in _serves(db):
        rows.append(one)
        if len(rows) == PIECE:
            db.execute(insert(serving), rows)
            rows = []
    if rows:
        db.execute(insert(serving), rows)


def _serves(db: Connection) -> Iterator[dict[str, Any]]:
    query = "SELECT node, model, outcome, digest, epoch, sequence FROM receipts WHERE model IS NOT NULL ORDER BY node, epoch, sequence"
    # The option is the query's alone: set on the connection it would have PostgreSQL read inserts by a cursor, too.
    for node, receipts in groupby(db.execute(text(query), execution_options={"yield_per": PIECE}), key=lambda row: row.node):
        found: dict[str, dict[str, Any]] = {}
        for row in receipts:
            one = found.setdefault(row.model, {"node": node, "model": row.model, "digest": None, "served_by": None})
            one |= {"epoch": row.epoch, "sequence": row.sequence}
            if row.outcome == "serving":
                one |= {"digest": row.digest, "served_by": row.sequence}
            elif row.outcome == "rolled_back" and one["digest"] == row.digest:
                one |= {"digest": None, "served_by": None}
        yield from found.values()

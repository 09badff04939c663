"""Keep who serves what beside the receipts, so that no start and no command reads all of them; index what is asked for and pruned."""

import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, MetaData, String, Table, insert, text

revision, down_revision = "0002", "0001"
PIECE = 5_000

_metadata = MetaData()
_serving = Table(
    "serving",
    _metadata,
    Column("node", String(64), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("digest", LargeBinary),
    Column("served_by", BigInteger),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("serving_by_release", "digest"),
)
_proofs = Table("proofs", _metadata, Column("node", String(64), primary_key=True), Column("body", LargeBinary, nullable=False))


def upgrade() -> None:
    """Add tables, columns and indices, and read every receipt once."""
    db = op.get_bind()
    _metadata.create_all(db)
    op.add_column("heard", Column("last_seen", BigInteger, nullable=False, server_default="0"))
    op.add_column("publishes", Column("last_at", BigInteger, nullable=False, server_default="0"))
    db.execute(text("UPDATE publishes SET last_at = :now"), {"now": int(time.time())})
    op.drop_index("receipts_by_model", "receipts")
    op.create_index("receipts_newest", "receipts", ["node", "epoch", "sequence"])
    op.create_index("receipts_by_release", "receipts", ["digest"])
    op.create_index("receipts_by_age", "receipts", ["received_at"])
    op.drop_index("ix_merged_intervals_model", "merged_intervals")
    op.create_index("merged_intervals_by_cohort", "merged_intervals", ["model", "cohort", "start"])
    op.create_index("alerts_by_kind", "alerts", ["kind", "at"])
    op.create_index("ix_certificates_not_after", "certificates", ["not_after"])
    _fill(db)


def _fill(db: Connection) -> None:
    """Find what each node serves of each model: the release of its newest receipt that says so, unless it went back from that one."""
    rows = list[dict[str, Any]]()
    for one in _serves(db):
        rows.append(one)
        if len(rows) == PIECE:
            db.execute(insert(_serving), rows)
            rows = []
    if rows:
        db.execute(insert(_serving), rows)


def _serves(db: Connection) -> Iterator[dict[str, Any]]:
    query = "SELECT node, model, outcome, digest, epoch, sequence FROM receipts WHERE model IS NOT NULL ORDER BY node, epoch, sequence"
    for node, receipts in groupby(db.execution_options(yield_per=PIECE).execute(text(query)), key=lambda row: row.node):
        found: dict[str, dict[str, Any]] = {}
        for row in receipts:
            one = found.setdefault(row.model, {"node": node, "model": row.model, "digest": None, "served_by": None})
            one |= {"epoch": row.epoch, "sequence": row.sequence}
            if row.outcome == "serving":
                one |= {"digest": row.digest, "served_by": row.sequence}
            elif row.outcome == "rolled_back" and one["digest"] == row.digest:
                one |= {"digest": None, "served_by": None}
        yield from found.values()

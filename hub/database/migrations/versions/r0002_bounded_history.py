"""Keep who serves what beside the receipts, so that no start and no command reads all of them; index what is asked for and pruned."""

import time

from alembic import op
from sqlalchemy import BigInteger, Column, text

from hub.database.migrations import who_serves

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add tables, columns and indices, and read every receipt once."""
    db = op.get_bind()
    who_serves.metadata.create_all(db)
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
    who_serves.fill(db)

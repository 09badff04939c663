"""Add to each request with an Idempotency-Key what was answered besides: a repetition is answered alike after a restart of the hub."""

from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    """Add the column; of requests of an earlier version it stays empty, and they are forgotten after a day."""
    op.add_column("api_requests", Column("besides", Text))

"""Add to each process of a hub how large a packet its broker takes: publishers on other machines cut blocks by it."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    """Add the column; processes fill it in when they next say that they are there."""
    op.add_column("members", Column("packet_bytes_max", BigInteger))

"""Add what is wrong with processes of a hub now, and in which folder each process runs: `fleetcast status` shows it."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision, down_revision = "0012", "0011"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table and the column; processes fill them in when they next say that they are there."""
    op.create_table(
        "troubles",
        Column("process", _characters(128), primary_key=True),
        Column("code", _characters(64), primary_key=True),
        Column("about", _characters(64), primary_key=True),
        Column("since", BigInteger, nullable=False),
        Column("text", Text, nullable=False),
    )
    op.add_column("members", Column("folder", Text, nullable=False, server_default=""))

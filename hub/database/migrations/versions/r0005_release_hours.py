"""Add the table of who served which release, hour by hour."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, String, Text

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "release_hours",
        Column("model", String(64).with_variant(Text(collation="C"), "postgresql"), primary_key=True),
        Column("hour", BigInteger, primary_key=True),
        Column("counts", Text, nullable=False),
        Column("listened_seconds", Double, nullable=False),
    )
    op.create_index("release_hours_by_age", "release_hours", ["hour"])

"""Add the tables of who served which release, hour by hour, and of drifts that somebody has looked at."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, String, Text

revision, down_revision = "0006", "0005"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "release_hours",
        Column("model", _characters(64), primary_key=True),
        Column("hour", BigInteger, primary_key=True),
        Column("counts", Text, nullable=False),
        Column("listened_seconds", Double, nullable=False),
    )
    op.create_index("release_hours_by_age", "release_hours", ["hour"])
    op.create_table(
        "known_drifts",
        Column("model", _characters(64), primary_key=True),
        Column("version", _characters(64), primary_key=True),
        Column("cohort", _characters(64), primary_key=True),
        Column("about", _characters(16), primary_key=True),
        Column("at", BigInteger, nullable=False),
        Column("evidence", Double, nullable=False),
        Column("actor", _characters(64), nullable=False),
    )

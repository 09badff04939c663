"""Add the table of blueprints: what was applied, when and by whom."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Text

revision, down_revision = "0004", "0003"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add it."""
    op.create_table(
        "blueprints",
        Column("revision", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("at", BigInteger, nullable=False),
        Column("actor", _characters(64), nullable=False),
        Column("state", _characters(16), nullable=False),
        Column("reason", Text, nullable=False),
        Column("changes", Integer, nullable=False),
        Column("done", Integer, nullable=False),
        Column("finished_at", BigInteger),
        Column("same_as", BigInteger),
        Column("digest", LargeBinary(32), nullable=False),
        Column("body", LargeBinary, nullable=False),
    )

"""Make the table of windows that wait until the hub's clock can date them."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Text

revision, down_revision = "0011", "0010"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table, empty."""
    op.create_table(
        "undated_windows",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("model", _characters(64), nullable=False),
        Column("cohort", _characters(64), nullable=False),
        Column("start", BigInteger, nullable=False),
        Column("window", LargeBinary, nullable=False),
    )

"""Make the tables of sessions that brokers may lose, and of nodes that are asked for windows that were lost with one."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, String, Text

revision, down_revision = "0010", "0009"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables, empty: a process writes its row when it first connects."""
    op.create_table(
        "window_sessions",
        Column("process", _characters(128), primary_key=True),
        Column("boot", _characters(64), nullable=False),
        Column("heard_at", Double),
        Column("is_judged", Boolean, nullable=False),
    )
    op.create_table(
        "window_requests",
        Column("process", _characters(128), primary_key=True),
        Column("node", _characters(64), primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("since", Double),
        Column("until", Double),
        Column("asks", BigInteger, nullable=False),
        Column("asked_at", Double, nullable=False),
        Column("due_at", Double, nullable=False),
        Column("session", BigInteger, nullable=False),
    )

"""Add the tables of the console: who is signed in, and links that sign somebody in once."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, String, Text

revision, down_revision = "0005", "0004"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "console_sessions",
        Column("digest", LargeBinary(32), primary_key=True),
        Column("name", _characters(64), nullable=False),
        Column("role", _characters(16), nullable=False),
        Column("token", _characters(16)),
        Column("made_at", BigInteger, nullable=False),
        Column("used_at", BigInteger, nullable=False),
        Column("looked_at", BigInteger, nullable=False),
        Column("before_at", BigInteger),
    )
    op.create_table(
        "console_links",
        Column("digest", LargeBinary(32), primary_key=True),
        Column("name", _characters(64), nullable=False),
        Column("role", _characters(16), nullable=False),
        Column("expires_at", BigInteger, nullable=False),
    )

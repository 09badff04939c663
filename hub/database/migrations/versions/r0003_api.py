"""Add the tables of the API: its tokens, and requests that carried an Idempotency-Key."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, String, Text

revision, down_revision = "0003", "0002"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "api_tokens",
        Column("id", _characters(16), primary_key=True),
        Column("name", _characters(64), nullable=False),
        Column("role", _characters(16), nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("made_at", BigInteger, nullable=False),
        Column("made_by", _characters(64), nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("revoked_at", BigInteger),
    )
    op.create_index("api_tokens_by_digest", "api_tokens", ["digest"], unique=True)
    op.create_table(
        "api_requests",
        Column("token", _characters(16), primary_key=True),
        Column("key", _characters(64), primary_key=True),
        Column("at", BigInteger, nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("command", BigInteger, nullable=False),
    )
    op.create_index("api_requests_by_age", "api_requests", ["at"])

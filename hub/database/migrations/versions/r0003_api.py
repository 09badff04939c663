"""Add the tables of the API: its tokens, and requests that carried an Idempotency-Key."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, String

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "api_tokens",
        Column("id", String(16), primary_key=True),
        Column("name", String(64), nullable=False),
        Column("role", String(16), nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("made_at", BigInteger, nullable=False),
        Column("made_by", String(64), nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("revoked_at", BigInteger),
    )
    op.create_index("api_tokens_by_digest", "api_tokens", ["digest"], unique=True)
    op.create_table(
        "api_requests",
        Column("token", String(16), primary_key=True),
        Column("key", String(64), primary_key=True),
        Column("at", BigInteger, nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("command", BigInteger, nullable=False),
    )
    op.create_index("api_requests_by_age", "api_requests", ["at"])

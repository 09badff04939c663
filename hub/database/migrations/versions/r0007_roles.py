"""Add the tables of a hub whose roles are apart: documents, who leads, which processes run, and which nodes were written of."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, LargeBinary, String, Text

revision, down_revision = "0007", "0006"


def _characters(most: int) -> String:
    return String(most).with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add all of them, empty."""
    op.create_table(
        "documents",
        Column("path", _characters(512), primary_key=True),
        Column("body", LargeBinary, nullable=False),
        Column("changed", BigInteger, nullable=False),
    )
    op.create_table(
        "document_changes",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("number", BigInteger, nullable=False),
    )
    op.create_table(
        "leadership",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("term", BigInteger, nullable=False),
        Column("holder", _characters(256), nullable=False),
        Column("since", BigInteger, nullable=False),
    )
    op.create_table(
        "members",
        Column("name", _characters(128), primary_key=True),
        Column("roles", _characters(64), nullable=False),
        Column("shard", _characters(16), nullable=False),
        Column("host", _characters(256), nullable=False),
        Column("pid", BigInteger, nullable=False),
        Column("version", _characters(64), nullable=False),
        Column("since", BigInteger, nullable=False),
        Column("beat_at", Double, nullable=False),
        Column("listens", Boolean, nullable=False),
        Column("term", BigInteger, nullable=False),
    )
    op.create_table(
        "touched_nodes",
        Column("node", _characters(64), primary_key=True),
        Column("xact", BigInteger, nullable=False),
    )
    op.create_index("ix_touched_nodes_xact", "touched_nodes", ["xact"])

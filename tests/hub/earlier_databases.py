"""Databases of earlier versions, made of one of this version."""

from typing import Protocol


class Connection(Protocol):
    """A connection of sqlite3 or of psycopg."""

    def execute(self, query: str, /) -> object:
        """Carry out one statement."""


ROLES = ("documents", "document_changes", "leadership", "members", "touched_nodes")


def as_before_versions(db: Connection) -> None:
    """Make the schema what it was before databases carried a version, with all rows."""
    for name in (
        "alembic_version",
        "serving",
        "proofs",
        "api_tokens",
        "api_requests",
        "blueprints",
        "console_sessions",
        "console_links",
        "release_hours",
        "known_drifts",
        "troubles",
        "window_sessions",
        "window_requests",
        "undated_windows",
        *ROLES,
    ):
        db.execute(f"DROP TABLE {name}")
    ours = ("receipts_newest", "receipts_by_release", "receipts_by_age", "merged_intervals_by_cohort", "alerts_by_kind")
    for name in (*ours, "ix_certificates_not_after"):
        db.execute(f"DROP INDEX {name}")
    db.execute("CREATE INDEX receipts_by_model ON receipts (model, received_at)")
    db.execute("CREATE INDEX ix_merged_intervals_model ON merged_intervals (model)")
    db.execute("ALTER TABLE heard DROP COLUMN last_seen")
    db.execute("ALTER TABLE publishes DROP COLUMN last_at")

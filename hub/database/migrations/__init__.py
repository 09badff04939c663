"""Bring a database to the schema of this program, one revision after another, by Alembic.

One transaction has all of it, under the database's own lock for writers: a process that is killed leaves the schema as it was, and of two
that begin at once the second finds nothing left to do. A revision that was released is never changed; the next one is added behind it.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from hub.database.schema_version import VERSION_TABLE

FORMER_TABLES = frozenset({"intervals", "rollouts", "drifts", "drift_results"})  # Tables that only earlier versions have.


# Indices that a hub without revisions makes anew at each start, where it finds them missing.
_OF_EARLIER_HUBS = {"receipts_by_model": "receipts", "ix_merged_intervals_model": "merged_intervals"}


def was_used_by_earlier_hub(db: Connection) -> bool:
    """Return whether a hub from before the revisions has run on a schema that has one: it follows no table that it does not know."""
    return any(one["name"] in _OF_EARLIER_HUBS for one in inspect(db).get_indexes("receipts"))


def follow_earlier_hub(db: Connection) -> None:
    """Bring the tables that such a hub does not know up to what it has written."""
    from hub.database.migrations import who_serves  # noqa: PLC0415

    for index, table in _OF_EARLIER_HUBS.items():
        if any(one["name"] == index for one in inspect(db).get_indexes(table)):
            db.execute(text(f"DROP INDEX {index}"))
    who_serves.fill(db)


def upgrade(db: Connection) -> None:
    """Run the revisions that the database lacks, in the transaction of this connection."""
    from alembic import command  # noqa: PLC0415  # most starts have nothing to bring over, and it takes a while to import
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, "head")
    if db.dialect.name == "postgresql":
        _without_bounds(db)


def _without_bounds(db: Connection) -> None:
    """Give PostgreSQL's columns of text the type that a new database has: revisions have bounds, which SQLite does not look at."""
    bounded = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() AND data_type = :kind"
    for table, column in db.execute(text(bounded), {"kind": "character varying"}).all():
        if table != VERSION_TABLE:
            db.execute(text(f'ALTER TABLE {table} ALTER COLUMN "{column}" TYPE TEXT COLLATE "C"'))

"""Bring a database to the schema of this program, one revision after another, by Alembic.

One transaction has all of it, under the database's own lock for writers: a process that is killed leaves the schema as it was, and of two
that begin at once the second finds nothing left to do. A revision that was released is never changed; the next one is added behind it.
"""

from pathlib import Path

from sqlalchemy import Connection

FORMER_TABLES = frozenset({"intervals", "rollouts", "drifts", "drift_results"})  # Tables that only earlier versions have.


def upgrade(db: Connection) -> None:
    """Run the revisions that the database lacks, in the transaction of this connection."""
    from alembic import command  # noqa: PLC0415  # most starts have nothing to bring over, and it takes a while to import
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, "head")

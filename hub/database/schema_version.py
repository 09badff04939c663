"""Knows which schema a database has, without Alembic and without SQLAlchemy: commands ask this first."""

from collections.abc import Collection

from schemas.errors import Code, Refused

VERSION_TABLE = "alembic_version"
# The revisions in hub/database/migrations, the oldest first.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012")
HEAD = REVISIONS[-1]


def check_not_newer(found: Collection[str]) -> None:
    """Check that no newer program made the schema; `found` are the revisions that the database names.

    Raises:
        Refused: SCHEMA_UNSUPPORTED.
    """
    unknown = sorted(set(found) - set(REVISIONS))
    if unknown:
        raise Refused(
            Code.SCHEMA_UNSUPPORTED,
            f"the database has schema {', '.join(unknown)}, made by a newer fleetcast, and this program reads up to {HEAD}: install that"
            " version again, or restore a copy of the database from before it",
        )


def check_present(found: Collection[str]) -> None:
    """Check that this program's schema is the database's.

    Raises:
        Refused: SCHEMA_UNSUPPORTED: it is newer, or of an earlier version, which only a hub takes over.
    """
    check_not_newer(found)
    if set(found) != {HEAD}:
        was = f"schema {', '.join(sorted(found))}" if found else "a schema without a version"
        raise Refused(
            Code.SCHEMA_UNSUPPORTED,
            f"the database is of an earlier version: it has {was}, and this program reads {HEAD};"
            " start the hub of this version first, which takes it over",
        )

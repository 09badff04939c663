"""Makes the tables of a new database, brings over one of an earlier version, and refuses one of a newer."""

from sqlalchemy import Connection, MetaData, inspect, text

from hub.database import migrations
from hub.database.connection import Database
from hub.database.schema_version import HEAD, VERSION_TABLE, check_not_newer, check_present

_VERSIONS = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  # a name of our own


def check(database: Database, metadata: MetaData) -> bool:
    """Return whether the tables are there; False where the database is new.

    Raises:
        Refused: SCHEMA_UNSUPPORTED: they are not those of this version.
    """
    with database.read() as db:
        names, found = _looked_at(db, metadata)
    if names or found:
        check_present(found)
    return bool(names)


def bring_up(database: Database, metadata: MetaData) -> None:
    """Make the tables that are missing, or take over those of an earlier version, in one transaction of the only writer.

    Raises:
        Refused: SCHEMA_UNSUPPORTED: a newer program made them.
    """
    with database.read() as db:
        names, found = _looked_at(db, metadata)
        is_present = bool(names) and found == [HEAD] and not migrations.was_used_by_earlier_hub(db)
    check_not_newer(found)
    if is_present:
        return
    with database.alone() as db:
        names, found = _looked_at(db, metadata)  # Once more: another process may have done it.
        check_not_newer(found)
        if not names:
            metadata.create_all(db)
            db.execute(text(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            db.execute(text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:head)"), {"head": HEAD})  # noqa: S608
        elif found != [HEAD]:
            migrations.upgrade(db)
        elif migrations.was_used_by_earlier_hub(db):
            migrations.follow_earlier_hub(db)


def _looked_at(db: Connection, metadata: MetaData) -> tuple[frozenset[str], list[str]]:
    """Return which tables of a hub there are, of whichever version, and the revisions that the database names."""
    there = frozenset(inspect(db).get_table_names())
    names = (there & frozenset(metadata.tables)) | (there & migrations.FORMER_TABLES)
    found = sorted(db.execute(_VERSIONS).scalars()) if VERSION_TABLE in there else []
    return names, found

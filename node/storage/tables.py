"""Name the tables of a node's store, and bring an older agent's file up to date."""

import sqlite3
from contextlib import closing

_COLUMNS = (  # that a first node's tables lack
    ("outbox", "tried", "INTEGER NOT NULL DEFAULT 0"),  # given to a broker at least once: it may have it, whatever it answered
    ("outbox", "sent_at", "REAL NOT NULL DEFAULT 0"),  # when a broker took it last (node/core/telemetry/sent_again.py)
    ("outbox", "resent", "INTEGER NOT NULL DEFAULT 0"),  # whether it was sent again to a broker that had lost its memory
    ("outbox", "asked", "INTEGER NOT NULL DEFAULT 0"),  # how often it was sent again on request
    ("window", "code", "TEXT NOT NULL DEFAULT ''"),  # why it was withheld
    ("own", "hours", "TEXT NOT NULL DEFAULT ''"),  # its rows by hour of the week, where hours are kept apart
    ("window", "late", "INTEGER NOT NULL DEFAULT 0"),  # whether rows came after it was closed
    ("label_id", "right", "INTEGER DEFAULT NULL"),  # how many answers came under the id, until their interval has left
    ("label_id", "wrong", "INTEGER DEFAULT NULL"),
)
_TABLES = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slot (model TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS moved (model TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS move (model TEXT NOT NULL, number INTEGER NOT NULL, document TEXT NOT NULL, PRIMARY KEY (model, number));
CREATE TABLE IF NOT EXISTS held (digest BLOB NOT NULL, path TEXT NOT NULL, offset INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (path, offset));
CREATE INDEX IF NOT EXISTS held_digest ON held (digest);
CREATE TABLE IF NOT EXISTS transfer (release BLOB PRIMARY KEY, planned INTEGER NOT NULL, received INTEGER NOT NULL,
    reused INTEGER NOT NULL, wasted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS day_bytes (day INTEGER NOT NULL, link TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (day, link));
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS evidence (release BLOB PRIMARY KEY, at INTEGER NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (day INTEGER PRIMARY KEY, rho REAL NOT NULL);
CREATE TABLE IF NOT EXISTS window (model TEXT NOT NULL, release BLOB NOT NULL, start INTEGER NOT NULL, at INTEGER NOT NULL,
    rows INTEGER NOT NULL, rho REAL NOT NULL, sent INTEGER NOT NULL, PRIMARY KEY (model, release, start));
CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, days TEXT NOT NULL, rho REAL NOT NULL,
    what TEXT NOT NULL, head BLOB NOT NULL, before BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS own (signal BLOB PRIMARY KEY, counts TEXT NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS gathering (model TEXT NOT NULL, release BLOB NOT NULL, document TEXT NOT NULL, PRIMARY KEY (model, release));
CREATE TABLE IF NOT EXISTS odd (day INTEGER NOT NULL, model TEXT NOT NULL, code TEXT NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (day, model, code));
CREATE TABLE IF NOT EXISTS sketch (model TEXT NOT NULL, release BLOB NOT NULL, start INTEGER NOT NULL, counts TEXT NOT NULL,
    PRIMARY KEY (model, release, start));
CREATE TABLE IF NOT EXISTS declared (model TEXT NOT NULL, release BLOB NOT NULL, version TEXT NOT NULL, at INTEGER NOT NULL,
    document TEXT NOT NULL, PRIMARY KEY (model, release));
CREATE TABLE IF NOT EXISTS answered (release BLOB NOT NULL, start INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (release, start));
CREATE TABLE IF NOT EXISTS unsure (begin INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS labelled (release BLOB NOT NULL, start INTEGER NOT NULL, right INTEGER NOT NULL, wrong INTEGER NOT NULL,
    due INTEGER NOT NULL, closed_at INTEGER, rho REAL NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '', PRIMARY KEY (release, start));
CREATE INDEX IF NOT EXISTS labelled_open ON labelled (due) WHERE closed_at IS NULL;
CREATE TABLE IF NOT EXISTS label_id (id TEXT PRIMARY KEY, at INTEGER NOT NULL, release BLOB NOT NULL, start INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS label_id_of ON label_id (release, start);
"""


def begin(db: sqlite3.Connection) -> None:
    """Make today's tables; that something was written says that the disk takes it."""
    _make(db)
    db.execute("INSERT INTO fact VALUES ('opened', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")


def _make(db: sqlite3.Connection) -> None:
    db.executescript(_TABLES)
    for table, column, kind in _COLUMNS:
        if column not in _columns(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA main.table_info({table})")}


def read_as_todays(db: sqlite3.Connection) -> None:
    """Read an older agent's file as today's: what it lacks is empty, for this connection alone, until the new agent has begun."""
    with closing(sqlite3.connect(":memory:")) as todays:
        _make(todays)
        tables = todays.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
    db.execute("PRAGMA temp_store=MEMORY")
    for table, statement in tables:
        there = _columns(db, table)
        later = [(column, kind.partition("DEFAULT ")[2]) for name, column, kind in _COLUMNS if name == table]
        lacking = [f"{default} AS {column}" for column, default in later if column not in there]
        if not there:
            db.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
        elif lacking:
            db.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {', '.join(lacking)} FROM main.{table}")  # noqa: S608  # our own names

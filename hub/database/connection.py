"""Opens one SQL database: transactions that are durable when they end, and no exception of the database's own. Knows no table."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import Any

from sqlalchemy import URL, Connection, Table, TextClause, create_engine, event, insert, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hub.database import postgresql
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import MIB

HUB_ACTOR = "hub"
# SQLite's result codes (https://sqlite.org/rescode.html); an error of reading or writing is what it makes of a disk without room, too.
_CORRUPT, _NOTADB, _READONLY, _IOERR, _FULL = 11, 26, 8, 10, 13
_DAMAGED, _STUCK = {_CORRUPT, _NOTADB}, {_READONLY, _IOERR, _FULL}
_FULL_WORDS = ("disk is full", "No space", "Read-only file system")
BUSY_SECONDS = 10  # how long a writer waits for another process's transaction
# Pages of SQLite's journal after which they go to the database. A page that is written several times until then goes there once, and each
# time waits twice for the disk; what is acknowledged is durable in the journal.
WAL_PAGES = 4000
WAL_BYTES_KEPT = 32 * MIB  # To which the journal is cut where a long read had it grow.
ALONE_SECONDS = 3600  # how long one waits that changes the schema: another may bring over years


class Database:
    """Open a database by its URL; any thread may use it."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        """Open it; nothing is connected before it is used.

        Raises:
            Refused: SETTINGS_INVALID: the URL is of no database that we know, or its driver is not installed.
        """
        self._clock = clock
        self.actor = HUB_ACTOR  # Name under which changes are kept: a command puts its operator's in place of the hub's.
        at = parsed(url)
        self._shown = postgresql.shown(at)
        self._is_sqlite = not postgresql.is_named(at)
        if self._is_sqlite:
            self._engine = create_engine(at, connect_args={"timeout": BUSY_SECONDS})
            event.listen(self._engine, "connect", _pragmas)
        else:
            self._engine = postgresql.engine(at, busy_seconds=BUSY_SECONDS)

    def acting(self, actor: str) -> "Database":
        """Return the same database, for changes in the name of another actor."""
        found = copy(self)
        found.actor = actor
        return found

    def close(self) -> None:
        """Release it."""
        self._engine.dispose()

    def now(self) -> int:
        """Return the seconds since 1970."""
        return int(self._clock())

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection to read by."""
        with _foreign(self._shown), self._engine.connect() as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin one transaction, durable when the block ends."""
        with _foreign(self._shown), self._engine.begin() as db:
            yield db

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Begin one transaction as the only writer, before it reads; others wait until it ends, and so does this one for them.

        It is durable when the block ends, with whatever tables it makes.
        """
        with _foreign(self._shown), self._engine.connect() as db:
            if self._is_sqlite:
                db.exec_driver_sql(f"PRAGMA busy_timeout={1000 * ALONE_SECONDS}")
                db.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver would begin at the first row written, and leave tables outside.
            else:
                postgresql.lock_alone(db, wait_seconds=ALONE_SECONDS)
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            else:
                db.commit()
            finally:
                if self._is_sqlite:
                    db.exec_driver_sql(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")

    @contextmanager
    def write_soon(self) -> Iterator[Connection]:
        """Begin one transaction that a power cut may take away, as if it had not been: it does not wait for the disk.

        A crash of the process does not, and the next transaction of `write` makes it durable, too.
        """
        with _foreign(self._shown), self._engine.connect() as db:
            if self._is_sqlite:
                db.exec_driver_sql("PRAGMA synchronous=NORMAL")  # The journal is in order, so that nothing later is there without it.
            else:
                db.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
            try:
                yield db
                db.commit()
            finally:
                if db.in_transaction():
                    db.rollback()
                if self._is_sqlite:
                    db.exec_driver_sql("PRAGMA synchronous=FULL")

    def session(self, *, idle_seconds: int) -> Connection:
        """Open a connection to PostgreSQL that belongs to its caller and that the server ends when nothing has happened in it for a while.

        Each statement is a transaction.

        Raises:
            Unreachable: the database does not answer.
        """
        with _foreign(self._shown):
            db = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            db.detach()  # Its settings and its locks are no other user's.
            db.exec_driver_sql(f"SET idle_session_timeout = '{idle_seconds}s'")
            return db

    def rows(self, kind: Callable[..., Any], query: Any, **values: Any) -> list[Any]:
        """Return the rows that a query finds with these values, each made by `kind`."""
        with self.read() as db:
            return [kind(**row) for row in db.execute(query, values).mappings()]


def parsed(url: str) -> URL:
    """Return a database's URL in parts.

    Raises:
        Refused: SETTINGS_INVALID: it is no URL, or of another kind of database. The reason does not repeat it: it may hold a password.
    """
    try:
        at = make_url(url)
    except (ArgumentError, ValueError):
        at = None
    if at is None or not (at.get_backend_name() == "sqlite" or postgresql.is_named(at)):
        found = "no URL" if at is None else f"{at.drivername}://"
        raise Refused(Code.SETTINGS_INVALID, f"database_url must look like postgresql://user@host/name, found {found}")
    return at


def _pragmas(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged window survives a power cut
    cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    cursor.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
    cursor.close()


@contextmanager
def _foreign(url: str) -> Iterator[None]:
    """Turn the database's exceptions into ours, so that they do not leave this file."""
    try:
        yield
    except DBAPIError as error:
        raise _named(url, error.orig) from error
    except SQLAlchemyError as error:
        raise Unreachable(f"database {url}: {error}") from error


def _named(url: str, error: BaseException | None) -> Refused | Unreachable:
    """Return what a database's own error means to an operator."""
    if (found := postgresql.named(url, error)) is not None:
        return found
    text, code = str(error), getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        mend = "restore it from a backup (docs/operations.md), or move it away to begin a new one"
        return Refused(Code.DATABASE_DAMAGED, f"the hub's database {url} is damaged: {text}; check the disk, and {mend}")
    if code in _STUCK or any(sign in text for sign in _FULL_WORDS):
        mend = "make room on its disk, or make it writable; what waits goes on by itself"
        return Refused(Code.DISK_FULL, f"the hub's database {url} cannot be written: {text}; {mend}")
    return Unreachable(f"database {url}: {postgresql.in_words(error)}")


def fields(row: Any) -> dict[str, Any]:
    """Return a row's columns by their names."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def where(statement: Any, table: Table, key: Mapping[str, Any]) -> Any:
    """Return the statement, for the rows with this key."""
    for name, value in key.items():
        statement = statement.where(table.c[name] == value)
    return statement


def put(db: Connection, table: Table, key: Iterable[str], values: Mapping[str, Any]) -> None:
    """Replace or insert one row by one statement; `key` are the names of the columns by which it is found."""
    db.execute(_upserting(table, tuple(key), tuple(values)), dict(values))


@lru_cache(maxsize=64)
def _upserting(table: Table, key: tuple[str, ...], names: tuple[str, ...]) -> TextClause:
    columns, marks = ", ".join(names), ", ".join(f":{name}" for name in names)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    return text(  # Names of our own; SQLite and PostgreSQL read the same words.
        f"INSERT INTO {table.name} ({columns}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"  # noqa: S608
    )


def put_all(db: Connection, table: Table, key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace or insert many rows by one statement; all have the same columns. All writers take rows in the same order."""
    if rows:
        ordered = sorted(rows, key=lambda row: tuple(row[name] for name in key))
        db.execute(_upserting(table, tuple(key), tuple(rows[0])), [dict(row) for row in ordered])


def inserted(db: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Return the number of a new row."""
    key = db.execute(insert(table).values(dict(values))).inserted_primary_key
    return int(key[0]) if key else 0

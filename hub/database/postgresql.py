"""Speaks PostgreSQL: how its connections are made, what its errors mean, and the locks that several writers need. Knows no table.

Transactions are READ COMMITTED. A part of the store that reads and then writes what follows from it asks for a lock here first; on SQLite,
which has one writer at a time, nothing is asked for.
"""

import zlib
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, text
from sqlalchemy.exc import NoSuchModuleError

from schemas.errors import Code, Refused

NAME = "postgresql"
ALONE_LOCK: Final = 0x666C_6565_7463_6173  # "fleetcas": the lock of everybody who changes the schema.
NAMES_LOCK, REVISIONS_LOCK = 0x666C_6E6D, 0x666C_7276  # "flnm", "flrv": the first halves of locks of names, and of revisions.
NAME_LOCKS = 1024  # Names share this number of locks: the server keeps them all in shared memory.
IDLE_SECONDS = 60  # A transaction in which nothing happens for this long is ended by the server: its process was stopped, or is gone.

# Error codes (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_FULL = {"53100", "53400"}
_DAMAGED = {"XX001", "XX002"}
_MENDS = {
    "28P01": "check its user and password",
    "28000": "check its user, its password and the server's pg_hba.conf",
    "3D000": "create it first: createdb --encoding=UTF8 NAME",
    "42501": "let its user own the database",
}
# Where the road to the server breaks without a word, its end is noticed after about this long.
_CONNECT: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "client_encoding": "utf8",
    "application_name": "fleetcast",
}


def is_named(url: URL) -> bool:
    """Return whether a URL names a PostgreSQL database."""
    return url.get_backend_name() in {NAME, "postgres"}


def engine(url: URL, *, busy_seconds: int) -> Engine:
    """Return the engine of a PostgreSQL database; nothing is connected yet.

    Raises:
        Refused: SETTINGS_INVALID: psycopg is not installed, or the URL asks for another driver.
    """
    if url.drivername not in {"postgres", NAME, f"{NAME}+psycopg"}:
        raise Refused(Code.SETTINGS_INVALID, f"database_url begins with {url.drivername}://, expected {NAME}://")
    arguments = {name: value for name, value in _CONNECT.items() if name not in url.query}
    try:
        made = create_engine(url.set(drivername=f"{NAME}+psycopg"), connect_args=arguments, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        what = f"PostgreSQL needs psycopg, which cannot be imported ({error})"
        raise Refused(Code.SETTINGS_INVALID, f"{what}: install the extra 'fleetcast[hub,postgres]' (docs/install.md)") from None
    settings = {"lock_timeout": f"{busy_seconds}s", "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s"}

    def prepare(connection: Any, _: object) -> None:
        _take_text_without_zeros(connection)
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            # What is acknowledged has to survive a power cut, whatever the server's default is.
            cursor.execute("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
        connection.commit()

    event.listen(made, "connect", prepare)
    return made


def _take_text_without_zeros(connection: Any) -> None:
    """Have the character U+0000, which PostgreSQL's text cannot hold and devices can send, kept as U+FFFD."""
    from psycopg.types import string  # noqa: PLC0415  # an extra

    for kind in (string.StrBinaryDumper, string.StrBinaryDumperVarchar, string.StrDumper, string.StrDumperVarchar, string.StrDumperUnknown):
        connection.adapters.register_dumper(str, _without_zeros(kind))


def _without_zeros(kind: Any) -> Any:
    def dump(self: Any, obj: str) -> Any:
        return kind.dump(self, obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    return type(kind.__name__, (kind,), {"dump": dump})


def named(shown_url: str, error: Any) -> Refused | None:
    """Return what a server's error means, where it means that its disk or its data need somebody; else None."""
    code = getattr(error, "sqlstate", None) or ""
    if code in _DAMAGED:
        mend = "check the server's disk, and restore the database from a backup (docs/operations.md)"
        return Refused(Code.DATABASE_DAMAGED, f"the hub's database {shown_url} is damaged: {_line(error)}; {mend}")
    if code in _FULL:
        mend = "make room on the server's disk; what waits goes on by itself"
        return Refused(Code.DISK_FULL, f"the hub's database {shown_url} cannot be written: {_line(error)}; {mend}")
    return None


def in_words(error: Any) -> str:
    """Return a server's error in one line, with its mend where there is a usual one."""
    line, mend = _line(error), _MENDS.get(getattr(error, "sqlstate", None) or "")
    if mend is None:  # An error of connecting carries no code.
        if "password authentication failed" in line or "no password supplied" in line:
            mend = _MENDS["28P01"]
        elif 'database "' in line and "does not exist" in line:
            mend = _MENDS["3D000"]
    return f"{line}; {mend}" if mend else line


def _line(error: Any) -> str:
    return " ".join(str(error).split())


def shown(url: URL) -> str:
    """Return a URL as it may be printed: without a password."""
    return url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)


def lock_alone(db: Connection, *, wait_seconds: int) -> None:
    """Wait until nobody else changes the schema, and keep others from it until the transaction ends."""
    db.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait_seconds}s'")
    db.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ALONE_LOCK})")


_LOCK_NAMES = text(
    "SELECT count(pg_advisory_xact_lock(:half, number)) FROM"
    " (SELECT number FROM unnest(CAST(:numbers AS integer[])) AS number ORDER BY number OFFSET 0) AS ordered"
)


def lock_names(db: Connection, names: Collection[str]) -> None:
    """Keep other writers from what is kept of these nodes until the transaction ends; all writers take them in one order."""
    if db.dialect.name == NAME:
        numbers = sorted({zlib.crc32(name.encode()) % NAME_LOCKS for name in names})
        db.execute(_LOCK_NAMES, {"half": NAMES_LOCK, "numbers": numbers})


def lock_revisions(db: Connection, table: Table) -> None:
    """Keep others from the table's next revision until this transaction ends: nobody sees a later one before an earlier one."""
    if db.dialect.name == NAME:
        number = zlib.crc32(table.name.encode()) & 0x7FFF_FFFF
        db.execute(text("SELECT pg_advisory_xact_lock(:half, :number)"), {"half": REVISIONS_LOCK, "number": number})


_TURN = text("SELECT pg_try_advisory_lock(:half, :number)")
TURNS_LOCK = 0x666C_746E  # "fltn": the first half of locks of turns.


def take_turn(session: Connection, name: str) -> bool:
    """Return whether this session has the turn of a name, until it ends: no other has it meanwhile."""
    return bool(session.execute(_TURN, {"half": TURNS_LOCK, "number": zlib.crc32(name.encode()) & 0x7FFF_FFFF}).scalar())


def wait_for_writers(db: Connection, table: Table) -> None:
    """Wait until no transaction is under way that has added to a table.

    Rows have their numbers before they are visible: without this, a reader that has seen number 8 would never see a 7 that comes later.
    """
    if db.dialect.name == NAME:
        db.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE MODE")

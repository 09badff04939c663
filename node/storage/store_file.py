"""Open the file of a node's store in whatever state it and its disk are: whole, damaged, gone, or where nothing can be written.

A damaged file is moved aside and a new one begun. Where the disk takes nothing, the store is read into memory, so that a node serves what
it has; `written_down` puts it back on the disk once there is room. Knows no table.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from fleetcast import disk_room, durable
from schemas.errors import Code, Refused, Unreachable

log = structlog.get_logger()

Make = Callable[[sqlite3.Connection], None]  # gives a file the tables of today; it writes something in any case
DAMAGED_SUFFIX: Final = ".damaged"  # the newest damaged file alone is kept: a disk that damages again and again must not fill up
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_STUCK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_NO_ROOM = disk_room.TAKES_NOTHING


class Database(sqlite3.Connection):
    """Open a connection whose errors say what is wrong with the disk, as the rest of a node knows it."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement.

        Raises:
            Refused: DISK_FULL, or STORE_DAMAGED.
        """
        with _named_trouble():
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        """Do as `execute`."""
        with _named_trouble():
            return super().executemany(*arguments)


@dataclass(frozen=True, slots=True)
class Opened:
    """Hold what came of opening a store."""

    db: Database
    is_new: bool = False  # nothing is remembered: there was no file, or it was damaged
    damage: str = ""  # what was wrong with the file that was there
    stuck: str = ""  # why nothing can be written; all is in memory then


def opened(path: Path, make: Make) -> Opened:
    """Open a store, and take what is there as far as it can be read.

    Raises:
        Unreachable: somebody else has had it locked for too long.
        Refused: SETTINGS_INVALID when this user may not read it.
    """
    try:
        durable.make_folder(path.parent, parents=True)
        if path.is_dir():  # A folder in the file's place: a broken unpacking, or a mount that was meant for elsewhere.
            return _anew(path, make, "it is a folder")
        is_new = is_empty(path)
        return Opened(writable(path, make), is_new)
    except (sqlite3.Error, Refused, OSError) as error:
        kind = trouble_of(error)
        if kind is None:
            raise Unreachable(f"{path}: {error}") from None
        return _anew(path, make, str(error)) if kind == "damaged" else in_memory(path, make, str(error))


def anew(path: Path, make: Make, damage: str) -> Opened:
    """Set a file aside whose content makes no sense, and begin a new one."""
    return _anew(path, make, damage)


def is_empty(path: Path) -> bool:
    """Return whether there is no table: no file, or one that a power cut has left without what was in it."""
    if not path.exists():
        return True
    with closing(_connected(str(path))) as db:
        return bool(db.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


def begun(path: Path, make: Make) -> Database:
    """Return the file to write to, as `writable`, for a command that has nothing else to go on with.

    Raises:
        Refused: DISK_FULL or STORE_DAMAGED.
        Unreachable: somebody else has had it locked for too long, or it cannot be opened, which may be for a dozen reasons.
    """
    try:
        return writable(path, make)
    except sqlite3.Error as error:
        kind = trouble_of(error)
        if kind is None or error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise Unreachable(f"{path}: {error}") from None
        raise Refused(Code.STORE_DAMAGED, f"{path} is damaged: {error}") if kind == "damaged" else _full(error) from None


def writable(path: Path, make: Make) -> Database:
    """Return the file, checked page by page, with today's tables, and something written to it."""
    db = _connected(str(path))
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        _check(db)
        make(db)
    except BaseException:
        db.close()
        raise
    return db


def written_down(path: Path, memory: sqlite3.Connection, make: Make) -> Database:
    """Put a store that was only in memory on the disk, in one transaction, in place of what stands there.

    Raises:
        Refused: DISK_FULL: there is still no room. Nothing has changed.
    """
    try:
        db = _connected(str(path))
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, Refused) as error:
        if trouble_of(error) != "damaged":
            raise _full(error) from None
        set_aside(path)
        db = _connected(str(path))
    try:
        memory.backup(db)
        db.close()
        return writable(path, make)
    except (sqlite3.Error, Refused) as error:
        db.close()
        raise _full(error) from None


def in_memory(path: Path, make: Make, stuck: str) -> Opened:
    """Return what a file on a disk that takes nothing has, as far as it can be read.

    Raises:
        Refused: SETTINGS_INVALID when this user may not read it.
    """
    if not path.exists():
        return Opened(_empty(make), is_new=True, stuck=stuck)
    memory, damage = _connected(":memory:"), ""
    for attempt in (_read_alone, _read, _read_copy):
        try:
            attempt(path, memory)
            _check(memory)
            make(memory)
            return Opened(memory, stuck=stuck)
        except (sqlite3.Error, Refused, OSError) as error:
            damage = damage or str(error) if trouble_of(error) == "damaged" else damage
            memory.close()
            memory = _connected(":memory:")
    memory.close()
    if not os.access(path, os.R_OK):
        raise Refused(Code.SETTINGS_INVALID, f"{path}: cannot be read by this user")
    return Opened(_empty(make), is_new=True, damage=damage or "it cannot be read", stuck=stuck)


def set_aside(path: Path) -> None:
    """Keep a damaged file, with its log, under another name."""
    for suffix in ("-wal", "-shm", ""):
        there = path.with_name(path.name + suffix)
        kept = path.with_name(path.name + DAMAGED_SUFFIX + suffix)
        _remove(kept)
        if there.exists():
            there.replace(kept)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def trouble_of(error: BaseException) -> Literal["damaged", "stuck"] | None:
    """Return what an error says of the file or its disk; None where it says nothing of either."""
    if isinstance(error, Refused):
        return {Code.STORE_DAMAGED: "damaged", Code.DISK_FULL: "stuck"}.get(error.code)  # type: ignore[return-value]
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return "damaged" if code in _DAMAGED else "stuck" if code in _STUCK else None
    return "stuck" if isinstance(error, OSError) and error.errno in _NO_ROOM else None


@contextmanager
def _named_trouble() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            raise Refused(Code.STORE_DAMAGED, f"the node's database is damaged: {error}") from error
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}:
            raise _full(error) from error
        raise


def _full(error: BaseException) -> Refused:
    return error if isinstance(error, Refused) else Refused(Code.DISK_FULL, f"the node's database cannot be written: {error}")


def _connected(name: str, *, is_uri: bool = False) -> Database:
    db = sqlite3.connect(name, isolation_level=None, check_same_thread=False, uri=is_uri, factory=Database)
    db.text_factory = lambda data: data.decode(errors="replace")  # Whether text is whole is for node/storage/store_check.py to say.
    return db


def _check(db: Database) -> None:
    found = db.execute("PRAGMA quick_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise Refused(Code.STORE_DAMAGED, f"the node's database is damaged: {found[0] if found else 'no answer'}")


def _anew(path: Path, make: Make, damage: str) -> Opened:
    try:
        set_aside(path)
        log.error("store.set_aside", reason=damage, kept=f"{path}{DAMAGED_SUFFIX}")
        return Opened(writable(path, make), is_new=True, damage=damage)
    except (sqlite3.Error, Refused, OSError) as error:
        return Opened(_empty(make), is_new=True, damage=damage, stuck=str(error))


def _empty(make: Make) -> Database:
    memory = _connected(":memory:")
    make(memory)
    return memory


def _read_alone(path: Path, memory: Database) -> None:
    """Read as the only process that has it open: SQLite then needs no file beside it, for which there is no room."""
    with closing(_connected(f"{path.resolve().as_uri()}?mode=rw", is_uri=True)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("SELECT 1 FROM sqlite_master")  # waits for the process that has it, and not for ever, as a backup does
        db.backup(memory)


def _read(path: Path, memory: Database) -> None:
    with closing(_connected(f"{path.resolve().as_uri()}?mode=ro", is_uri=True)) as db:
        db.execute("SELECT 1 FROM sqlite_master")
        db.backup(memory)


def _read_copy(path: Path, memory: Database) -> None:
    """Read a copy: on a read-only disk, after a kill."""
    with tempfile.TemporaryDirectory(dir=disk_room.MEMORY_DISK if disk_room.MEMORY_DISK.is_dir() else None) as folder:
        for suffix in ("", "-wal"):
            if (there := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(there, Path(folder) / there.name)
        _read_alone(Path(folder) / path.name, memory)

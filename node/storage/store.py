"""What a node remembers over any crash: slots, which block stands where, receipts and windows that wait, what its telemetry has spent.

SQLite in WAL mode with `synchronous=FULL`: a transaction that has returned survives a power cut. The standard library's sqlite3 and not
SQLAlchemy, because a device is small and these are a dozen small tables (docs/decisions/0003). Where the disk takes nothing, the store is
in memory until there is room (node/storage/store_file.py).
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from node.core.activation.lifecycle import ModelSlot, Move
from node.storage.accuracy_tables import LABELS_TABLES, LabelsTables
from node.storage.store_file import Database, in_memory, opened, set_aside, trouble_of, writable, written_down
from node.storage.telemetry_tables import DAYS_KEPT, TELEMETRY_TABLES, TelemetryTables
from schemas.errors import Unreachable
from schemas.receipt import Evidence

MOVES_KEPT = 1000  # of a slot: years of releases
SENT_KEPT = 256  # windows and receipts kept after the broker took them, to be said again to a broker that lost its memory

_COLUMNS = (  # that a first node's tables do not have
    ("outbox", "tried", "INTEGER NOT NULL DEFAULT 0"),  # given to a broker at least once: it may have it, whatever it said
    ("window", "code", "TEXT NOT NULL DEFAULT ''"),  # why it was withheld
    ("own", "hours", "TEXT NOT NULL DEFAULT ''"),  # its rows by hour of the week, where hours are told apart
    ("window", "late", "INTEGER NOT NULL DEFAULT 0"),  # whether rows came after it was closed
    ("label_id", "right", "INTEGER DEFAULT NULL"),  # how many answers came under the id, until their interval has left
    ("label_id", "wrong", "INTEGER DEFAULT NULL"),
)
_TABLES = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slot (model TEXT PRIMARY KEY, document TEXT NOT NULL);
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
"""


@dataclass(frozen=True, slots=True)
class Bytes:
    """The ledger of one release's transfer. planned = received + reused + what is missing; wasted comes on top."""

    planned: int = 0
    received: int = 0
    reused: int = 0
    wasted: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A verified block on disk; `path` is relative to the artifacts' folder."""

    digest: bytes
    path: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that the broker has not taken yet."""

    id: int
    kind: str
    topic: str
    payload: bytes


def _begin(db: sqlite3.Connection) -> None:
    """Today's tables; that something was written says that the disk takes it."""
    _make(db)
    db.execute("INSERT INTO fact VALUES ('opened', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")


def _make(db: sqlite3.Connection) -> None:
    db.executescript(_TABLES + TELEMETRY_TABLES + LABELS_TABLES)
    for table, column, kind in _COLUMNS:
        if column not in _columns(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA main.table_info({table})")}


def _read_as_todays(db: sqlite3.Connection) -> None:
    """What an older agent's file lacks is empty, for this connection alone: its people may look before the new agent has begun."""
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


class NodeStore(TelemetryTables, LabelsTables):
    """One file, one writer thread."""

    stuck: str = ""  # why nothing can be written; all is in memory then, and nothing that is not durable may leave
    is_new: bool = False  # it remembers nothing: there was no file, or a damaged one
    damage: str = ""  # of the file that was there, which is kept beside

    def __init__(self, path: Path) -> None:
        """Open the file to write to it.

        Raises:
            Refused: DISK_FULL or STORE_DAMAGED.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._db = path, writable(path, _begin)
        self._day = -1  # the last that bytes were counted for

    @classmethod
    def of_agent(cls, path: Path) -> Self:
        """The agent's: a damaged file is set aside, and where the disk takes nothing, what it has is read into memory.

        Raises:
            Unreachable: somebody else has it locked.
        """
        store, found = cls.__new__(cls), opened(path, _begin)
        store._path, store._db, store._day = path, found.db, -1
        store.stuck, store.is_new, store.damage = found.stuck, found.is_new, found.damage
        return store

    def write_down(self) -> None:
        """Put what is in memory on the disk, which has room again.

        Raises:
            Refused: DISK_FULL: it has none; nothing has changed.
        """
        memory: Database = self._db
        self._db = written_down(self._path, memory, _begin)
        self.stuck = ""
        memory.close()

    @classmethod
    def reading(cls, path: Path) -> Self:
        """The same file beside the agent that writes it: what is committed, and nothing can be written. An older agent's reads as today's.

        Raises:
            Unreachable: the file cannot be read, or is no such file.
        """
        store = cls.__new__(cls)
        # Without a log beside it nobody has it open, and then it can be read in a folder where we may not make one.
        alone = "&immutable=1" if not path.with_name(f"{path.name}-wal").exists() and not os.access(path.parent, os.W_OK) else ""
        try:
            store._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)
            store._db.execute("SELECT 1 FROM slot LIMIT 1").fetchone()
            _read_as_todays(store._db)
        except sqlite3.Error as error:
            store._db.close()
            if trouble_of(error) != "stuck":
                raise Unreachable(f"{path}: {error}") from None
            found = in_memory(path, _begin, str(error))  # a disk that has no room for what SQLite puts beside the file
            if found.damage:
                raise Unreachable(f"{path}: {found.damage}") from None
            store._db = found.db
        return store

    @classmethod
    @contextmanager
    def beside(cls, path: Path) -> Iterator[Self]:
        """The same file, to be written to beside the agent, which may run or not: each waits for the other's transaction.

        Raises:
            Unreachable: the file cannot be written to, or is busy for too long.
        """
        try:
            store = cls(path)
            try:
                yield store
            finally:
                store.close()
        except sqlite3.Error as error:
            raise Unreachable(f"{path}: {error}") from None

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def set_aside(self) -> None:
        """Close a file that turned out damaged, and keep it under another name: the next start begins a new one."""
        self.close()
        set_aside(self._path)

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[None]:
        """All or nothing. Without `synced` it survives a kill of this process, and the next synced one makes it survive a power cut."""
        self._db.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        finally:
            if not synced:
                self._db.execute("PRAGMA synchronous=FULL")

    # Counters and floors

    def fact(self, name: str) -> int:
        """A remembered number; 0 when it was never set."""
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def raise_fact(self, name: str, value: int) -> None:
        """Remember a number that only rises."""
        self._db.execute(
            "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)", (name, value)
        )

    def set_fact(self, name: str, value: int) -> None:
        """Remember a number, whatever it was before."""
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def next(self, name: str) -> int:
        """Count up, durably, and return the new number."""
        row = self._db.execute(
            "INSERT INTO fact VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value", (name,)
        ).fetchone()
        return int(row[0])

    # Slots

    def slots(self) -> dict[str, ModelSlot]:
        """Every model slot."""
        rows = self._db.execute("SELECT model, document FROM slot").fetchall()
        return {model: ModelSlot.model_validate_json(document) for model, document in rows}

    def put_slot(self, slot: ModelSlot, move: Move) -> None:
        """Make a slot durable, with the move that led to it; to be called within a transaction."""
        self._db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?)", (slot.model, slot.model_dump_json()))
        self._db.execute("INSERT OR REPLACE INTO move VALUES (?, ?, ?)", (slot.model, move.number, move.model_dump_json()))
        self._db.execute("DELETE FROM move WHERE model = ? AND number <= ?", (slot.model, move.number - MOVES_KEPT))

    def take_up_slot(self, slot: ModelSlot) -> None:
        """Keep a slot that a lost store knew, whose moves nobody knows any more."""
        self._db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?)", (slot.model, slot.model_dump_json()))

    def moves(self, model: str) -> list[Move]:
        """How a slot came to be what it is, the oldest first."""
        rows = self._db.execute("SELECT document FROM move WHERE model = ? ORDER BY number", (model,))
        return [Move.model_validate_json(document) for (document,) in rows]

    def put_evidence(self, release: bytes, evidence: Evidence, *, at: int) -> None:
        """Keep what a release's last activation here has measured."""
        self._db.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?)", (release, at, evidence.model_dump_json(exclude_none=True)))

    def evidence(self) -> dict[bytes, tuple[int, Evidence]]:
        """When each release was last activated here, and what that has measured."""
        rows = self._db.execute("SELECT release, at, document FROM evidence").fetchall()
        return {release: (at, Evidence.model_validate_json(document)) for release, at, document in rows}

    # Blocks

    def held(self, digests: Iterable[bytes]) -> dict[bytes, list[Held]]:
        """Where blocks stand on disk, as recorded; verify before use."""
        found: dict[bytes, list[Held]] = {}
        for digest in digests:
            for row in self._db.execute("SELECT digest, path, offset, bytes FROM held WHERE digest = ?", (digest,)):
                found.setdefault(digest, []).append(Held(*row))
        return found

    def holds(self, digest: bytes) -> bool:
        """Whether a block is recorded anywhere."""
        return self._db.execute("SELECT 1 FROM held WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None

    def drop_held(self, path: str, offset: int) -> None:
        """What stands there is not the block that was recorded."""
        self._db.execute("DELETE FROM held WHERE path = ? AND offset = ?", (path, offset))

    def add_held(self, blocks: Iterable[Held]) -> None:
        """Record blocks whose bytes are durable."""
        rows = [(one.digest, one.path, one.offset, one.bytes) for one in blocks]
        self._db.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", rows)

    def forget_held(self, path_prefix: str) -> None:
        """Forget what stood below a folder that is gone."""
        self._db.execute("DELETE FROM held WHERE path >= ? AND path < ?", (path_prefix, path_prefix + "\U0010ffff"))

    # Ledger of bytes

    def bytes_of(self, release: bytes) -> Bytes:
        """A release's ledger."""
        row = self._db.execute("SELECT planned, received, reused, wasted FROM transfer WHERE release = ?", (release,)).fetchone()
        return Bytes(*row) if row else Bytes()

    def open_ledger(self, release: bytes) -> None:
        """Begin to count; a transfer that is resumed keeps what it counted so far."""
        self._db.execute("INSERT OR IGNORE INTO transfer VALUES (?, 0, 0, 0, 0)", (release,))

    def plan_missing(self, release: bytes, missing: int) -> None:
        """State what a release costs in all: what is there, and what is missing."""
        self._db.execute("UPDATE transfer SET planned = received + reused + ? WHERE release = ?", (missing, release))

    def ledgers(self) -> dict[bytes, Bytes]:
        """Every release's ledger."""
        rows = self._db.execute("SELECT release, planned, received, reused, wasted FROM transfer").fetchall()
        return {release: Bytes(*counts) for release, *counts in rows}

    def day_bytes(self, day: int, link: str) -> int:
        """What came on a day over a class of road, in payload bytes."""
        row = self._db.execute("SELECT bytes FROM day_bytes WHERE day = ? AND link = ?", (day, link)).fetchone()
        return int(row[0]) if row else 0

    def add_day_bytes(self, day: int, link: str, size_bytes: int) -> None:
        """Count what came; days are kept for a quarter."""
        self._db.execute(
            "INSERT INTO day_bytes VALUES (?, ?, ?) ON CONFLICT (day, link) DO UPDATE SET bytes = bytes + excluded.bytes",
            (day, link, size_bytes),
        )
        if day != self._day:
            self._day = day
            self._db.execute("DELETE FROM day_bytes WHERE day < ?", (day - DAYS_KEPT,))

    def days(self) -> list[tuple[int, str, int]]:
        """Bytes by day and class of road, the newest first."""
        return [tuple(row) for row in self._db.execute("SELECT day, link, bytes FROM day_bytes ORDER BY day DESC, link")]

    def add_bytes(self, release: bytes, *, received: int = 0, reused: int = 0, wasted: int = 0) -> None:
        """Count bytes of a transfer."""
        self._db.execute(
            "UPDATE transfer SET received = received + ?, reused = reused + ?, wasted = wasted + ? WHERE release = ?",
            (received, reused, wasted, release),
        )

    # Outbox

    def enqueue(self, kind: str, topic: str, payload: bytes) -> int:
        """Keep a message until the broker has taken it."""
        return int(self._db.execute("INSERT INTO outbox (kind, topic, payload) VALUES (?, ?, ?)", (kind, topic, payload)).lastrowid or 0)

    def waiting(self, limit: int, *, windows: bool = True) -> list[Waiting]:
        """The oldest messages that wait; without `windows` those that are none."""
        rows = self._db.execute(
            "SELECT id, kind, topic, payload FROM outbox WHERE sent = 0 AND (? OR kind != 'window') ORDER BY id LIMIT ?", (windows, limit)
        ).fetchall()
        return [Waiting(*row) for row in rows]

    def count_waiting(self, kind: str) -> int:
        """How many messages of a kind wait."""
        return int(self._db.execute("SELECT count(*) FROM outbox WHERE sent = 0 AND kind = ?", (kind,)).fetchone()[0])

    def waiting_windows(self) -> list[tuple[int, str, bytes, bool]]:
        """Windows that wait, oldest first: number, topic, payload, and whether it was given to a broker before."""
        rows = self._db.execute("SELECT id, topic, payload, tried FROM outbox WHERE sent = 0 AND kind = 'window' ORDER BY id").fetchall()
        return [(one, topic, payload, bool(tried)) for one, topic, payload, tried in rows]

    def waiting_bytes(self, kind: str) -> int:
        """Payload bytes of the messages of a kind that wait."""
        return int(self._db.execute("SELECT total(length(payload)) FROM outbox WHERE sent = 0 AND kind = ?", (kind,)).fetchone()[0])

    def mark_tried(self, ids: Sequence[int]) -> None:
        """These are given to a broker now: from here on each is counted by its id, and never becomes part of another one."""
        with self.transaction():
            self._db.executemany("UPDATE outbox SET tried = 1 WHERE id = ? AND tried = 0", [(one,) for one in ids])

    def drop_waiting(self, ids: Sequence[int]) -> None:
        """These will not be sent."""
        self._db.executemany("DELETE FROM outbox WHERE id = ? AND tried = 0", [(one,) for one in ids])

    def mark_sent(self, ids: Sequence[int]) -> None:
        """The broker has taken these; the newest are kept, in case it forgets them."""
        self._db.executemany("UPDATE outbox SET sent = 1 WHERE id = ?", [(one,) for one in ids])
        self._db.execute(
            "DELETE FROM outbox WHERE sent = 1 AND id <= (SELECT id FROM outbox WHERE sent = 1 ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (SENT_KEPT,),
        )

    def resend(self, *, windows: bool = True) -> None:
        """The broker has lost its memory, and with it what it had not delivered: say the kept messages again. Their readers count once.

        Without `windows` those that are none: long after the first time, nobody would know them again.
        """
        self._db.execute("UPDATE outbox SET sent = 0 WHERE sent = 1 AND (? OR kind != 'window')", (windows,))

    def outbox_payloads(self, kind: str, limit: int) -> list[tuple[int, str, bytes, bool]]:
        """The newest messages of a kind, byte for byte, and whether they were sent."""
        rows = self._db.execute("SELECT id, topic, payload, sent FROM outbox WHERE kind = ? ORDER BY id DESC LIMIT ?", (kind, limit))
        return [(one, topic, payload, bool(sent)) for one, topic, payload, sent in rows]

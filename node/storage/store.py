"""Remember over any crash what a node needs: slots, which block is where, receipts and windows that wait, what its telemetry has spent.

SQLite in WAL mode with `synchronous=FULL`: a transaction that has returned survives a power cut. The standard library's sqlite3 and not
SQLAlchemy, because a device is small and these are a dozen small tables (docs/decisions/0003). Where the disk takes nothing, the store is
in memory until there is room (node/storage/store_file.py).
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from fleetcast import durable
from node.core.activation.lifecycle import ModelSlot, Move
from node.core.telemetry.accuracy import KEPT_SECONDS, Declared, Known
from node.core.telemetry.privacy_accountant import START, Entry, Witness
from node.storage.outbox import Outbox
from node.storage.rows import ByteUsage, ReportedCounts, StoredBlock
from node.storage.store_check import damage_in
from node.storage.store_file import Opened, anew, begun, in_memory, opened, set_aside, trouble_of, written_down
from node.storage.tables import begin, read_as_todays
from schemas.accuracy import Accuracy
from schemas.deployments import Moved
from schemas.errors import Unreachable
from schemas.receipt import Evidence

TELEMETRY_OFF = "hub_telemetry_off"  # Fact: the hub's settings turn off telemetry that the site's file has on.
MOVES_KEPT = 1000  # Moves of a slot: years of releases.
DAYS_KEPT = 92  # Days of everything that is counted by day.
CLOSED_KEPT_SECONDS = 400 * 24 * 3600  # how long it is known which intervals are over, and what was spent for what


class NodeStore(Outbox):
    """Keep one file, by one writer thread."""

    stuck: str = ""  # why nothing can be written; all is in memory then, and nothing that is not durable may leave
    is_new: bool = False  # it remembers nothing: there was no file, or a damaged one
    _db: sqlite3.Connection
    damage: str = ""  # What was wrong with the file that was there, which is kept beside.

    def __init__(self, path: Path) -> None:
        """Open the file to write to it.

        Raises:
            Refused: DISK_FULL or STORE_DAMAGED.
            Unreachable: it is locked for too long, or cannot be opened.
        """
        durable.make_folder(path.parent, parents=True)
        self._path, self._db = path, begun(path, begin)
        self._day = -1  # the last that bytes were counted for

    @classmethod
    def of_agent(cls, path: Path) -> Self:
        """Open the agent's store: a damaged file is set aside, and where the disk takes nothing, what it has is read into memory.

        Raises:
            Unreachable: somebody else has it locked.
        """
        store = cls.__new__(cls)
        store._path = path
        store._take(opened(path, begin))
        if damage := damage_in(store._db):
            store.begin_anew(damage)
        return store

    def _take(self, found: Opened) -> None:
        self._db, self._day = found.db, -1
        self.stuck, self.is_new, self.damage = found.stuck, found.is_new, found.damage

    def begin_anew(self, damage: str) -> None:
        """Set the file aside, because of what is in it, and begin a new one; where the disk takes nothing, in memory."""
        self._db.close()
        self._take(anew(self._path, begin, damage))

    def write_down(self) -> None:
        """Put what is in memory on the disk, which has room again.

        Raises:
            Refused: DISK_FULL: it has none; nothing has changed.
        """
        memory, self._db = self._db, written_down(self._path, self._db, begin)
        self.stuck = ""
        memory.close()

    @classmethod
    def reading(cls, path: Path) -> Self:
        """Open the same file beside the agent that writes it, read-only; an older agent's file reads as today's.

        Raises:
            Unreachable: the file cannot be read, or is no such file.
        """
        store = cls.__new__(cls)
        # Without a log beside it nobody has it open, and then it can be read in a folder where we may not make one.
        alone = "&immutable=1" if not path.with_name(f"{path.name}-wal").exists() and not os.access(path.parent, os.W_OK) else ""
        try:
            store._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)
            store._db.execute("SELECT 1 FROM slot LIMIT 1").fetchone()
            read_as_todays(store._db)
        except sqlite3.Error as error:
            store._db.close()
            if trouble_of(error) != "stuck":
                raise Unreachable(f"{path}: {error}") from None
            found = in_memory(path, begin, str(error))  # a disk that has no room for what SQLite puts beside the file
            if found.damage:
                raise Unreachable(f"{path}: {found.damage}") from None
            store._db = found.db
        return store

    @classmethod
    @contextmanager
    def beside(cls, path: Path) -> Iterator[Self]:
        """Open the same file, to be written to beside the agent, which may run or not: each waits for the other's transaction.

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
        """Commit all or nothing. Without `synced` it survives a kill of this process; the next synced one makes it survive a power cut."""
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
        """Return a remembered number; 0 when it was never set."""
        return next((int(row[0]) for row in self._db.execute("SELECT value FROM fact WHERE name = ?", (name,))), 0)

    def raise_fact(self, name: str, value: int) -> None:
        """Remember a number that only rises."""
        self._db.execute(
            "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)", (name, value)
        )

    def set_fact(self, name: str, value: int) -> None:
        """Remember a number, whatever it was before."""
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def next(self, name: str) -> int:
        """Count up, durably, and return the new number. A counter that documents cannot carry any further begins again."""
        row = self._db.execute(
            "INSERT INTO fact VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = 1 + value % ? RETURNING value", (name, 2**53)
        ).fetchone()
        return int(row[0])

    # Slots

    def slots(self) -> dict[str, ModelSlot]:
        """Return every model slot."""
        rows = self._db.execute("SELECT model, document FROM slot").fetchall()
        return {model: ModelSlot.model_validate_json(document) for model, document in rows}

    def put_slot(self, slot: ModelSlot, move: Move) -> None:
        """Make a slot durable, with the move that led to it; to be called within a transaction."""
        self._db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?)", (slot.model, slot.model_dump_json()))
        self._db.execute("INSERT OR REPLACE INTO move VALUES (?, ?, ?)", (slot.model, move.number, move.model_dump_json()))
        self._db.execute("DELETE FROM move WHERE model = ? AND number <= ?", (slot.model, move.number - MOVES_KEPT))

    def drop_slot(self, model: str) -> None:
        """Remove a slot, its moves, and what its last rollout found here; to be called within a transaction."""
        self._db.execute("DELETE FROM slot WHERE model = ?", (model,))
        self._db.execute("DELETE FROM move WHERE model = ?", (model,))
        self._db.execute("DELETE FROM moved WHERE model = ?", (model,))

    def take_up_slot(self, slot: ModelSlot) -> None:
        """Keep a slot that a lost store knew, whose moves nobody knows any more."""
        self._db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?)", (slot.model, slot.model_dump_json()))

    def moved(self, model: str) -> Moved | None:
        """Return what a model's last rollout found here."""
        row = self._db.execute("SELECT document FROM moved WHERE model = ?", (model,)).fetchone()
        return Moved.model_validate_json(row[0]) if row else None

    def put_moved(self, model: str, moved: Moved) -> None:
        """Remember what a rollout found here, before it moves this node."""
        self._db.execute("INSERT OR REPLACE INTO moved VALUES (?, ?)", (model, moved.model_dump_json()))

    def moves(self, model: str) -> list[Move]:
        """Return how a slot came to be what it is, the oldest first."""
        rows = self._db.execute("SELECT document FROM move WHERE model = ? ORDER BY number", (model,))
        return [Move.model_validate_json(row[0]) for row in rows]

    def put_evidence(self, release: bytes, evidence: Evidence, *, at: int) -> None:
        """Keep what a release's last activation here has measured."""
        self._db.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?)", (release, at, evidence.model_dump_json(exclude_none=True)))

    def evidence(self) -> dict[bytes, tuple[int, Evidence]]:
        """Return when each release was last activated here, and what that has measured."""
        rows = self._db.execute("SELECT release, at, document FROM evidence").fetchall()
        return {release: (at, Evidence.model_validate_json(document)) for release, at, document in rows}

    # Blocks

    def stored_blocks(self, digests: Iterable[bytes]) -> dict[bytes, list[StoredBlock]]:
        """Return where blocks stand on disk, as recorded; verify before use."""
        found: dict[bytes, list[StoredBlock]] = {}
        for digest in digests:
            for row in self._db.execute("SELECT digest, path, offset, bytes FROM held WHERE digest = ?", (digest,)):
                found.setdefault(digest, []).append(StoredBlock(*row))
        return found

    def holds(self, digest: bytes) -> bool:
        """Return whether a block is recorded anywhere."""
        return self._db.execute("SELECT 1 FROM held WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None

    def drop_block(self, path: str, offset: int) -> None:
        """Forget a block: what is there is not what was recorded."""
        self._db.execute("DELETE FROM held WHERE path = ? AND offset = ?", (path, offset))

    def add_blocks(self, blocks: Iterable[StoredBlock]) -> None:
        """Record blocks whose bytes are durable."""
        rows = [(one.digest, one.path, one.offset, one.bytes) for one in blocks]
        self._db.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", rows)

    def forget_blocks(self, path_prefix: str) -> None:
        """Forget what stood below a folder that is gone."""
        self._db.execute("DELETE FROM held WHERE path >= ? AND path < ?", (path_prefix, path_prefix + "\U0010ffff"))

    # Ledger of bytes

    def usage_of(self, release: bytes) -> ByteUsage:
        """Return the byte counts of a release's transfer."""
        row = self._db.execute("SELECT planned, received, reused, wasted FROM transfer WHERE release = ?", (release,)).fetchone()
        return ByteUsage(*row) if row else ByteUsage()

    def open_usage(self, release: bytes) -> None:
        """Begin to count; a transfer that is resumed keeps what it counted so far."""
        self._db.execute("INSERT OR IGNORE INTO transfer VALUES (?, 0, 0, 0, 0)", (release,))

    def plan_missing(self, release: bytes, missing: int) -> None:
        """State what a release costs in all: what is there, and what is missing."""
        self._db.execute("UPDATE transfer SET planned = received + reused + ? WHERE release = ?", (missing, release))

    def usages(self) -> dict[bytes, ByteUsage]:
        """Return the byte counts of every release's transfer."""
        rows = self._db.execute("SELECT release, planned, received, reused, wasted FROM transfer").fetchall()
        return {release: ByteUsage(*counts) for release, *counts in rows}

    def day_bytes(self, day: int, link: str) -> int:
        """Return what came on a day over a class of road, in payload bytes."""
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
        """Return bytes by day and class of road, the newest first."""
        return [tuple(row) for row in self._db.execute("SELECT day, link, bytes FROM day_bytes ORDER BY day DESC, link")]

    def add_bytes(self, release: bytes, *, received: int = 0, reused: int = 0, wasted: int = 0) -> None:
        """Count bytes of a transfer."""
        self._db.execute(
            "UPDATE transfer SET received = received + ?, reused = reused + ?, wasted = wasted + ? WHERE release = ?",
            (received, reused, wasted, release),
        )

    # Windows and what they spent

    def spent(self, days: Iterable[int]) -> float:
        """Return the most that any of these days has spent, in zCDP rho."""
        marks = list(days)
        rows = self._db.execute(
            f"SELECT max(rho) FROM spent WHERE day IN ({','.join('?' * len(marks))})",  # noqa: S608  # only question marks
            marks,
        ).fetchone()
        return float(rows[0] or 0.0)

    def charge(self, days: Iterable[int], rho: float) -> None:
        """Spend, before anything leaves."""
        self._db.executemany(
            "INSERT INTO spent VALUES (?, ?) ON CONFLICT (day) DO UPDATE SET rho = rho + excluded.rho", [(day, rho) for day in days]
        )

    def window_closed(self, model: str, release: bytes, start: int) -> bool:
        """Return whether this interval has been accounted for: it is never noised twice."""
        row = self._db.execute("SELECT 1 FROM window WHERE model = ? AND release = ? AND start = ?", (model, release, start)).fetchone()
        return row is not None

    def close_window(self, model: str, release: bytes, start: int, *, at: int, rows: int, rho: float, code: str = "") -> None:
        """Record that an interval is over, and what it cost; with a code, why it was withheld. `rows` is the noisy number that left."""
        self._db.execute(
            "INSERT INTO window (model, release, start, at, rows, rho, sent, code) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (model, release, start, at, rows, rho, int(not code), code),
        )
        self._db.execute("DELETE FROM sketch WHERE model = ? AND release = ? AND start = ?", (model, release, start))
        self._db.execute("DELETE FROM window WHERE at < ?", (at - CLOSED_KEPT_SECONDS,))

    def mark_late(self, model: str, release: bytes, start: int) -> None:
        """Mark an interval that rows came for after it was over."""
        self._db.execute("UPDATE window SET late = 1 WHERE model = ? AND release = ? AND start = ?", (model, release, start))
        self._db.execute("DELETE FROM sketch WHERE model = ? AND release = ? AND start = ?", (model, release, start))

    def count_late(self) -> int:
        """Return how many intervals rows came for after they were over."""
        return int(self._db.execute("SELECT count(*) FROM window WHERE late = 1").fetchone()[0])

    def withheld(self) -> dict[str, int]:
        """Return how many windows were withheld, by code."""
        return dict(self._db.execute("SELECT code, count(*) FROM window WHERE sent = 0 GROUP BY code ORDER BY code"))

    def windows(self, limit: int) -> list[tuple[str, bytes, int, int, int, float, bool]]:
        """Return the newest closed windows: model, release, start, closed at, rows (noisy), rho, whether it was sent."""
        query = "SELECT model, release, start, at, rows, rho, sent FROM window ORDER BY at DESC, start DESC LIMIT ?"
        rows = self._db.execute(query, (limit,)).fetchall()
        return [(*row[:6], bool(row[6])) for row in rows]

    def count_withheld(self) -> int:
        """Return how many windows were withheld."""
        return int(self._db.execute("SELECT count(*) FROM window WHERE sent = 0").fetchone()[0])

    # The privacy ledger

    def spent_days(self) -> dict[int, float]:
        """Return what each day has spent, in zCDP rho."""
        return dict(self._db.execute("SELECT day, rho FROM spent ORDER BY day DESC"))

    def ledger(self) -> tuple[Witness, list[Entry]]:
        """Return the entries that are kept, oldest first, and the one that they follow."""
        rows = self._db.execute("SELECT number, at, days, rho, what, head, before FROM ledger ORDER BY number").fetchall()
        entries = [Entry(number, at, tuple(int(one) for one in days.split(",") if one), *rest) for number, at, days, *rest, _ in rows]
        return (Witness(rows[0][0] - 1, rows[0][-1]) if rows else Witness(0, START)), entries

    def ledger_end(self) -> Witness:
        """Return the newest entry."""
        row = self._db.execute("SELECT number, head FROM ledger ORDER BY number DESC LIMIT 1").fetchone()
        return Witness(*row) if row else Witness(0, START)

    def add_entry(self, entry: Entry, before: bytes) -> None:
        """Append an entry and charge its days, before anything leaves; very old ones are let go."""
        self._db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.number, entry.at, ",".join(map(str, entry.days)), entry.rho, entry.what, entry.head, before),
        )
        self.charge(entry.days, entry.rho)
        # From its beginning on, so that it stays a chain: an entry may look old because the clock was wrong when it was made.
        self._db.execute(
            "DELETE FROM ledger WHERE number < (SELECT min(number) FROM ledger WHERE at >= ?)", (entry.at - CLOSED_KEPT_SECONDS,)
        )

    def restart_ledger(self) -> None:
        """Begin the chain anew, for it cannot be believed; the sums by day stay as they are."""
        self._db.execute("DELETE FROM ledger")

    # The own baseline

    def own(self, signals: Sequence[bytes]) -> dict[bytes, tuple[list[int], int, list[int]]]:
        """Return by signal the noisy counts of the own baseline, the rows that they are of, and those by hour of the week, if any."""
        found: dict[bytes, tuple[list[int], int, list[int]]] = {}
        for signal in signals:
            row = self._db.execute("SELECT counts, rows, hours FROM own WHERE signal = ?", (signal,)).fetchone()
            if row is not None:
                found[signal] = [int(count) for count in row[0].split(",")], int(row[1]), [int(one) for one in row[2].split(",") if one]
        return found

    def put_own(self, signals: Sequence[tuple[bytes, Sequence[int], int, Sequence[int]]]) -> None:
        """Keep noisy counts: made once, and never again for the same signal."""
        rows = [(signal, ",".join(map(str, counts)), rows, ",".join(map(str, hours))) for signal, counts, rows, hours in signals]
        self._db.executemany("INSERT INTO own (signal, counts, rows, hours) VALUES (?, ?, ?, ?)", rows)

    def gathering(self, model: str, release: bytes) -> str | None:
        """Return what was gathered for an own baseline so far."""
        row = self._db.execute("SELECT document FROM gathering WHERE model = ? AND release = ?", (model, release)).fetchone()
        return row[0] if row else None

    def put_gathering(self, model: str, release: bytes, document: str | None) -> None:
        """Keep it, or forget it; of a model's other releases nothing is gathered any more."""
        self._db.execute("DELETE FROM gathering WHERE model = ?", (model,))
        if document is not None:
            self._db.execute("INSERT INTO gathering VALUES (?, ?, ?)", (model, release, document))

    def forget_own(self) -> None:
        """Have no own baseline, and gather nothing yet."""
        self._db.execute("DELETE FROM own")
        self._db.execute("DELETE FROM gathering")

    # Rows that could not be counted as they should; for this device's people only

    def add_odd(self, day: int, model: str, codes: Mapping[str, int]) -> None:
        """Count them by day and why; days are kept for a quarter."""
        self._db.executemany(
            "INSERT INTO odd VALUES (?, ?, ?, ?) ON CONFLICT (day, model, code) DO UPDATE SET rows = rows + excluded.rows",
            [(day, model, code, rows) for code, rows in codes.items()],
        )
        self._db.execute("DELETE FROM odd WHERE day < ?", (day - DAYS_KEPT,))

    def odd(self) -> list[tuple[int, str, str, int]]:
        """Return day, model, code and rows, the newest first."""
        return [tuple(row) for row in self._db.execute("SELECT day, model, code, rows FROM odd ORDER BY day DESC, model, code")]

    def put_sketch(self, model: str, release: bytes, counts: dict[int, list[int]]) -> None:
        """Checkpoint open windows, so that a crash loses seconds and not a window."""
        rows = [(model, release, start, ",".join(map(str, row))) for start, row in counts.items()]
        self._db.executemany("INSERT OR REPLACE INTO sketch VALUES (?, ?, ?, ?)", rows)

    def sketches(self, model: str, release: bytes) -> dict[int, list[int]]:
        """Return the open windows of the last checkpoint."""
        rows = self._db.execute("SELECT start, counts FROM sketch WHERE model = ? AND release = ?", (model, release)).fetchall()
        return {start: [int(count) for count in counts.split(",")] for start, counts in rows}

    # Right and wrong answers: releases with a reference

    def declare(self, declared: Declared, *, at: int) -> None:
        """Keep a served release's reference of right and wrong answers; it outlives the release's files."""
        self._db.execute(
            "INSERT OR REPLACE INTO declared VALUES (?, ?, ?, ?, ?)",
            (declared.model, declared.release, declared.version, at, declared.accuracy.model_dump_json(exclude_none=True)),
        )

    def declared(self, model: str | None = None) -> list[Declared]:
        """Return releases that were served here and have such a reference, the one served last first."""
        query = "SELECT model, version, release, document FROM declared WHERE ?1 IS NULL OR model = ?1 ORDER BY at DESC, rowid DESC"
        rows = self._db.execute(query, (model,)).fetchall()
        return [Declared(name, version, release, Accuracy.model_validate_json(document)) for name, version, release, document in rows]

    # Right and wrong answers: what answered when

    def add_answered(self, rows: Mapping[tuple[bytes, int], int], *, at: int) -> None:
        """Add answers of releases by interval, and forget those of long ago."""
        self._db.executemany(
            "INSERT INTO answered VALUES (?, ?, ?) ON CONFLICT (release, start) DO UPDATE SET rows = rows + excluded.rows",
            [(release, start, count) for (release, start), count in rows.items()],
        )
        self._db.execute("DELETE FROM answered WHERE start < ?", (at - 2 * KEPT_SECONDS,))

    def add_unsure(self, begin: int, until: int) -> None:
        """Keep a time in which answers may have been given that nobody counted."""
        self._db.execute("INSERT INTO unsure VALUES (?, ?)", (begin, until))
        self._db.execute("DELETE FROM unsure WHERE until < ?", (until - 2 * KEPT_SECONDS,))

    def interval(self, declared: Declared, start: int) -> Known:
        """Return what is known of an interval."""
        end = start + declared.seconds
        unsure = self._db.execute("SELECT 1 FROM unsure WHERE begin < ? AND until >= ? LIMIT 1", (end, start)).fetchone() is not None
        row = self._db.execute("SELECT rows FROM answered WHERE release = ? AND start = ?", (declared.release, start)).fetchone()
        answered = int(row[0]) if row else 0
        found = self._db.execute(
            "SELECT right, wrong, due, closed_at FROM labelled WHERE release = ? AND start = ?", (declared.release, start)
        ).fetchone()
        if found is None:
            return Known(start, answered, sure=not unsure)
        return Known(start, answered, found[0], found[1], found[2], found[3] is not None, not unsure)

    # Right and wrong answers: counts that wait. Exact counts are here until their interval leaves, and no longer; a label never is.

    def counts_under(self, report_id: str) -> ReportedCounts | None:
        """Return the counts that came under this id."""
        query = "SELECT release, start, label_id.right, label_id.wrong, due FROM label_id JOIN labelled USING (release, start) WHERE id = ?"
        row = self._db.execute(query, (report_id,)).fetchone()
        return None if row is None else ReportedCounts(*row)

    def add_labels(self, release: bytes, start: int, *, right: int, wrong: int, due: int, at: int, report_id: str | None) -> None:
        """Add right and wrong answers of an interval; to be called within a transaction."""
        self._db.execute(
            "INSERT INTO labelled (release, start, right, wrong, due) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (release, start) DO UPDATE SET right = right + excluded.right, wrong = wrong + excluded.wrong",
            (release, start, right, wrong, due),
        )
        if report_id is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO label_id (id, at, release, start, right, wrong) VALUES (?, ?, ?, ?, ?, ?)",
                (report_id, at, release, start, right, wrong),
            )
            self._db.execute("DELETE FROM label_id WHERE at < ?", (at - KEPT_SECONDS,))

    def due_labels(self, now: int) -> list[tuple[bytes, int]]:
        """Return intervals that are to leave: release and start. More counts may come until the transaction in which they leave."""
        query = "SELECT release, start FROM labelled WHERE closed_at IS NULL AND due <= ? ORDER BY start"
        return [tuple(row) for row in self._db.execute(query, (now,))]

    def close_labels(self, release: bytes, start: int, *, at: int, rho: float, code: str) -> None:
        """Close an interval that has left, or with a code why it does not; its exact counts are forgotten."""
        self._db.execute(
            "UPDATE labelled SET right = 0, wrong = 0, closed_at = ?, rho = ?, code = ? WHERE release = ? AND start = ?",
            (at, rho, code, release, start),
        )
        self._db.execute("UPDATE label_id SET right = NULL, wrong = NULL WHERE release = ? AND start = ?", (release, start))
        self._db.execute("DELETE FROM labelled WHERE closed_at < ?", (at - 2 * KEPT_SECONDS,))

    def withheld_labels(self) -> dict[str, int]:
        """Return how many intervals of right and wrong answers were withheld, by code."""
        return dict(self._db.execute("SELECT code, count(*) FROM labelled WHERE code != '' GROUP BY code"))

    def labels_waiting(self) -> list[tuple[str, str, int, int, int, int]]:
        """Return counts that wait: model, version, start of their interval, right, wrong, and when they leave."""
        query = (
            "SELECT model, version, start, right, wrong, due FROM labelled JOIN declared USING (release)"
            " WHERE closed_at IS NULL ORDER BY due, start"
        )
        return [tuple(row) for row in self._db.execute(query)]

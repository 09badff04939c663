"""What a node's store remembers of its telemetry: windows, what they spent, the own baseline, odd rows. A part of node.store."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node.core.telemetry.privacy_accountant import START, Entry, Witness

DAYS_KEPT = 92  # of whatever is counted by day
CLOSED_KEPT_SECONDS = 400 * 24 * 3600  # how long it is known which intervals are over, and what was spent for what

TELEMETRY_TABLES = """
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
"""


class TelemetryTables:
    """The tables above, over the connection that the store opens."""

    _db: Any

    # Windows and what they spent

    def spent(self, days: Iterable[int]) -> float:
        """The most that any of these days has spent, in zCDP rho."""
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
        """Whether this interval has been accounted for: it is never noised twice."""
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
        """Rows came for an interval that is over."""
        self._db.execute("UPDATE window SET late = 1 WHERE model = ? AND release = ? AND start = ?", (model, release, start))
        self._db.execute("DELETE FROM sketch WHERE model = ? AND release = ? AND start = ?", (model, release, start))

    def count_late(self) -> int:
        """Intervals that rows came for after they were over."""
        return int(self._db.execute("SELECT count(*) FROM window WHERE late = 1").fetchone()[0])

    def withheld(self) -> dict[str, int]:
        """How many windows were withheld, by code."""
        return dict(self._db.execute("SELECT code, count(*) FROM window WHERE sent = 0 GROUP BY code ORDER BY code"))

    def windows(self, limit: int) -> list[tuple[str, bytes, int, int, int, float, bool]]:
        """The newest closed windows: model, release, start, closed at, rows (noisy), rho, whether it was sent."""
        query = "SELECT model, release, start, at, rows, rho, sent FROM window ORDER BY at DESC, start DESC LIMIT ?"
        rows = self._db.execute(query, (limit,)).fetchall()
        return [(*row[:6], bool(row[6])) for row in rows]

    def count_withheld(self) -> int:
        """Windows that were not sent, because the budget was spent."""
        return int(self._db.execute("SELECT count(*) FROM window WHERE sent = 0").fetchone()[0])

    # The privacy ledger

    def spent_days(self) -> dict[int, float]:
        """What each day has spent, in zCDP rho."""
        return dict(self._db.execute("SELECT day, rho FROM spent ORDER BY day DESC"))

    def ledger(self) -> tuple[Witness, list[Entry]]:
        """The entries that are kept, oldest first, and the one that they follow."""
        rows = self._db.execute("SELECT number, at, days, rho, what, head, before FROM ledger ORDER BY number").fetchall()
        entries = [Entry(number, at, tuple(int(one) for one in days.split(",") if one), *rest) for number, at, days, *rest, _ in rows]
        return (Witness(rows[0][0] - 1, rows[0][-1]) if rows else Witness(0, START)), entries

    def ledger_end(self) -> Witness:
        """The newest entry."""
        row = self._db.execute("SELECT number, head FROM ledger ORDER BY number DESC LIMIT 1").fetchone()
        return Witness(*row) if row else Witness(0, START)

    def add_entry(self, entry: Entry, before: bytes) -> None:
        """Append an entry and charge its days, before anything leaves; very old ones are let go."""
        self._db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.number, entry.at, ",".join(map(str, entry.days)), entry.rho, entry.what, entry.head, before),
        )
        self.charge(entry.days, entry.rho)
        self._db.execute("DELETE FROM ledger WHERE at < ? AND number < ?", (entry.at - CLOSED_KEPT_SECONDS, entry.number))

    def restart_ledger(self) -> None:
        """The chain cannot be believed; the sums by day stay as they are."""
        self._db.execute("DELETE FROM ledger")

    # The own baseline

    def own(self, signals: Sequence[bytes]) -> dict[bytes, tuple[list[int], int, list[int]]]:
        """Noisy counts of the own baseline, the rows that they are of, and those by hour of the week, by signal, where there are any."""
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
        """What was gathered for an own baseline so far."""
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
        """Day, model, code and rows, the newest first."""
        return [tuple(row) for row in self._db.execute("SELECT day, model, code, rows FROM odd ORDER BY day DESC, model, code")]

    def put_sketch(self, model: str, release: bytes, counts: dict[int, list[int]]) -> None:
        """Checkpoint open windows, so that a crash loses seconds and not a window."""
        rows = [(model, release, start, ",".join(map(str, row))) for start, row in counts.items()]
        self._db.executemany("INSERT OR REPLACE INTO sketch VALUES (?, ?, ?, ?)", rows)

    def sketches(self, model: str, release: bytes) -> dict[int, list[int]]:
        """The open windows of the last checkpoint."""
        rows = self._db.execute("SELECT start, counts FROM sketch WHERE model = ? AND release = ?", (model, release)).fetchall()
        return {start: [int(count) for count in counts.split(",")] for start, counts in rows}

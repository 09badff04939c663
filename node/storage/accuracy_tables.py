"""What a node's store remembers of right and wrong answers: which releases have a reference, what answered when, counts that wait.

A part of node.store. Exact counts stand here until their interval leaves, and no longer; a label never does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.core.telemetry.accuracy import KEPT_SECONDS, Declared, Known
from schemas.accuracy import Accuracy

LABELS_TABLES = """
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


@dataclass(frozen=True, slots=True)
class Said:
    """Counts that came under an id, and when their interval leaves; it is None how many there were once it has left."""

    release: bytes
    start: int
    right: int | None
    wrong: int | None
    due: int


class LabelsTables:
    """The tables above, over the connection that the store opens."""

    _db: Any

    # Releases

    def declare(self, declared: Declared, *, at: int) -> None:
        """A release that is served here has a reference of right and wrong answers; it outlives the release's files."""
        self._db.execute(
            "INSERT OR REPLACE INTO declared VALUES (?, ?, ?, ?, ?)",
            (declared.model, declared.release, declared.version, at, declared.accuracy.model_dump_json(exclude_none=True)),
        )

    def declared(self, model: str | None = None) -> list[Declared]:
        """Releases that were served here and have such a reference, the one served last first."""
        query = "SELECT model, version, release, document FROM declared WHERE ?1 IS NULL OR model = ?1 ORDER BY at DESC, rowid DESC"
        rows = self._db.execute(query, (model,)).fetchall()
        return [Declared(name, version, release, Accuracy.model_validate_json(document)) for name, version, release, document in rows]

    # Answers that were given

    def add_answered(self, rows: Mapping[tuple[bytes, int], int], *, at: int) -> None:
        """More answers of releases by interval; of long ago they are forgotten."""
        self._db.executemany(
            "INSERT INTO answered VALUES (?, ?, ?) ON CONFLICT (release, start) DO UPDATE SET rows = rows + excluded.rows",
            [(release, start, count) for (release, start), count in rows.items()],
        )
        self._db.execute("DELETE FROM answered WHERE start < ?", (at - 2 * KEPT_SECONDS,))

    def add_unsure(self, begin: int, until: int) -> None:
        """In between answers may have been given that nobody counted."""
        self._db.execute("INSERT INTO unsure VALUES (?, ?)", (begin, until))
        self._db.execute("DELETE FROM unsure WHERE until < ?", (until - 2 * KEPT_SECONDS,))

    def interval(self, declared: Declared, start: int) -> Known:
        """What is known of an interval."""
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

    # Counts

    def label_said(self, said_id: str) -> Said | None:
        """What came under this id."""
        query = "SELECT release, start, label_id.right, label_id.wrong, due FROM label_id JOIN labelled USING (release, start) WHERE id = ?"
        row = self._db.execute(query, (said_id,)).fetchone()
        return None if row is None else Said(*row)

    def add_labels(self, release: bytes, start: int, *, right: int, wrong: int, due: int, at: int, said_id: str | None) -> None:
        """More right and wrong answers of an interval; to be called within a transaction."""
        self._db.execute(
            "INSERT INTO labelled (release, start, right, wrong, due) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (release, start) DO UPDATE SET right = right + excluded.right, wrong = wrong + excluded.wrong",
            (release, start, right, wrong, due),
        )
        if said_id is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO label_id (id, at, release, start, right, wrong) VALUES (?, ?, ?, ?, ?, ?)",
                (said_id, at, release, start, right, wrong),
            )
            self._db.execute("DELETE FROM label_id WHERE at < ?", (at - KEPT_SECONDS,))

    def due_labels(self, now: int) -> list[tuple[bytes, int]]:
        """Intervals that are to leave: release and start. More may be said of them until the transaction in which they leave."""
        query = "SELECT release, start FROM labelled WHERE closed_at IS NULL AND due <= ? ORDER BY start"
        return [tuple(row) for row in self._db.execute(query, (now,))]

    def close_labels(self, release: bytes, start: int, *, at: int, rho: float, code: str) -> None:
        """An interval has left, or with a code why it does not; its exact counts are forgotten."""
        self._db.execute(
            "UPDATE labelled SET right = 0, wrong = 0, closed_at = ?, rho = ?, code = ? WHERE release = ? AND start = ?",
            (at, rho, code, release, start),
        )
        self._db.execute("UPDATE label_id SET right = NULL, wrong = NULL WHERE release = ? AND start = ?", (release, start))
        self._db.execute("DELETE FROM labelled WHERE closed_at < ?", (at - 2 * KEPT_SECONDS,))

    def withheld_labels(self) -> dict[str, int]:
        """How many intervals of right and wrong answers were withheld, by code."""
        return dict(self._db.execute("SELECT code, count(*) FROM labelled WHERE code != '' GROUP BY code"))

    def labels_waiting(self) -> list[tuple[str, str, int, int, int, int]]:
        """Counts that wait: model, version, start of their interval, right, wrong, and when they leave."""
        query = (
            "SELECT model, version, start, right, wrong, due FROM labelled JOIN declared USING (release)"
            " WHERE closed_at IS NULL ORDER BY due, start"
        )
        return [tuple(row) for row in self._db.execute(query)]

"""Keep what waits for a broker, and for a while what a broker took, in case it loses that."""

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager

from node.core.telemetry.sent_again import SentWindow
from node.storage.rows import Waiting

SENT_KEPT = 256  # windows kept after the broker took them, to be sent again to a broker that lost its memory
KINDS_KEPT = {"window": SENT_KEPT, "receipt": 64}  # and receipts: a day of windows must not crowd them out
REQUEST_ANSWERED = "window_request"  # Fact: the number of the hub's last request for windows that was answered.


class Outbox:
    """Read and write the table of messages that leave: a part of `NodeStore`."""

    _db: sqlite3.Connection

    def transaction(self, *, synced: bool = True) -> AbstractContextManager[None]:
        """Commit all or nothing."""
        raise NotImplementedError

    def enqueue(self, kind: str, topic: str, payload: bytes) -> int:
        """Keep a message until the broker has taken it."""
        return int(self._db.execute("INSERT INTO outbox (kind, topic, payload) VALUES (?, ?, ?)", (kind, topic, payload)).lastrowid or 0)

    def waiting(self, limit: int, *, windows: bool = True) -> list[Waiting]:
        """Return the oldest messages that wait; without `windows` those that are none."""
        rows = self._db.execute(
            "SELECT id, kind, topic, payload FROM outbox WHERE sent = 0 AND (? OR kind != 'window') ORDER BY id LIMIT ?", (windows, limit)
        ).fetchall()
        return [Waiting(*row) for row in rows]

    def count_waiting(self, kind: str) -> int:
        """Return how many messages of a kind wait."""
        return int(self._db.execute("SELECT count(*) FROM outbox WHERE sent = 0 AND kind = ?", (kind,)).fetchone()[0])

    def waiting_windows(self) -> list[tuple[int, str, bytes, bool]]:
        """Return windows that wait, oldest first: number, topic, payload, and whether it was given to a broker before."""
        rows = self._db.execute("SELECT id, topic, payload, tried FROM outbox WHERE sent = 0 AND kind = 'window' ORDER BY id").fetchall()
        return [(one, topic, payload, bool(tried)) for one, topic, payload, tried in rows]

    def waiting_bytes(self, kind: str) -> int:
        """Return payload bytes of the messages of a kind that wait."""
        return int(self._db.execute("SELECT total(length(payload)) FROM outbox WHERE sent = 0 AND kind = ?", (kind,)).fetchone()[0])

    def mark_tried(self, ids: Sequence[int]) -> None:
        """Mark messages that are given to a broker now: from here on each is counted by its id, and never becomes part of another one."""
        with self.transaction():
            self._db.executemany("UPDATE outbox SET tried = 1 WHERE id = ? AND tried = 0", [(one,) for one in ids])

    def drop_waiting(self, ids: Sequence[int]) -> None:
        """Drop messages that will not be sent."""
        self._db.executemany("DELETE FROM outbox WHERE id = ? AND tried = 0", [(one,) for one in ids])

    def mark_sent(self, ids: Sequence[int], *, at: float = 0.0) -> None:
        """Mark messages that the broker has taken, at a moment of the clock of sending; the newest of each kind are kept, in case it
        forgets them.
        """
        self._db.executemany("UPDATE outbox SET sent = 1, sent_at = ? WHERE id = ?", [(at, one) for one in ids])
        for kind, kept in KINDS_KEPT.items():
            self._db.execute(
                "DELETE FROM outbox WHERE sent = 1 AND kind = ? AND id <="
                " (SELECT id FROM outbox WHERE sent = 1 AND kind = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (kind, kind, kept),
            )

    def resend(self, *, windows: bool = True) -> None:
        """Have the kept messages sent again to a broker that has lost its memory. Their readers count them once.

        Without `windows` those that are none: long after the first time, nobody would know them again.
        """
        self._db.execute("UPDATE outbox SET sent = 0, resent = 1 WHERE sent = 1 AND (? OR kind != 'window')", (windows,))

    def newest_sent_at(self) -> float:
        """Return when a broker last took a message that is kept; 0.0 where none is."""
        return float(self._db.execute("SELECT coalesce(max(sent_at), 0.0) FROM outbox").fetchone()[0])

    def sent_windows(self) -> list[SentWindow]:
        """Return the windows that a broker has taken, the oldest first."""
        rows = self._db.execute("SELECT id, sent_at, resent, asked FROM outbox WHERE sent = 1 AND kind = 'window' ORDER BY id").fetchall()
        return [SentWindow(one, sent_at, bool(resent), asked) for one, sent_at, resent, asked in rows]

    def send_windows_again(self, ids: Sequence[int], *, request: int) -> None:
        """Have these windows sent again, byte for byte, and remember that this request is answered."""
        with self.transaction():
            self._db.executemany("UPDATE outbox SET sent = 0, asked = asked + 1 WHERE id = ? AND sent = 1", [(one,) for one in ids])
            self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (REQUEST_ANSWERED, request))

    def outbox_payloads(self, kind: str, limit: int) -> list[tuple[int, str, bytes, bool]]:
        """Return the newest messages of a kind, byte for byte, and whether they were sent."""
        rows = self._db.execute("SELECT id, topic, payload, sent FROM outbox WHERE kind = ? ORDER BY id DESC LIMIT ?", (kind, limit))
        return [(one, topic, payload, bool(sent)) for one, topic, payload, sent in rows]

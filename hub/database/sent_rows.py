"""Keeps what the broker holds for us, and how often each payload was published."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select, text

from hub.database import tables
from hub.database.connection import put
from hub.database.rows import RetainedRow
from hub.database.store_part import Part


class SentRows(Part):
    """Read and write what was sent of releases."""

    def retained(self) -> list[RetainedRow]:
        """Return every payload that we had the broker retain, the oldest expiry first."""
        return self._rows(RetainedRow, select(tables.retained).order_by(tables.retained.c.expires_at))

    def forget_retained(self) -> None:
        """Forget all retained payloads, since the broker lost everything."""
        with self._write() as db:
            db.execute(delete(tables.retained))

    def note_sends(self, sends: Sequence[tuple[bytes, int, int | None]], cleared: Sequence[bytes]) -> None:
        """Note what one turn of the block server sends and clears, in one transaction; sends are (digest, bytes, expires_at or None).

        It does not wait for the disk, since a turn has few blocks: what a power cut takes away of it ends at the broker by its own expiry.
        """
        with self.database.write_soon() as db:
            for digest, size_bytes, expires_at in sends:
                _count(db, digest, size_bytes, self._now())
                if expires_at is not None:
                    _put_retained(db, digest, size_bytes, expires_at)
            if cleared:
                db.execute(delete(tables.retained).where(tables.retained.c.digest.in_(list(cleared))))

    def publish_counts(self, digests: Sequence[bytes] | None = None) -> dict[bytes, int]:
        """Return how often each payload was published."""
        query = select(tables.publishes.c.digest, tables.publishes.c.count)
        if digests is not None:
            query = query.where(tables.publishes.c.digest.in_(list(digests)))
        with self._read() as db:
            return {row.digest: int(row[1]) for row in db.execute(query)}


def _put_retained(db: Connection, digest: bytes, size_bytes: int, expires_at: int) -> None:
    put(db, tables.retained, {"digest": digest}, {"digest": digest, "bytes": size_bytes, "expires_at": expires_at})


_COUNT = text(  # SQLite and PostgreSQL read the same words; what is there is added to by the database, so that no writer loses another's.
    f"INSERT INTO {tables.publishes.name} AS known (digest, count, bytes, last_at) VALUES (:digest, 1, :bytes, :now)"  # noqa: S608  # a name of our own
    " ON CONFLICT (digest) DO UPDATE"
    " SET count = known.count + 1, bytes = known.bytes + excluded.bytes, last_at = excluded.last_at"
)


def _count(db: Connection, digest: bytes, size_bytes: int, now: int) -> None:
    db.execute(_COUNT, {"digest": digest, "bytes": size_bytes, "now": now})

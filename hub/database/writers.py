"""Keeps writers that are at work at once from counting a window twice, and from losing what another has added to an interval.

SQLite has one writer at a time, which begins with its first row. On PostgreSQL a writer claims ids and locks intervals, and then reads.
All writers take them in one order, ids before intervals, so that no two wait for each other.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, insert, select, text

from hub.database import postgresql, tables
from hub.database.rows import INTERVAL_KEY

IntervalKey = tuple[bytes, str, int, int, bool]  # the values of INTERVAL_KEY

_SEEN = tables.windows_seen
_CLAIM = text(
    f"INSERT INTO {_SEEN.name} (id, at) SELECT id, :at FROM unnest(CAST(:ids AS bytea[])) AS id ORDER BY id"  # noqa: S608  # our own names
    " ON CONFLICT (id) DO NOTHING RETURNING id"
)
# An interval without windows is made where there is none, and nothing is written of one that is there: it is locked all the same.
_KEY = ", ".join(INTERVAL_KEY)
_LOCK = text(
    f"INSERT INTO {tables.intervals.name} ({_KEY}, model, windows, late, rows, reference_rows, noise_units, counts, subgroups, last_at,"  # noqa: S608
    f" tested_windows, alarmed) SELECT {_KEY}, model, 0, 0, 0, 0, 0, CAST('' AS bytea), CAST('' AS bytea), 0, 0, FALSE FROM unnest("
    " CAST(:release AS bytea[]), CAST(:cohort AS text[]), CAST(:start AS bigint[]), CAST(:seconds AS bigint[]),"
    f" CAST(:calibrated AS boolean[]), CAST(:model AS text[])) AS mine ({_KEY}, model)"
    f" ORDER BY {_KEY} ON CONFLICT ({_KEY}) DO UPDATE SET last_at = excluded.last_at WHERE FALSE"
)


def _is_shared(db: Connection) -> bool:
    return db.dialect.name == postgresql.NAME


def seen_before(db: Connection, ids: Sequence[bytes], *, at: int) -> set[bytes]:
    """Return which ids of windows were counted already; where others write too, the rest is claimed for this transaction."""
    if _is_shared(db):
        return set(ids) - set(db.execute(_CLAIM, {"ids": list(set(ids)), "at": at}).scalars())
    return set(db.execute(select(_SEEN.c.id).where(_SEEN.c.id.in_(ids))).scalars())


def remember(db: Connection, ids: Sequence[bytes], *, at: int) -> None:
    """Keep ids of windows that are counted now, where `seen_before` has not done so."""
    if not _is_shared(db):
        db.execute(insert(_SEEN), [{"id": one, "at": at} for one in ids])


def lock_intervals(db: Connection, models: Mapping[IntervalKey, str]) -> None:
    """Keep other writers from these intervals, each with its model, until the transaction ends; one that is new then has no windows."""
    if _is_shared(db):
        columns = dict(zip(INTERVAL_KEY, map(list, zip(*models, strict=True)), strict=True))
        db.execute(_LOCK, {**columns, "model": list(models.values())})


_TOUCH = text(
    f"INSERT INTO {tables.touched_nodes.name} (node, xact)"  # noqa: S608  # our own names
    " SELECT node, CAST(CAST(pg_current_xact_id() AS text) AS bigint) FROM unnest(CAST(:names AS text[])) AS node ORDER BY node"
    " ON CONFLICT (node) DO UPDATE SET xact = excluded.xact"
)
_HORIZON = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
_TOUCHED = text(f"SELECT node FROM {tables.touched_nodes.name} WHERE xact >= :since ORDER BY node")  # noqa: S608


def touch(db: Connection, names: Collection[str]) -> None:
    """Note, where other processes read along, that something of these nodes is written in this transaction."""
    if names and _is_shared(db):
        db.execute(_TOUCH, {"names": sorted(names)})


def touched_since(db: Connection, since: int) -> tuple[int, list[str]]:
    """Return nodes that were written of by transactions from this number on, and the number to ask with the next time.

    That number is of the oldest transaction that is still under way: what it has written is seen the next time, and nothing is missed.
    """
    horizon = int(db.execute(_HORIZON).scalar_one())
    return horizon, list(db.execute(_TOUCHED, {"since": since}).scalars())

"""Windows become intervals in the database: each counted once by its id, added to its interval in the same transaction. For hub.store."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, inspect, select, text, update

from hub import tables
from hub.core.subgroups import GROUPS
from hub.core.windows import total
from hub.rows import IntervalRow, WindowRow

FIRST_TABLE = "intervals"
FIRST_DRIFTS, SECOND_DRIFTS = "drifts", "drift_results"
GROUP_HEAD = 2  # windows and rows stand before a group's counts

Key = tuple[bytes, str, int, int, bool]


def add_windows(db: Connection, rows: Sequence[WindowRow], now: int) -> list[bool]:
    """Add windows to their intervals; False for those whose id was seen."""
    ids = [row.id for row in rows]
    seen = set(db.execute(select(tables.windows_seen.c.id).where(tables.windows_seen.c.id.in_(ids))).scalars())
    fresh: list[bool] = []
    members: dict[Key, list[WindowRow]] = {}
    for row in rows:
        fresh.append(row.id not in seen)
        if fresh[-1]:
            seen.add(row.id)
            members.setdefault((row.release, row.cohort, row.start, row.seconds, row.calibrated), []).append(row)
    new = [{"id": row.id, "at": now} for row, is_fresh in zip(rows, fresh, strict=True) if is_fresh]
    if new:
        db.execute(insert(tables.windows_seen), new)
    for key, those in members.items():
        _merge(db, key, those, now)
    return fresh


def _merge(db: Connection, key: Key, members: Sequence[WindowRow], now: int) -> None:
    table = tables.intervals
    release, cohort, start, seconds, calibrated = key
    where = (
        (table.c.release == release)
        & (table.c.cohort == cohort)
        & (table.c.start == start)
        & (table.c.seconds == seconds)
        & (table.c.calibrated.is_(calibrated))
    )
    found = db.execute(select(table).where(where)).mappings().first()
    groups = _groups(members)
    counts = groups[:, GROUP_HEAD:].sum(axis=0)
    values: dict[str, Any] = {
        "windows": len(members),
        "rows": sum(row.rows for row in members),
        "reference_rows": sum(row.reference_rows for row in members),
        "noise_units": sum(row.noise_units for row in members),
        "late": 0,
        "last_at": now,
    }
    if found is None:
        fields = dict(zip(("release", "cohort", "start", "seconds", "calibrated"), key, strict=True))
        packed = {"counts": counts.tobytes(), "subgroups": groups.tobytes()}
        db.execute(insert(table).values({**fields, **values, **packed, "model": members[0].model, "tested_windows": 0, "alarmed": False}))
        return
    counts = total([counts, np.frombuffer(found["counts"], np.int64)])  # of another length: a bug of ours, and loud
    if found["subgroups"]:
        groups = groups + np.frombuffer(found["subgroups"], np.int64).reshape(groups.shape)
    for name in ("windows", "rows", "reference_rows", "noise_units"):
        values[name] += found[name]
    values["late"] = found["late"] + (len(members) if found["tested_windows"] else 0)
    db.execute(update(table).where(where).values({**values, "counts": counts.tobytes(), "subgroups": groups.tobytes()}))


def _groups(members: Sequence[WindowRow]) -> NDArray[np.int64]:
    """Totals by sub-group, [groups, windows and rows and bins].

    Raises:
        ValueError: their counts are of different lengths.
    """
    counts = np.stack([np.asarray(row.counts, np.int64) for row in members])
    heads = np.array([(1, row.rows) for row in members], np.int64)
    found = np.zeros((GROUPS, GROUP_HEAD + counts.shape[1]), np.int64)
    np.add.at(found, np.array([row.group % GROUPS for row in members]), np.hstack([heads, counts]))
    return found


def groups_of(row: IntervalRow) -> tuple[list[int], list[int], NDArray[np.int64]]:
    """Windows, rows and counts of an interval by sub-group; one group where a first hub kept none."""
    if not row.subgroups:
        return [row.windows], [row.rows], np.array([row.counts], np.int64)
    table = np.frombuffer(row.subgroups, np.int64).reshape(-1, GROUP_HEAD + len(row.counts))
    return table[:, 0].tolist(), table[:, 1].tolist(), table[:, GROUP_HEAD:]


def interval_rows(db: Connection, query: Any) -> list[IntervalRow]:
    """What a query over the table finds."""
    rows = db.execute(query).mappings().all()
    return [IntervalRow(**{**row, "counts": tuple(array("q", row["counts"]))}) for row in rows]


def prune(db: Connection, *, seen_before: int, tested_before: int) -> None:
    """Forget ids of windows that came before a moment, and intervals that were tested and had no window since another."""
    table = tables.intervals
    db.execute(delete(tables.windows_seen).where(tables.windows_seen.c.at < seen_before))
    db.execute(delete(table).where(table.c.last_at < tested_before, table.c.windows <= table.c.tested_windows))


def take_over(db: Connection) -> None:
    """Bring over what a first hub kept: none of its windows were calibrated, and their rows are not known beside their counts."""
    if not inspect(db).has_table(FIRST_TABLE):
        return
    names = "release, cohort, start, seconds, model, windows, counts, last_at, tested_windows, alarmed"
    db.execute(
        text(
            f"INSERT INTO {tables.intervals.name} ({names}, calibrated, late, rows, reference_rows, noise_units, subgroups)"  # noqa: S608
            f" SELECT {names}, :calibrated, 0, 0, 0, windows, :none FROM {FIRST_TABLE}"
        ),
        {"calibrated": False, "none": b""},
    )
    db.execute(text(f"DROP TABLE {FIRST_TABLE}"))


def take_over_drifts(db: Connection) -> None:
    """Bring over what earlier hubs found: all of it of signals, and a first one's all of windows that were not calibrated."""
    names = "model, version, cohort, start, seconds, tested_at, alarm, body"
    for earlier, calibrated in ((FIRST_DRIFTS, "FALSE"), (SECOND_DRIFTS, "calibrated")):
        if inspect(db).has_table(earlier):
            into = f"INSERT INTO {tables.drifts.name} ({names}, calibrated, about)"
            db.execute(text(f"{into} SELECT {names}, {calibrated}, '' FROM {earlier}"))  # noqa: S608  # names of our own
            db.execute(text(f"DROP TABLE {earlier}"))

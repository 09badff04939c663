"""Windows become intervals in the database: each counted once by its id, added to its interval in the same transaction. For hub.store."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, func, insert, inspect, select, text, update

from hub.core.drift.subgroups import GROUPS
from hub.core.drift.windows import total
from hub.database import tables
from hub.database.connection import put, where
from hub.database.rows import IntervalRow, WindowRow
from schemas.analytics_messages import Drift

FIRST_TABLE = "intervals"
FIRST_DRIFTS, SECOND_DRIFTS = "drifts", "drift_results"
GROUP_HEAD = 2  # windows and rows stand before a group's counts

KEY = ("release", "cohort", "start", "seconds", "calibrated")
Key = tuple[bytes, str, int, int, bool]
_SUMS = ("windows", "rows", "reference_rows", "noise_units", "late", "last_at", "counts", "subgroups")
_GROW = (
    update(tables.intervals)
    .where(*[tables.intervals.c[name] == bindparam(f"its_{name}") for name in KEY])
    .values({name: bindparam(name) for name in _SUMS})
)


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
        _merge(db, members, now)
    return fresh


def _merge(db: Connection, members: Mapping[Key, Sequence[WindowRow]], now: int) -> None:
    known = _known(db, members)
    added: list[dict[str, Any]] = []
    grown: list[dict[str, Any]] = []
    for key, those in members.items():
        groups = _groups(those)
        values: dict[str, Any] = {
            "windows": len(those),
            "rows": sum(row.rows for row in those),
            "reference_rows": sum(row.reference_rows for row in those),
            "noise_units": sum(row.noise_units for row in those),
            "late": 0,
            "last_at": now,
        }
        counts, found = groups[:, GROUP_HEAD:].sum(axis=0), known.get(key)
        if found is not None:
            counts = total([counts, np.frombuffer(found["counts"], np.int64)])  # of another length: a bug of ours, and loud
            if found["subgroups"]:
                groups = groups + np.frombuffer(found["subgroups"], np.int64).reshape(groups.shape)
            for name in ("windows", "rows", "reference_rows", "noise_units"):
                values[name] += found[name]
            values["late"] = found["late"] + (len(those) if found["tested_windows"] else 0)
        values |= {"counts": counts.tobytes(), "subgroups": groups.tobytes()}
        if found is None:
            fields = dict(zip(KEY, key, strict=True))
            added.append({**fields, **values, "model": those[0].model, "tested_windows": 0, "alarmed": False})
        else:
            grown.append({**{f"its_{name}": part for name, part in zip(KEY, key, strict=True)}, **values})
    if added:
        db.execute(insert(tables.intervals), added)
    if grown:
        db.execute(_GROW, grown)


def _known(db: Connection, keys: Iterable[Key]) -> dict[Key, Mapping[str, Any]]:
    """Those of the intervals that there are already: a query for each cohort."""
    table = tables.intervals
    starts: dict[tuple[bytes, str], set[int]] = {}
    for release, cohort, start, _, _ in keys:
        starts.setdefault((release, cohort), set()).add(start)
    found: dict[Key, Mapping[str, Any]] = {}
    for (release, cohort), mine in starts.items():
        here = (table.c.release == release) & (table.c.cohort == cohort) & table.c.start.in_(sorted(mine))
        for row in db.execute(select(table).where(here)).mappings():
            found[release, cohort, row["start"], row["seconds"], bool(row["calibrated"])] = dict(row)
    return found


def _groups(members: Sequence[WindowRow]) -> NDArray[np.int64]:
    """Totals by sub-group, [groups, windows and rows and bins].

    Raises:
        ValueError: their counts are of different lengths.
    """
    counts = np.stack([np.asarray(row.counts, np.int64) for row in members])
    places = np.array([row.group % GROUPS for row in members])
    order = np.argsort(places, kind="stable")
    firsts = np.flatnonzero(np.diff(places[order], prepend=-1))
    heard = places[order[firsts]]
    found = np.zeros((GROUPS, GROUP_HEAD + counts.shape[1]), np.int64)
    found[heard, 0] = np.bincount(places, minlength=GROUPS)[heard]
    found[heard, 1] = np.add.reduceat(np.array([row.rows for row in members], np.int64)[order], firsts)
    found[heard, GROUP_HEAD:] = np.add.reduceat(counts[order], firsts, axis=0)
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
    table, withheld = tables.intervals, tables.withheld
    db.execute(delete(tables.windows_seen).where(tables.windows_seen.c.at < seen_before))
    db.execute(delete(table).where(table.c.last_at < tested_before, table.c.windows <= table.c.tested_windows))
    db.execute(delete(withheld).where(~select(table.c.start).where(*(withheld.c[name] == table.c[name] for name in KEY)).exists()))


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
            into = f"INSERT INTO {tables.drifts.name} ({names}, first_tested_at, calibrated, about)"
            db.execute(text(f"{into} SELECT {names}, tested_at, {calibrated}, '' FROM {earlier}"))  # noqa: S608  # names of our own
            db.execute(text(f"DROP TABLE {earlier}"))


def put_newest(db: Connection, drift: Drift, now: int) -> None:
    """Keep the test that is retained on its model's topic."""
    put(db, tables.newest_drifts, {"model": drift.model}, {"model": drift.model, "tested_at": now, "body": drift.model_dump_json()})


def take_over_newest(db: Connection) -> None:
    """Find what is retained on the topics of an earlier hub, which looked through all of its tests for it; once a model."""
    table, model = tables.drifts.c, ""
    order = (table.start.desc(), table.cohort, table.calibrated.desc())
    while (following := db.execute(select(func.min(table.model)).where(table.model > model)).scalar()) is not None:
        model = following
        if db.execute(where(select(tables.newest_drifts.c.model), tables.newest_drifts, {"model": model})).first() is not None:
            continue
        mine = select(*tables.drifts.primary_key.columns).where(table.model == model, table.about == "")
        key = db.execute(mine.order_by(*order).limit(1)).mappings().first()
        if key is not None:
            newest = db.execute(where(select(table.model, table.tested_at, table.body), tables.drifts, dict(key))).mappings().one()
            db.execute(insert(tables.newest_drifts).values(dict(newest)))

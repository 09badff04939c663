"""Keeps windows by adding them to their intervals, what was found of those, and the state of streams."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from fleetcast.counted import counted as in_words
from hub.core.drift.intervals import Sums, add_up, merge
from hub.database import tables, writers
from hub.database.connection import fields, put, where
from hub.database.rows import INTERVAL_KEY, IntervalRow, Learnt, StreamRow, WindowRow
from hub.database.store_part import Part
from hub.database.writers import IntervalKey
from schemas.analytics_messages import Drift

STREAM_SECONDS = 35 * 86_400  # a stream that got nothing for this long is over, and counts no longer among the others

_SUMS = ("windows", "rows", "reference_rows", "noise_units", "late", "last_at", "counts", "subgroups")
_GROW = (
    update(tables.intervals)
    .where(*[tables.intervals.c[name] == bindparam(f"its_{name}") for name in INTERVAL_KEY])
    .values({name: bindparam(name) for name in _SUMS})
)
_UNSETTLED = (
    select(tables.intervals)
    .where(tables.intervals.c.windows > tables.intervals.c.tested_windows, tables.intervals.c.last_at <= bindparam("before"))
    .order_by(tables.intervals.c.start)
)
_COHORT = (tables.intervals.c.model, tables.intervals.c.cohort)
_NEXT_COHORT = (  # The next cohort of a model, or the first one of the next model.
    select(*_COHORT).where(_COHORT[0] == bindparam("model"), _COHORT[1] > bindparam("cohort")).order_by(_COHORT[1]).limit(1),
    select(*_COHORT).where(_COHORT[0] > bindparam("model")).order_by(*_COHORT).limit(1),
)


class IntervalRows(Part):
    """Read and write windows, intervals, tests and streams."""

    def add_windows(self, rows: Sequence[WindowRow]) -> list[bool]:
        """Add windows to their intervals, all in one transaction; False for those whose id was seen.

        Several processes may do so at once: an id is claimed and an interval is locked before it is read.
        """
        with self._write() as db:
            seen = writers.seen_before(db, [row.id for row in rows], at=self._now())
            fresh: list[bool] = []
            members: dict[IntervalKey, list[WindowRow]] = {}
            for row in rows:
                fresh.append(row.id not in seen)
                if fresh[-1]:
                    seen.add(row.id)
                    members.setdefault((row.release, row.cohort, row.start, row.seconds, row.calibrated), []).append(row)
            if members:
                writers.remember(db, [row.id for row, is_fresh in zip(rows, fresh, strict=True) if is_fresh], at=self._now())
                _add_to_intervals(db, members, self._now())
        return fresh

    def intervals(self, model: str, since: int | None = None) -> list[IntervalRow]:
        """Return a model's intervals that started at `since` or later, oldest first."""
        table = tables.intervals
        query = select(table).where(table.c.model == model).order_by(table.c.start, table.c.cohort)
        return self._intervals(query if since is None else query.where(table.c.start >= since))

    def unsettled_intervals(self, before: int) -> list[IntervalRow]:
        """Return intervals with windows that were not tested yet, the last of which came at `before` or earlier."""
        return self._intervals(_UNSETTLED, before=before)

    def open_intervals(self) -> list[tuple[str, str, bytes, int]]:
        """Return model, cohort, release and beginning of each interval with windows that were not tested yet."""
        table = tables.intervals.c
        query = select(table.model, table.cohort, table.release, table.start).where(table.windows > table.tested_windows)
        with self._read() as db:
            return [(row.model, row.cohort, row.release, row.start) for row in db.execute(query)]

    def known_cohorts(self) -> set[tuple[str, str]]:
        """Return every model and cohort of which intervals are kept. The index leads from one to the next, past all of their intervals."""
        found = set[tuple[str, str]]()
        at = {"model": "", "cohort": ""}
        same, next_one = _NEXT_COHORT
        with self._read() as db:
            while row := db.execute(same, at).first() or db.execute(next_one, {"model": at["model"]}).first():
                at = {"model": row.model, "cohort": row.cohort}
                found.add((row.model, row.cohort))
        return found

    def mark_tested(
        self,
        row: IntervalRow,
        *,
        alarmed: bool,
        drift: Drift | None = None,
        learnt: Learnt | None = None,
        left: int | None = None,
        newest: bool = False,
    ) -> None:
        """Mark an interval as tested with the windows that `row` has.

        With its result, and what its stream has learnt of it, unless too few nodes were heard. That only `left` windows are left to be
        tested is remembered, so that the whole is not shown. `newest`: the result is retained on its model's topic.
        """
        with self._write() as db:
            values = {"tested_windows": row.windows, "alarmed": alarmed}
            db.execute(where(update(tables.intervals), tables.intervals, row.key).values(values))
            db.execute(where(delete(tables.withheld), tables.withheld, row.key))
            if left is not None:
                db.execute(insert(tables.withheld).values({**row.key, "windows_left": left}))
            if drift is not None:
                self._drift(db, drift)
                if newest:
                    newest_row = {"model": drift.model, "tested_at": self._now(), "body": drift.model_dump_json()}
                    put(db, tables.newest_drifts, {"model": drift.model}, newest_row)
            if learnt is not None:
                stream, counted = learnt
                put(db, tables.streams, {"release": stream.release, "cohort": stream.cohort}, fields(stream))
                values = fields(counted)
                key = {name: value for name, value in values.items() if name != "part"}
                put(db, tables.counted, key, {**values, "at": self._now()})

    def counted(self, release: bytes, cohort: str, start: int, seconds: int, *, calibrated: bool) -> str | None:
        """Return what its stream has counted of an interval, as `mark_tested` was given it; None where it has counted nothing."""
        key = {"release": release, "cohort": cohort, "start": start, "seconds": seconds, "calibrated": calibrated}
        with self._read() as db:
            found: str | None = db.execute(where(select(tables.counted.c.part), tables.counted, key)).scalar()
        return found

    def streams(self) -> list[StreamRow]:
        """Return every release in every cohort that was tested within the time for which late windows are taken."""
        table = tables.streams.c
        query = select(tables.streams).where(table.at >= self._now() - STREAM_SECONDS).order_by(table.model, table.cohort)
        return self._rows(StreamRow, query)

    def _intervals(self, query: Any, **values: int) -> list[IntervalRow]:
        with self._read() as db:
            rows = db.execute(query, values).mappings().all()
        return [IntervalRow(**{**row, "counts": tuple(array("q", row["counts"]))}) for row in rows]

    def drifts(self, model: str | None = None, limit: int | None = None, *, of_signals: bool = False) -> list[Drift]:
        """Return tested intervals, the newest interval first; `of_signals`: none that are about accuracy."""
        table = tables.drifts.c
        query = select(table.body).order_by(table.start.desc(), table.cohort, table.calibrated.desc())
        if model is not None:
            query = query.where(tables.drifts.c.model == model)
        if of_signals:
            query = query.where(tables.drifts.c.about == "")
        with self._read() as db:
            return [Drift.model_validate_json(body) for body in db.execute(query.limit(limit)).scalars()]

    def newest_drifts(self, model: str | None = None) -> list[Drift]:
        """Return the test that is retained on each model's topic, or on that of one model."""
        table = tables.newest_drifts.c
        query = select(table.body).order_by(table.model)
        with self._read() as db:
            found = db.execute(query if model is None else query.where(table.model == model)).scalars()
            return [Drift.model_validate_json(body) for body in found]

    def _drift(self, db: Connection, drift: Drift) -> None:
        key = {name: getattr(drift, name) for name in ("model", "version", "cohort", "start", "seconds")}
        key |= {"calibrated": drift.calibrated is True, "about": drift.about or ""}
        table, now = tables.drifts, self._now()
        first = db.execute(select(table.c.first_tested_at).where(*[table.c[name] == value for name, value in key.items()])).scalar()
        values = {
            "first_tested_at": now if first is None else first,
            "tested_at": now,
            "alarm": drift.alarm,
            "body": drift.model_dump_json(),
        }
        put(db, table, key, {**key, **values})
        found = f"{'ALARM' if drift.alarm else 'no alarm'} over {in_words(drift.windows, 'window')}"
        text = f"{drift.model} {drift.version}, cohort {drift.cohort}: {found}"
        self._event(db, "drift", text, {"drift": drift.model_dump(mode="json")})


def _add_to_intervals(db: Connection, members: Mapping[IntervalKey, Sequence[WindowRow]], now: int) -> None:
    writers.lock_intervals(db, {key: those[0].model for key, those in members.items()})
    known = _known_intervals(db, members)
    added: list[dict[str, Any]] = []
    grown: list[dict[str, Any]] = []
    for key, those in members.items():
        sums, found = add_up(those, [row.group for row in those]), known.get(key)
        if found is not None and found["windows"]:
            sums = merge(_sums(found), sums, tested=found["tested_windows"] > 0)
        values = {
            "windows": sums.windows,
            "rows": sums.rows,
            "reference_rows": sums.reference_rows,
            "noise_units": sums.noise_units,
            "late": sums.late,
            "last_at": now,
            "counts": sums.counts.tobytes(),
            "subgroups": sums.groups.tobytes(),
        }
        if found is None:
            fields = dict(zip(INTERVAL_KEY, key, strict=True))
            added.append({**fields, **values, "model": those[0].model, "tested_windows": 0, "alarmed": False})
        else:
            grown.append({**{f"its_{name}": part for name, part in zip(INTERVAL_KEY, key, strict=True)}, **values})
    if added:
        db.execute(insert(tables.intervals), added)
    if grown:
        db.execute(_GROW, grown)


def _sums(found: Mapping[str, Any]) -> Sums:
    counts, groups = np.frombuffer(found["counts"], np.int64), np.frombuffer(found["subgroups"], np.int64)
    return Sums(found["windows"], found["rows"], found["reference_rows"], found["noise_units"], counts, groups, found["late"])


def _known_intervals(db: Connection, keys: Iterable[IntervalKey]) -> dict[IntervalKey, Mapping[str, Any]]:
    """Return those of the intervals that there are already, with one query for each cohort."""
    table = tables.intervals
    starts: dict[tuple[bytes, str], set[int]] = {}
    for release, cohort, start, _, _ in keys:
        starts.setdefault((release, cohort), set()).add(start)
    found: dict[IntervalKey, Mapping[str, Any]] = {}
    for (release, cohort), mine in starts.items():
        here = (table.c.release == release) & (table.c.cohort == cohort) & table.c.start.in_(sorted(mine))
        for row in db.execute(select(table).where(here)).mappings():
            found[release, cohort, row["start"], row["seconds"], bool(row["calibrated"])] = dict(row)
    return found

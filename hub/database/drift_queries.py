"""Reads what the hub's database has on drift, by streams, periods and pages. Writes nothing; knows no statistics."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, select, tuple_

from hub.core.rollouts.active_alarms import StreamName
from hub.core.rollouts.gate_summary import Heard
from hub.database.connection import Database
from hub.database.rows import INTERVAL_KEY, IntervalRow, StreamRow
from hub.database.tables import alerts, drifts, intervals, streams, withheld
from schemas.accuracy import About
from schemas.analytics_messages import Alert, Drift

PAGE = 500  # intervals in memory at once, at some kilobytes each
ALERTS_MAX = 10_000  # alerts of one model: older ones concern no question that is asked now

GATHERING = '%"gathering":true%'  # in the document of a test
Key = tuple[str, str, int, int, bool, str]  # what names a tested interval: version, cohort, start, seconds, calibrated, about

_TABLE = intervals.c
_HERE = (_TABLE.release == bindparam("release"), _TABLE.cohort == bindparam("cohort"))
_NEXT_PAIR = (  # The next cohort of a release, or the first one of the next release: past all intervals of the one before.
    select(_TABLE.release, _TABLE.cohort).where(_HERE[0], _TABLE.cohort > bindparam("cohort")).order_by(_TABLE.cohort).limit(1),
    select(_TABLE.release, _TABLE.cohort).where(_TABLE.release > bindparam("release")).order_by(_TABLE.release, _TABLE.cohort).limit(1),
)
_NEWEST_TESTED = select(_TABLE.model, _TABLE.start).where(*_HERE, _TABLE.tested_windows > 0).order_by(_TABLE.start.desc()).limit(1)
_KNOWN = select(streams.c.release).where(streams.c.release == bindparam("release"), streams.c.cohort == bindparam("cohort"))
_WINDOWS_LEFT = (
    select(_TABLE.calibrated, func.max(func.coalesce(withheld.c.windows_left, _TABLE.windows)))
    .outerjoin(withheld, and_(*(withheld.c[name] == _TABLE[name] for name in INTERVAL_KEY)))
    .where(*_HERE, _TABLE.start == bindparam("start"))
    .group_by(_TABLE.calibrated)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Choose intervals: of a model, and of a cohort and a period [since, until) where they are given.

    None of too few windows, nor of which too few were left to be tested.
    """

    model: str
    cohort: str | None = None
    since: int | None = None
    until: int | None = None
    release: bytes | None = None
    windows_min: int = 1


class Findings:
    """Read the drift that the database keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def streams(self, model: str | None = None, cohort: str | None = None) -> list[StreamRow]:
        """Return streams that the hub still follows."""
        query = select(streams).order_by(streams.c.model, streams.c.cohort, streams.c.at)
        for column, value in ((streams.c.model, model), (streams.c.cohort, cohort)):
            if value is not None:
                query = query.where(column == value)
        return self._database.rows(StreamRow, query)

    def newest(self, streams_of: Iterable[StreamName]) -> dict[StreamName, Drift]:
        """Return the newest test of each stream that has one; the key leads to it, however many tests are kept."""
        found = {}
        for name in set(streams_of):
            for one in self.drifts(name, limit=1):
                found[name] = one
        return found

    def drifts(self, name: StreamName, *, since: int = 0, until: int | None = None, limit: int = 1000) -> list[Drift]:
        """Return a stream's newest tests of intervals that began in [since, until), the oldest of them first."""
        query = (
            select(drifts.c.body)
            .where(_of_stream(name), drifts.c.start >= since)
            .order_by(drifts.c.start.desc(), drifts.c.calibrated.desc())
            .limit(limit)
        )
        if until is not None:
            query = query.where(drifts.c.start < until)
        with self._database.read() as db:
            return [Drift.model_validate_json(body) for body in db.execute(query).scalars()][::-1]

    def alerts(self, model: str | None = None) -> list[Alert]:
        """Return the alerts that drift has begun or is over, the oldest first."""
        query = select(alerts.c.body).where(alerts.c.kind.in_(["drift", "drift_over"])).order_by(alerts.c.id.desc()).limit(ALERTS_MAX)
        if model is not None:
            query = query.where(alerts.c.model == model)
        with self._database.read() as db:
            return [Alert.model_validate_json(body) for body in db.execute(query).scalars()][::-1]

    def alarmed_since(self, model: str, version: str, moment: int) -> bool:
        """Return whether a release raised a drift alarm that was found at `moment` or later, or in one that lasted."""
        query = select(func.count()).where(
            drifts.c.model == model, drifts.c.version == version, drifts.c.alarm.is_(True), drifts.c.tested_at >= moment
        )
        with self._database.read() as db:
            return bool(db.execute(query).scalar())

    def tested_since(self, model: str, version: str, moment: int, *, gathering: bool = False) -> dict[str, int]:
        """Return how many intervals of signals were first judged at `moment` or later, by cohort; or, of nodes that gather, only shown.

        One that is judged again, since windows of it came late, says nothing of what was done at `moment`.
        """
        shown = drifts.c.body.like(GATHERING)
        query = (
            select(drifts.c.cohort, func.count())
            .where(drifts.c.model == model, drifts.c.version == version, drifts.c.first_tested_at >= moment)
            .where(shown if gathering else ~shown, drifts.c.about == "")
            .group_by(drifts.c.cohort)
        )
        with self._database.read() as db:
            return {cohort: int(count) for cohort, count in db.execute(query).all()}

    def begun(self, model: str | None = None, cohort: str | None = None) -> list[StreamRow]:
        """Return streams of which nothing was judged yet, since the nodes gather their baselines: rows without evidence."""
        found = list[StreamRow]()
        with self._database.read() as db:
            for release, where in _pairs(db):
                at = {"release": release, "cohort": where}
                if cohort not in {None, where} or db.execute(_KNOWN, at).first() is not None:
                    continue
                newest = db.execute(_NEWEST_TESTED, at).first()
                if newest is not None and model in {None, newest.model}:
                    found.append(StreamRow(release, where, newest.model, b"", -math.inf, None, 0))
        return sorted(found, key=lambda row: row.model)

    def heard(
        self, model: str, cohort: str | None = None, *, release: bytes | None = None, since: int = 0
    ) -> dict[tuple[bytes, str], Heard]:
        """Return of each release in a cohort the newest interval that has settled, and of which a window came at `since` or later."""
        found: dict[tuple[bytes, str], Heard] = {}
        with self._database.read() as db:
            newest = self._heard_since(db, model, cohort, release, since) if since else self._heard(db, model, cohort, release)
            for digest, where, start in newest:
                found[digest, where] = before = Heard(start)
                for calibrated, windows in db.execute(_WINDOWS_LEFT, {"release": digest, "cohort": where, "start": start}):
                    found[digest, where] = before = replace(before, **{"calibrated" if calibrated else "others": int(windows)})
        return found

    def _heard(self, db: Connection, model: str, cohort: str | None, release: bytes | None) -> Iterator[tuple[bytes, str, int]]:
        """Yield releases, cohorts and the beginning of their newest settled interval: the key leads to it, past all others."""
        pairs = _pairs(db) if cohort is None or release is None else iter([(release, cohort)])
        for digest, where in pairs:
            if cohort in {None, where} and release in {None, digest}:
                newest = db.execute(_NEWEST_TESTED, {"release": digest, "cohort": where}).first()
                if newest is not None and newest.model == model:
                    yield digest, where, newest.start

    def _heard_since(
        self, db: Connection, model: str, cohort: str | None, release: bytes | None, since: int
    ) -> Iterator[tuple[bytes, str, int]]:
        """Yield the same of the intervals that were heard lately."""
        table = intervals.c
        newest = select(table.release, table.cohort, func.max(table.start)).where(
            table.model == model, table.tested_windows > 0, table.last_at >= since
        )
        for column, value in ((table.cohort, cohort), (table.release, release)):
            if value is not None:
                newest = newest.where(column == value)
        yield from ((row[0], row[1], int(row[2])) for row in db.execute(newest.group_by(table.release, table.cohort)).all())

    def newest_start(self, model: str, cohort: str, about: About | None) -> int:
        """Return when the newest tested interval of a model in a cohort began, of whichever release; 0 where there is none."""
        query = select(func.max(drifts.c.start)).where(drifts.c.model == model, drifts.c.cohort == cohort, drifts.c.about == (about or ""))
        with self._database.read() as db:
            return int(db.execute(query).scalar() or 0)

    def gathers_since(self, name: StreamName) -> int | None:
        """Return since when a stream has only gathered; None where it was judged, or nothing was heard of it."""
        judged = select(drifts.c.start).where(_of_stream(name), ~drifts.c.body.like(GATHERING)).order_by(drifts.c.start.desc()).limit(1)
        with self._database.read() as db:
            if db.execute(judged).first() is not None:
                return None
            first = db.execute(select(func.min(drifts.c.start)).where(_of_stream(name))).scalar()
        return None if first is None else int(first)

    def trimmed(self, asked: Asked) -> frozenset[Key]:
        """Return which of the intervals were tested without a part of their windows, by its key."""
        table = drifts.c
        query = select(table.version, table.cohort, table.start, table.seconds, table.calibrated, table.about).where(
            table.model == asked.model, table.body.like('%"left_out":%'), table.body.not_like('%"left_out":null%')
        )
        if asked.since is not None:
            query = query.where(table.start >= asked.since)
        if asked.until is not None:
            query = query.where(table.start < asked.until)
        with self._database.read() as db:
            return frozenset((row[0], row[1], row[2], row[3], bool(row[4]), row[5]) for row in db.execute(query).all())

    def count(self, asked: Asked) -> int:
        """Return how many intervals there are."""
        with self._database.read() as db:
            return int(db.execute(_where(select(func.count()).select_from(intervals), asked)).scalar_one())

    def intervals(self, asked: Asked) -> Iterator[IntervalRow]:
        """Yield intervals in the order of time, a page at a time, so that their number costs no memory and no writer waits."""
        order = (intervals.c.start, *(column for column in intervals.primary_key.columns if column is not intervals.c.start))
        after: tuple[Any, ...] | None = None
        while True:
            query = _where(select(intervals), asked).order_by(*order).limit(PAGE)
            if after is not None:
                query = query.where(tuple_(*order) > tuple_(*after))
            with self._database.read() as db:
                page = db.execute(query).mappings().all()
            for row in page:
                yield IntervalRow(**{**row, "counts": tuple(array("q", row["counts"]))})
            if len(page) < PAGE:
                return
            after = tuple(page[-1][column.name] for column in order)


def _pairs(db: Connection) -> Iterator[tuple[bytes, str]]:
    """Yield every release and cohort of which intervals are kept."""
    at: dict[str, Any] = {"release": b"", "cohort": ""}
    same, following = _NEXT_PAIR
    while row := db.execute(same, at).first() or db.execute(following, {"release": at["release"]}).first():
        at = {"release": row.release, "cohort": row.cohort}
        yield row.release, row.cohort


def _of_stream(name: StreamName) -> ColumnElement[bool]:
    model, version, cohort, about = name
    return and_(drifts.c.model == model, drifts.c.version == version, drifts.c.cohort == cohort, drifts.c.about == (about or ""))


def _where(query: Any, asked: Asked) -> Any:
    query = query.where(intervals.c.model == asked.model, intervals.c.windows >= asked.windows_min)
    query = query.where(~select(withheld.c.windows_left).where(*(withheld.c[name] == intervals.c[name] for name in INTERVAL_KEY)).exists())
    if asked.cohort is not None:
        query = query.where(intervals.c.cohort == asked.cohort)
    if asked.release is not None:
        query = query.where(intervals.c.release == asked.release)
    if asked.since is not None:
        query = query.where(intervals.c.start >= asked.since)
    if asked.until is not None:
        query = query.where(intervals.c.start < asked.until)
    return query

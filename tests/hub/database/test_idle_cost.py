"""What the hub does again and again costs the same, however much history it keeps: counted in steps of SQLite's machine, not in time."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, inspect, text
from sqlalchemy.engine import Engine

from hub.database.drift_queries import Findings
from hub.database.retention import Retention
from hub.database.store import Store
from schemas.errors import Refused
from tests.databases import only_sqlite
from tests.hub.earlier_databases import as_before_versions
from tests.hub.hubs import START, WINDOW_SECONDS
from tests.hub.service.telemetry.test_drift_job import Hub

pytestmark = only_sqlite

FEW, MANY = 200, 2000  # intervals of before, of one stream each hour
STEPS = 10  # between two looks of the counter
YEARS_AGO = 90 * 24 * 3600

Work = Callable[[Hub], object]


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Steps of every connection that begins within; the list's only number."""
    steps = [0]

    def count() -> int:
        steps[0] += STEPS
        return 0

    def watch(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(count, STEPS)

    event.listen(Engine, "connect", watch)
    try:
        yield steps
    finally:
        event.remove(Engine, "connect", watch)


def with_history(directory: Path, intervals: int) -> Hub:
    """A hub that has tested two hours, and keeps so many of before: copies of the first, each at an hour of its own."""
    hub = Hub(directory / str(intervals))
    for hour in range(2):
        hub.hear(hour)
        hub.settle()
    earlier = f"WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {intervals})"  # noqa: S608  # numbers of our own
    with hub.store.database.write() as db:
        for name, aged in (("merged_intervals", ()), ("drift_tests", ("first_tested_at", "tested_at")), ("counted", ("at",))):
            columns = [column["name"] for column in inspect(db).get_columns(name)]
            values = [
                f"start - k * {WINDOW_SECONDS}" if one == "start" else f"{one} - k * {WINDOW_SECONDS}" if one in aged else one
                for one in columns
            ]
            rows = f"SELECT {', '.join(values)} FROM {name}, n WHERE start = {START}"  # noqa: S608
            db.execute(text(f"INSERT INTO {name} ({', '.join(columns)}) {earlier} {rows}"))
    hub.start()
    return hub


def steps_of(hub: Hub, work: Work) -> int:
    """What a piece of work costs the second time, when all statements and pages are known."""
    with counted_steps() as steps:
        hub.start()
        work(hub)
        before = steps[0]
        work(hub)
        return steps[0] - before


WORK: dict[str, Work] = {
    "a turn in which nothing has settled": lambda hub: hub.settling.tick(),
    "a connection to a broker without a session": lambda hub: hub.settling.newest(),
    "what a gate asks for alarms": lambda hub: Findings(hub.store.database).alarmed_since("delay", "1.0.0", int(hub.now)),
    "what a gate asks for tests": lambda hub: Findings(hub.store.database).tested_since("delay", "1.0.0", int(hub.now)),
    "what a gate asks for nodes": lambda hub: Findings(hub.store.database).heard("delay", release=hub.digest, since=int(hub.now)),
    "whether nodes only gather": lambda hub: Findings(hub.store.database).gathers_since(("delay", "1.0.0", "nyc", None)),
    "the newest test of a cohort": lambda hub: Findings(hub.store.database).newest_start("delay", "nyc", None),
    "an hour's look for what is too old": lambda hub: hub.store.prune(),
}


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, Hub]:
    directory = tmp_path_factory.mktemp("idle")
    return with_history(directory, FEW), with_history(directory, MANY)


@pytest.mark.parametrize("what", WORK)
def test_idle_work_does_not_grow_with_history(hubs: tuple[Hub, Hub], what: str) -> None:
    few, many = (steps_of(hub, WORK[what]) for hub in hubs)

    assert many <= few + 5 * STEPS


def test_an_interval_is_tested_at_the_same_cost_after_years(hubs: tuple[Hub, Hub]) -> None:
    def an_hour(hub: Hub) -> None:
        hub.hear(int(hub.now - START) // WINDOW_SECONDS)
        hub.settle()

    few, many = (steps_of(hub, an_hour) for hub in hubs)

    assert many <= 1.1 * few


def test_the_search_for_what_waits_uses_the_index_of_it(hubs: tuple[Hub, Hub]) -> None:
    asked: list[str] = []
    listen = lambda *arguments: asked.append(arguments[2])  # noqa: E731
    event.listen(Engine, "before_cursor_execute", listen)
    try:
        hubs[1].store.unsettled_intervals(int(hubs[1].now))
    finally:
        event.remove(Engine, "before_cursor_execute", listen)

    with hubs[1].store.database.read() as db:
        plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1]}", (int(hubs[1].now),)).all()
    assert "USING INDEX merged_intervals_unsettled" in plan[0][-1]


def test_a_broker_is_given_the_test_that_stood_on_the_topic(tmp_path: Path) -> None:
    hub = with_history(tmp_path, 5)

    assert hub.settling.newest() == [hub.drift(1)]


def test_an_hour_that_comes_late_does_not_take_the_newest_one_s_place(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "fleet")
    hub.hear(2)
    hub.settle()
    hub.hear(1)
    hub.settle()

    assert hub.settling.newest() == [hub.drift(2)]
    hub.now += YEARS_AGO
    hub.store.prune(Retention(history_days=10))

    assert hub.settling.newest() == []


def test_a_database_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    hub = with_history(tmp_path, 5)
    newest = hub.settling.newest()
    hub.store.close()
    with sqlite3.connect(hub.fleet.directory / "hub.sqlite") as old:
        as_before_versions(old)
    with hub.store.database.write() as db:
        db.execute(text("DROP TABLE newest_drifts"))
        ours = ("merged_intervals_unsettled", "merged_intervals_heard", "alerts_by_age", "refusals_by_age")
        ours += tuple(f"drift_tests_{name}" for name in ("by_release", "alarmed", "by_cohort", "by_age"))
        for name in ours:
            db.execute(text(f"DROP INDEX {name}"))

    with pytest.raises(Refused, match="start the hub of this version first"):
        Store(f"sqlite:///{hub.fleet.directory / 'hub.sqlite'}").open()
    hub.start()

    assert hub.settling.newest() == newest
    with hub.store.database.read() as db:
        there = set(db.execute(text("SELECT name FROM sqlite_master WHERE type = 'index'")).scalars())
    assert set(ours) <= there

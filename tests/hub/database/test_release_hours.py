"""Who served which release, hour by hour: kept by a running hub, forgotten in time, and read for the picture of fourteen days."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub.core.rollouts.listening import Listened
from hub.database.release_hours import HOUR, ReleaseHour, ReleaseHours
from hub.database.retention import Retention
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from hub.operations.release_flow import release_flow
from hub.service.rollouts.release_history import LOOK_SECONDS, ReleaseHistory
from schemas.names import sha256
from tests.databases import url_of

BEGIN = 1_796_000_400 // HOUR * HOUR
NEVER_HEARD = Listened(0.0)


@dataclass
class Clock:
    """A wall clock, and how long the hub has listened by it."""

    now: float = float(BEGIN + 60)
    seconds: Listened = NEVER_HEARD

    def pass_(self, seconds: float, *, heard: bool = True) -> None:
        self.now += seconds
        self.seconds = Listened(self.seconds + (seconds if heard else 0.0))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    found = Store(url_of(tmp_path / "hub.sqlite"), clock=lambda: clock.now)
    found.create()
    yield found
    found.close()


def serves(store: Store, node: str, version: str, sequence: int = 1) -> None:
    row = ReceiptRow(node, sequence, 5, sequence, "serving", "delay", version, sha256(version.encode()), 1, "", "", b"sealed")
    store.add_receipts([row])


def history_of(store: Store, clock: Clock) -> ReleaseHistory:
    return ReleaseHistory(store.database, listening=clock, wall=lambda: clock.now, monotonic=lambda: clock.now)


def test_an_hour_has_a_row_a_model_that_ends_with_who_served_what(store: Store, clock: Clock) -> None:
    serves(store, "n0", "1.0.0")
    history, hours = history_of(store, clock), ReleaseHours(store.database)
    history.tick()
    clock.pass_(LOOK_SECONDS)
    serves(store, "n1", "1.0.0")
    history.tick()
    clock.pass_(HOUR)
    serves(store, "n1", "1.1.0", sequence=2)
    history.tick()

    found = hours.of_model("delay", since=BEGIN)
    assert [(one.hour, dict(one.counts)) for one in found] == [(BEGIN, {"1.0.0": 1, "1.1.0": 1}), (BEGIN + HOUR, {"1.0.0": 1, "1.1.0": 1})]
    assert found[0].listened_seconds == pytest.approx(HOUR, abs=1)


def test_between_two_looks_nothing_is_written(store: Store, clock: Clock) -> None:
    history, hours = history_of(store, clock), ReleaseHours(store.database)
    history.tick()
    serves(store, "n0", "1.0.0")
    clock.pass_(LOOK_SECONDS - 1)
    history.tick()

    assert hours.of_model("delay", since=0) == []


def test_a_hub_that_starts_again_goes_on_in_the_same_hour(store: Store, clock: Clock) -> None:
    serves(store, "n0", "1.0.0")
    for _ in range(2):
        history = history_of(store, clock)
        history.tick()
        clock.pass_(LOOK_SECONDS)
        history.tick()

    (only,) = ReleaseHours(store.database).of_model("delay", since=0)
    assert only.listened_seconds == 2 * LOOK_SECONDS


def test_old_hours_are_forgotten(store: Store, clock: Clock) -> None:
    hours = ReleaseHours(store.database)
    hours.keep([ReleaseHour(BEGIN - 401 * 86_400, "delay", {"1.0.0": 1}, 3600.0), ReleaseHour(BEGIN, "delay", {"1.0.0": 2}, 3600.0)])
    store.prune(Retention())

    assert [one.hour for one in hours.of_model("delay", since=0)] == [BEGIN]


def test_the_flow_ends_with_now_carries_on_and_marks_hours_without_a_word() -> None:
    heard = [ReleaseHour(BEGIN + at * HOUR, "delay", {"1.0.0": 10 - at, "1.1.0": at}, 3600.0) for at in (0, 1, 4)]
    deaf = ReleaseHour(BEGIN + 5 * HOUR, "delay", {"1.0.0": 6, "1.1.0": 4}, 100.0)
    found = release_flow([*heard, deaf], {"1.1.0": 10}, now=BEGIN + 7 * HOUR, points=8, step_seconds=HOUR)

    assert found.versions == ("1.0.0", "1.1.0")
    assert found.counts == ((10, 9, 9, 9, 6, 6, 6, 0), (0, 1, 1, 1, 4, 4, 4, 10))
    assert found.deaf == ((BEGIN + 2 * HOUR, BEGIN + 4 * HOUR), (BEGIN + 5 * HOUR, BEGIN + 7 * HOUR))

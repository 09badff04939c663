"""A process whose database is away tries again ever more seldom, and soon again once it has worked."""

import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from hub.database.connection import Database
from hub.service.store_pauses import SECONDS_MAX, WORKED_SECONDS, StorePauses
from schemas.errors import Unreachable

AWAY_SECONDS = 71.0


class Clock:
    """Time that passes where somebody sleeps."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pauses_of(database: Database, clock: Clock) -> StorePauses:
    return StorePauses(database, monotonic=clock.monotonic, sleep=clock.sleep, rng=Random(1))


def failed(lines: list[Any]) -> list[float]:
    return [line["again_seconds"] for line in lines if line["event"] == "store.failed"]


def test_pauses_grow_while_the_database_is_away_and_so_do_those_between_log_lines(clock: Clock) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        pauses = pauses_of(Database(f"postgresql://hub@127.0.0.1:{nobody.getsockname()[1]}/hub"), clock)
        with capture_logs() as lines:
            pauses.failed(Unreachable("the server has ended the connection"))
            until = clock.now + AWAY_SECONDS
            while clock.now < until:
                assert pauses.pauses()

    waited = failed(lines)
    assert 5 <= len(waited) <= 13
    assert max(waited) <= SECONDS_MAX
    assert waited[-1] > 10 * waited[0]


def test_pauses_are_short_again_once_the_database_has_worked_for_a_while(clock: Clock, tmp_path: Path) -> None:
    pauses = pauses_of(Database(f"sqlite:///{tmp_path / 'hub.sqlite'}"), clock)
    with capture_logs() as lines:
        for _ in range(6):  # It can be read, and takes nothing.
            pauses.failed(Unreachable("it takes nothing"))
            while pauses.pauses():
                pass
            pauses.worked()
        clock.sleep(WORKED_SECONDS)
        pauses.worked()
        pauses.failed(Unreachable("it takes nothing"))

    waited = failed(lines)
    assert waited[5] > 3
    assert waited[6] <= 0.3
    assert [line["event"] for line in lines if line["event"] == "store.recovered"] == ["store.recovered"]

"""On the databases that `tools.seed_fleet` makes, what a hub and commands ask costs the same after a day as after weeks."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hub.core.enrol.enrolment import Roll
from hub.core.rollouts.listening import Listened
from hub.database.drift_queries import Findings
from hub.database.known_nodes import known_nodes
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from schemas.errors import Refused
from schemas.names import sha256
from tests.databases import only_sqlite
from tests.hub.database.test_idle_cost import STEPS, counted_steps
from tests.hub.earlier_databases import as_before_versions
from tools import seed_fleet
from tools.seed_fleet import Plan

pytestmark = only_sqlite

DAYS = (2, 40)
NOW = int(time.time())
FIRST, SERVED = "node-00000", sha256(b"m@1.0.0")
Work = Callable[[Store], object]


def store_of(path: Path) -> Store:
    store = Store(f"sqlite:///{path}", clock=lambda: float(NOW))
    store.create()
    return store


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("seeded") / f"{days}.sqlite" for days in DAYS]
    for path, days in zip(paths, DAYS, strict=True):
        seed_fleet.seed(path, [], Plan(nodes=10, days=days, cohorts=2, signals=2), now=NOW)
    return paths


def a_receipt(store: Store) -> None:
    number = store.receipts(node=FIRST, limit=1)[0].sequence + 1
    store.add_receipts([ReceiptRow(FIRST, number, NOW, NOW, "serving", "m", "1.0.0", SERVED, NOW, "", "", b"%d" % number)])


WORK: dict[str, Work] = {
    "a start": lambda store: known_nodes(store, Roll(required=False), listened=Listened(0.0), now=float(NOW)),
    "which cohorts count": lambda store: store.known_cohorts(),
    "who was reported as silent since yesterday": lambda store: store.silence_alerts(since=NOW - 86_400),
    "a page of nodes": lambda store: (store.nodes_after("", 5), store.serving([FIRST])),
    "how many nodes serve a release": lambda store: store.nodes_serving(),
    "what a release cost": lambda store: store.receipts_of_release(SERVED),
    "which streams have begun": lambda store: Findings(store.database).begun(),
    "which nodes were heard": lambda store: Findings(store.database).heard("m"),
    "the newest alerts": lambda store: store.alerts(limit=20),
}


@pytest.mark.parametrize("what", WORK)
def test_what_is_asked_costs_the_same_after_weeks(seeded: list[Path], what: str) -> None:
    few, many = (_steps(path, WORK[what]) for path in seeded)

    assert many <= 1.1 * few + 20 * STEPS


def test_a_receipt_costs_the_same_after_weeks(seeded: list[Path]) -> None:
    few, many = (_steps(path, a_receipt) for path in seeded)

    assert many <= 1.2 * few + 20 * STEPS


def _steps(path: Path, work: Work) -> int:
    with counted_steps() as steps:
        store = store_of(path)
        work(store)
        before = steps[0]
        work(store)
        store.close()
        return steps[0] - before


def test_what_was_kept_of_receipts_is_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    seed_fleet.seed(path, [], Plan(nodes=10, days=20, cohorts=2, signals=2), now=NOW)
    store = store_of(path)
    kept, served = known_nodes(store, Roll(required=False), listened=Listened(0.0), now=float(NOW)), store.serving()
    store.close()
    with sqlite3.connect(path) as db:
        as_before_versions(db)

    again = store_of(path)
    folded = known_nodes(again, Roll(required=False), listened=Listened(0.0), now=float(NOW))

    assert (kept.unproved, folded.unproved) == (frozenset(), kept.nodes.keys())
    assert again.serving() == served
    assert {name: replace(node, last_seen=0, heard_at=Listened(0.0)) for name, node in folded.nodes.items()} == {
        name: replace(node, last_seen=0, heard_at=Listened(0.0)) for name, node in kept.nodes.items()
    }


def test_a_database_with_nodes_is_not_seeded_again(seeded: list[Path]) -> None:
    with pytest.raises(Refused, match="has nodes already"):
        seed_fleet.seed(seeded[0], [], Plan(nodes=1, days=1))

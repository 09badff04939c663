"""Nodes and receipts read without SQLAlchemy are what the store has; what is not as usual is left to the store."""

import sqlite3
from pathlib import Path

import pytest

from hub.core.rollouts.listening import Listened
from hub.database import sqlite_reader, tables
from hub.database.hearing import Hearing
from hub.database.rows import NodePage, NodeRow, ReceiptRow
from hub.database.store import Store
from tests.databases import only_sqlite

pytestmark = only_sqlite

NODES = [NodeRow(name, 3, "online", 7, b"state", b"key", "nyc") for name in ("b", "a")]
RECEIPTS = [
    ReceiptRow(node, sequence, at, at, "serving", "m", "1.0.0", bytes(32), None, "", "", b"sealed")
    for node, sequence, at in (("a", 1, 5), ("a", 2, 5), ("b", 1, 9))
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "with a space, # and ä" / "hub.sqlite"
    path.parent.mkdir()
    return path


@pytest.fixture
def store(path: Path) -> Store:
    store = Store(f"sqlite:///{path}")
    store.open()
    store.upsert_nodes(NODES)
    store.add_receipts(RECEIPTS)
    return store


def page(path: Path, node: str | None = None, after: str = "", limit: int = 10) -> NodePage | None:
    return sqlite_reader.node_page(path, node=node, after=after, limit=limit)


def test_the_rows_and_their_order_are_the_stores(path: Path, store: Store) -> None:
    Hearing(store.database).keep_heard({"a": (Listened(1.0), 99)})

    assert page(path) == NodePage(store.nodes(), store.serving(), 2)
    assert [row.last_seen for row in store.nodes()] == [99, 7]


@pytest.mark.parametrize("node", ["a", "b"])
def test_one_node_comes_with_what_it_serves(path: Path, store: Store, node: str) -> None:
    assert page(path, node) == NodePage([store.node(node)], store.serving([node]), 2)


def test_a_page_begins_behind_the_last_one(path: Path, store: Store) -> None:
    assert page(path, limit=1) == NodePage(store.nodes_after("", 1), store.serving(["a"]), 2)
    assert page(path, after="a", limit=1) == NodePage(store.nodes_after("a", 1), store.serving(["b"]), 2)
    assert page(path, "nobody") == page(path, after="b") == NodePage([], [], 2)


def test_a_database_that_is_written_meanwhile_is_read(path: Path, store: Store) -> None:
    with store.database.write():
        assert page(path) == NodePage(store.nodes(), store.serving(), 2)


def test_every_table_of_this_version_is_named() -> None:
    assert set(tables.metadata.tables) == sqlite_reader.TABLES


def test_a_database_of_an_earlier_version_is_left_to_the_store(path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE heard")

    assert page(path) is None


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)

    assert page(path) is None
    assert (path.read_bytes() if path.exists() else None) == content

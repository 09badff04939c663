"""Nodes and receipts read without SQLAlchemy are what the store has; what is not as usual is left to the store."""

import sqlite3
from pathlib import Path

import pytest

from hub.database import sqlite_reader, tables
from hub.database.rows import NodeRow, ReceiptRow
from hub.database.store import Store

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


@pytest.mark.parametrize("node", [None, "a", "nobody"])
def test_the_rows_and_their_order_are_the_stores(path: Path, store: Store, node: str | None) -> None:
    assert sqlite_reader.nodes_and_receipts(path, node) == (store.nodes(), store.receipts(node=node))


def test_a_database_that_is_written_meanwhile_is_read(path: Path, store: Store) -> None:
    with store.database.write():
        assert sqlite_reader.nodes_and_receipts(path, None) == (store.nodes(), store.receipts())


def test_every_table_of_this_version_is_named() -> None:
    assert set(tables.metadata.tables) == sqlite_reader.TABLES


def test_a_database_of_an_earlier_version_is_left_to_the_store(path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE heard")

    assert sqlite_reader.nodes_and_receipts(path, None) is None


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)

    assert sqlite_reader.nodes_and_receipts(path, None) is None
    assert (path.read_bytes() if path.exists() else None) == content

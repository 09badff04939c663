"""Receipts that come together are compared with what is here by one query for many nodes, and that costs no more after years."""

from dataclasses import replace
from pathlib import Path

import pytest

from hub.database.receipt_rows import AT_ONCE_MAX
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from tests.databases import only_sqlite, url_of
from tests.hub.database.test_idle_cost import STEPS, counted_steps

NODES = 20


def receipt(node: int, sequence: int) -> ReceiptRow:
    return ReceiptRow(f"n{node:03}", sequence, 1000, 1, "serving", "m", "1.0.0", bytes(32), 1, "", "", f"{node} {sequence}".encode())


def made(path: Path) -> Store:
    store = Store(url_of(path))
    store.create()
    return store


def test_each_of_many_receipts_meets_what_is_here_of_its_node(tmp_path: Path) -> None:
    store, nodes = made(tmp_path / "hub.sqlite"), range(AT_ONCE_MAX + 44)
    store.add_receipts([receipt(node, sequence) for node in nodes for sequence in (1, 2)])
    other = [replace(receipt(node, 2), sealed=b"another") for node in nodes[::3]]

    kept = store.add_receipts([*(receipt(node, 3) for node in nodes), *other, *(receipt(node, 1) for node in nodes)])

    fresh = [one.is_fresh for one in kept]
    assert fresh == [True] * len(nodes) + [False] * (len(other) + len(nodes))
    assert [one.epoch for one in kept[len(nodes) :]] == [None] * len(other) + [0] * len(nodes)
    assert [(row.node, row.sequence) for row in store.receipts()] == [(f"n{node:03}", at) for node in nodes for at in (3, 2, 1)]


@only_sqlite
def test_receipts_cost_the_same_after_years(tmp_path: Path) -> None:
    steps = []
    for before in (2, 200):
        with counted_steps() as counted:
            store = made(tmp_path / f"{before}.sqlite")
            store.add_receipts([receipt(node, sequence) for node in range(NODES) for sequence in range(1, 1 + before)])
            counted[0] = 0
            store.add_receipts([receipt(node, before + 1 - repeats) for repeats in (1, 0) for node in range(NODES)])
            steps.append(counted[0])

    few, many = steps
    assert many == pytest.approx(few, rel=0.1, abs=5 * STEPS)

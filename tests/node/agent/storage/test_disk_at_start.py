"""Agents that are started on a store or a disk that is damaged or read-only, as real processes without a broker: they serve."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.node.agent.devices import Device, copied, serve_once
from tests.small_disk import read_only

NOBODY = 65534


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serve_once(tmp_path_factory.mktemp("served"))


@pytest.fixture
def device(served: Path) -> Iterator[Device]:
    with copied(served) as made:
        yield made


def make_a_folder(store: Path) -> None:
    store.unlink()
    (store / "inside").mkdir(parents=True)


def change_a_row(store: Path, what: str) -> None:
    with closing(sqlite3.connect(store)) as db:
        document = db.execute("SELECT document FROM slot").fetchone()[0]
        digest = db.execute("SELECT json_extract(document, '$.serving.digest') FROM slot").fetchone()[0]
        flipped = digest[:-1] + ("0" if digest[-1] != "0" else "1")
        changed = {"no JSON": document.replace('"', "#", 1), "another digest": document.replace(digest, flipped)}[what]
        db.execute("UPDATE slot SET document = ?", (changed,))
        db.commit()


def change_a_type(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("INSERT OR REPLACE INTO fact VALUES ('clock_floor', 'x')")
        db.commit()


@pytest.mark.parametrize(
    "damage",
    [
        make_a_folder,
        lambda store: change_a_row(store, "no JSON"),
        lambda store: change_a_row(store, "another digest"),
        change_a_type,
    ],
    ids=["a folder", "a document that is none", "a digest of nothing", "a number that is text"],
)
def test_a_node_whose_store_makes_no_sense_serves_what_is_on_its_disk(device: Device, damage: Callable[[Path], None]) -> None:
    damage(device.data / "node.sqlite")

    device.start()

    device.serves()
    assert (device.data / "node.sqlite.damaged").exists()
    assert device.end()[0] == 0


def test_a_node_on_a_read_only_disk_serves_and_says_so(device: Device) -> None:
    with read_only(device.data):
        device.start()
        device.serves()

        assert '"event": "disk.full"' in device.log()
        assert device.end()[0] == 0
    assert "bug" not in device.log()


def test_a_node_whose_data_belong_to_another_user_serves_and_says_so(device: Device) -> None:
    if os.getuid() != 0:
        pytest.skip("needs another user")
    for path in device.folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.chown(device.data / "device.pem", NOBODY, NOBODY)
    (device.data / "device.pem").chmod(0o400)

    device.start(user=NOBODY)

    device.serves()
    assert '"event": "disk.full"' in device.log()
    assert device.end()[0] == 0
    assert "bug" not in device.log()

"""A store's file as disks leave it: damaged, gone, on a disk that takes nothing, after a kill that left its log behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.storage.store import NodeStore
from schemas.errors import Code, Refused, Unreachable
from tests.small_disk import small_disk

KILLED = """
import os, signal, sys
from pathlib import Path
from node.storage.store import NodeStore
store = NodeStore(Path(sys.argv[1]))
for _ in range(40):
    store.next("session")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", size_bytes=2 * 1024 * 1024) as disk:
        if not os.path.ismount(disk):
            pytest.skip("needs a disk of its own: may not mount a tmpfs here")
        yield disk


def fill(disk: Path) -> Path:
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    return disk / "filler"


def enqueue(store: NodeStore, receipts: int) -> None:
    with store.transaction():
        for _ in range(receipts):
            store.enqueue("receipt", "topic", bytes(1000))


def killed(path: Path) -> None:
    """Leave a store as a process does that was killed: its newest transactions are in the log beside it."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


@pytest.mark.parametrize("at", [0, 2 * 4096])
def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(tmp_path: Path, at: int) -> None:
    path = tmp_path / "node.sqlite"
    store = NodeStore(path)
    for number in range(100):
        store.enqueue("receipt", "topic", bytes([number]) * 500)
    store.close()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 4096)

    store = NodeStore.of_agent(path)

    assert (store.is_new, bool(store.damage), store.stuck, store.fact("session")) == (True, True, "", 0)
    assert path.with_name("node.sqlite.damaged").exists()
    store.close()
    again = NodeStore.of_agent(path)
    assert (again.is_new, again.damage) == (False, "")
    again.close()


def test_a_file_that_a_power_cut_left_empty_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    path.touch()

    store = NodeStore.of_agent(path)

    assert (store.is_new, store.damage) == (True, "")
    store.close()


@pytest.mark.parametrize("index", ["left", "gone"])
def test_on_a_full_disk_all_that_was_committed_is_read_and_put_back_later(disk: Path, index: str) -> None:
    path = disk / "node.sqlite"
    killed(path)
    if index == "gone":
        path.with_name("node.sqlite-shm").unlink()
    filler = fill(disk)

    store = NodeStore.of_agent(path)
    assert (bool(store.stuck), store.is_new, store.fact("session")) == (True, False, 40)
    assert store.next("session") == 41
    with pytest.raises(Refused) as refused:
        store.write_down()
    assert refused.value.code is Code.DISK_FULL
    reading = NodeStore.reading(path)
    assert reading.fact("session") == 40
    reading.close()

    filler.unlink()
    store.write_down()

    assert (store.stuck, store.next("session")) == ("", 42)
    store.close()
    again = NodeStore(path)
    assert again.fact("session") == 42
    again.close()


def test_a_damaged_file_on_a_full_disk_is_set_aside_once_there_is_room(disk: Path) -> None:
    path = disk / "node.sqlite"
    path.write_bytes(b"\xff" * 8192)
    filler = fill(disk)

    store = NodeStore.of_agent(path)
    assert (store.is_new, bool(store.stuck)) == (True, True)
    store.raise_fact("session", 7)
    filler.unlink()
    store.write_down()

    assert path.with_name("node.sqlite.damaged").read_bytes() == b"\xff" * 8192
    assert store.fact("session") == 7
    store.close()


def test_a_disk_that_fills_up_refuses_a_transaction_and_takes_the_next_one(disk: Path) -> None:
    store = NodeStore(disk / "node.sqlite")
    filler = fill(disk)
    with pytest.raises(Refused) as refused:
        enqueue(store, 2000)
    assert refused.value.code is Code.DISK_FULL

    filler.unlink()
    enqueue(store, 1)

    assert store.count_waiting("receipt") == 1
    store.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_in_the_files_place_is_kept_aside_and_a_new_file_begun(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "node.sqlite"
    for _ in range(1 + again):
        path.mkdir()
        (path / "left").write_text("by somebody")
        store = NodeStore.of_agent(path)

        assert (store.is_new, bool(store.damage), store.stuck, store.next("session")) == (True, True, "", 1)
        store.close()
        if again:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    assert (tmp_path / "node.sqlite.damaged" / "left").read_text() == "by somebody"


def test_a_full_disk_refuses_a_new_store_by_its_code_at_every_size(disk: Path) -> None:
    filler, codes = fill(disk), set[Code | None]()
    for kib in range(0, 200, 24):  # from no file at all to one that is nearly made
        os.truncate(filler, filler.stat().st_size - 24 * 1024 if kib else filler.stat().st_size)
        try:
            NodeStore(disk / "node.sqlite").close()
        except Refused as refused:
            codes.add(refused.code)
        except Unreachable:
            codes.add(None)
    assert Code.DISK_FULL in codes
    assert codes <= {Code.DISK_FULL, None}

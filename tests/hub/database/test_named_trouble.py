"""What is wrong with the hub's database file is said in a sentence with its name and the mend, by exit code, and never as a bug."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from hub.cli.errors import Exit
from hub.database.store import Store
from schemas.errors import Code, Refused
from tests.databases import only_sqlite
from tests.small_disk import small_disk

pytestmark = only_sqlite

FLEETCAST = Path(sys.executable).parent / "fleetcast"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", size_bytes=2 * 1024 * 1024) as disk:
        yield disk


def test_a_database_without_room_says_so_whatever_sqlite_calls_it(folder: Path) -> None:
    store = Store(f"sqlite:///{folder / 'hub.sqlite'}")
    store.create()

    def fill() -> None:
        for number in range(10_000):
            store.add_event("x", "y" * 4096, {"number": number})

    with pytest.raises(Refused) as refusal:
        fill()
    store.close()

    assert refusal.value.code is Code.DISK_FULL
    assert str(folder / "hub.sqlite") in refusal.value.reason
    assert "make room" in refusal.value.reason


@pytest.mark.parametrize(("begin", "size"), [(0, 16), (4096, 2**20)], ids=["its head", "its pages"])
def test_a_damaged_database_is_named_with_its_mend(tmp_path: Path, begin: int, size: int) -> None:
    path = tmp_path / "hub.sqlite"
    store = Store(f"sqlite:///{path}")
    store.create()
    store.add_event("x", "y" * 20_000, {})
    with store.database.read() as db:
        db.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    store.close()
    data = path.read_bytes()
    path.write_bytes((data[:begin] + b"\xff" * size)[: len(data)] + data[begin + size :])

    def look() -> None:
        damaged = Store(f"sqlite:///{path}")
        damaged.create()
        list(damaged.events())

    with pytest.raises(Refused) as refusal:
        look()

    assert refusal.value.code is Code.DATABASE_DAMAGED
    assert str(path) in refusal.value.reason
    assert "restore it from a backup" in refusal.value.reason


def test_commands_end_with_the_documented_code_on_a_damaged_database(tmp_path: Path) -> None:
    fleet = tmp_path / "plant"
    (tmp_path / "secret").write_text("secret")
    init = [FLEETCAST, "init", fleet, "--fleet", "plant", "--model", "delay", "--passphrase-file", tmp_path / "secret"]
    subprocess.run(init, check=True, capture_output=True)
    (fleet / "hub.sqlite").write_bytes(b"\xff" * 8192)

    done = subprocess.run([FLEETCAST, "nodes", "--dir", fleet, "--json"], capture_output=True, check=False)

    assert done.returncode == Exit.DAMAGED, done.stderr
    assert str(fleet / "hub.sqlite") in json.loads(done.stdout)["error"]["reason"]

"""Databases of earlier versions are taken over whole or not at all, once, and those of newer ones are left alone."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import Engine

from hub.cli.errors import Exit
from hub.database import migrations, tables
from hub.database.rows import ReceiptRow
from hub.database.schema_version import HEAD, REVISIONS
from hub.database.store import Store
from schemas.errors import Code, Refused
from schemas.names import sha256
from tests.databases import only_sqlite, url_of
from tests.hub.earlier_databases import as_before_versions

pytestmark = only_sqlite

NODES = 20
NEWER = "9999"


def receipt(node: str, sequence: int, outcome: str = "serving", release: str = "a") -> ReceiptRow:
    code = "" if outcome == "serving" else "golden.failed"
    return ReceiptRow(node, sequence, 5, sequence, outcome, "delay", release, sha256(release.encode()), 1, code, "", b"sealed")  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database without a version, of nodes that serve b, but for the first, which has gone back from it and served a in between."""
    path = tmp_path / "hub.sqlite"
    store = store_of(path)
    store.create()
    for number in range(NODES):
        store.add_receipts([receipt(f"n{number:02}", 1), receipt(f"n{number:02}", 2, release="b")])
    store.add_receipts([receipt("n00", 3, "rolled_back", "b"), receipt("n00", 4, "refused", "c")])
    store.note_sends([(sha256(b"block"), 7, None)], [])
    store.close()
    with sqlite3.connect(path) as db:
        as_before_versions(db)
    return path


def store_of(path: Path) -> Store:
    return Store(url_of(path))


def check_taken_over(path: Path) -> None:
    store = store_of(path)
    store.open()
    assert store.nodes_serving() == {sha256(b"b"): NODES - 1}
    assert len(store.receipts()) == 2 * NODES + 2
    with store.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []
        assert db.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == [HEAD]
        assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()


def in_child(work: Callable[[], object]) -> int:
    """Start it in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def test_an_earlier_database_becomes_the_same_as_a_new_one(path: Path) -> None:
    with pytest.raises(Refused, match=r"earlier version.*start the hub of this version first"):
        store_of(path).open()

    store_of(path).create()
    store_of(path).create()

    check_taken_over(path)


def test_a_new_database_has_the_schema_of_the_tables(tmp_path: Path) -> None:
    store = store_of(tmp_path / "new.sqlite")
    store.open()

    with store.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []


def test_the_program_knows_the_revisions_that_it_brings() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))

    assert tuple(one.revision for one in script.walk_revisions())[::-1] == REVISIONS
    assert script.get_heads() == [HEAD]


@pytest.mark.parametrize("statements", [1, 8, 20, 35])
def test_a_migration_that_is_killed_leaves_the_database_as_it_was(path: Path, statements: int) -> None:
    def killed() -> None:
        count = [0]

        def kill(*_: object) -> None:
            count[0] += 1
            if count[0] > statements:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "after_cursor_execute", kill)
        store_of(path).create()

    before = schema(path)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(killed), 0)[1]) == -signal.SIGKILL
    assert schema(path) == before
    store_of(path).create()
    check_taken_over(path)


def schema(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("new", [False, True])
def test_two_migrations_at_once_are_one(path: Path, tmp_path: Path, new: bool) -> None:
    database = tmp_path / "new.sqlite" if new else path
    children = [in_child(lambda: store_of(database).create()) for _ in range(3)]

    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    if not new:
        check_taken_over(path)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    store_of(path).create()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (NEWER,))
    before = path.read_bytes()

    for work in (store_of(path).open, store_of(path).create):
        with pytest.raises(Refused, match=f"schema {NEWER}, made by a newer fleetcast") as refused:
            work()
        assert refused.value.code is Code.SCHEMA_UNSUPPORTED
    assert path.read_bytes() == before


def test_a_command_ends_with_a_sentence_beside_a_newer_database(tmp_path: Path) -> None:
    store = store_of(tmp_path / "hub.sqlite")
    store.create()
    store.close()
    (tmp_path / "fleet.toml").write_text('fleet = "plant"\n')
    with sqlite3.connect(tmp_path / "hub.sqlite") as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (NEWER,))

    done = subprocess.run(
        [sys.executable, "-m", "hub", "nodes", "--dir", str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stdout) == (Exit.REFUSED, "")
    assert "made by a newer fleetcast" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_an_earlier_hub_wrote_after_the_upgrade_is_followed(path: Path) -> None:
    store = store_of(path)
    store.create()
    store.keep_proofs({"n01": b"of two receipts"})
    store.close()
    with sqlite3.connect(path) as db:  # As a hub of before the revisions does, where somebody went back to it.
        db.execute("CREATE INDEX receipts_by_model ON receipts (model, received_at)")
        db.execute("CREATE INDEX ix_merged_intervals_model ON merged_intervals (model)")
        columns = "node, received_at, at, outcome, model, version, since, code, reason, sealed, epoch"
        db.execute(f"INSERT INTO receipts ({columns}, sequence, digest) SELECT {columns}, 9, ? FROM receipts LIMIT 1", (sha256(b"d"),))  # noqa: S608

    again = store_of(path)
    again.create()

    assert again.nodes_serving() == {sha256(b"b"): NODES - 1, sha256(b"d"): 1}
    assert again.proofs() == {}
    with again.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []


def test_receipts_of_one_node_out_of_order_are_served_in_theirs(tmp_path: Path) -> None:
    store = store_of(tmp_path / "hub.sqlite")
    store.create()
    store.add_receipts([receipt("n", 5, release="c")])
    store.add_receipts([receipt("n", 3, release="b"), receipt("n", 4, "rolled_back", "c")])
    assert [row.sequence for row in store.serving(["n"])] == [5]

    store.add_receipts([receipt("n", 6, "rolled_back", "c")])
    assert store.serving() == []
    store.add_receipts([replace(receipt("n", 7, release="d"), model="other")])

    assert [(row.model, row.version) for row in store.serving()] == [("other", "d")]

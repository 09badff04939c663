"""The hub's database on a real PostgreSQL: writers at once lose nothing of each other's, and its errors are ours."""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert, text
from sqlalchemy.engine import Engine

from hub.cli.errors import Exit
from hub.database import tables
from hub.database.apply_lock import APPLY_LOCK
from hub.database.blueprint_rows import Blueprints
from hub.database.connection import Database
from hub.database.enrolments import CertificateRow, Enrolments, Place
from hub.database.outbox import Outbox
from hub.database.place import place_of
from hub.database.schema_version import HEAD
from hub.database.store import NodeRow, ReceiptRow, Store, WindowRow
from hub.operations.blueprint_lock import alone
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused, Unreachable
from schemas.names import sha256
from tests import warm
from tests.databases import needs_postgresql, postgresql_url
from tests.hub.earlier_databases import as_before_versions
from tests.waiting import until

pytestmark = needs_postgresql
RELEASE = sha256(b"release")
WINDOWS = 400


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all that does not mind the others' rows."""
    where = postgresql_url(tmp_path_factory.mktemp("postgresql") / "hub")
    store = Store(where)
    store.create()
    store.close()
    return where


def window(number: int, cohort: str, start: int = 0) -> WindowRow:
    return WindowRow(sha256(f"{cohort} {number}".encode())[:16], RELEASE, "delay", cohort, start, 3600, (number, 1), rows=2)


def at_once(*works: Callable[[], object]) -> None:
    """Run each in a thread; raise what one raises."""
    raised = list[BaseException]()

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_two_writers_count_each_window_once_and_lose_none(url: str) -> None:
    stores = [Store(url), Store(url)]
    fresh = list[bool]()

    def write(store: Store, numbers: list[int]) -> None:
        for at in range(0, len(numbers), 20):  # Both have all of them, in other orders, of the same four intervals.
            fresh.extend(store.add_windows([window(one, "shared", one % 4 * 3600) for one in numbers[at : at + 20]]))

    numbers = list(range(WINDOWS))
    at_once(lambda: write(stores[0], numbers), lambda: write(stores[1], numbers[::-1]))

    found = [row for row in stores[0].intervals("delay") if row.cohort == "shared"]
    assert sum(fresh) == WINDOWS
    assert [row.windows for row in found] == [WINDOWS // 4] * 4
    assert sum(row.counts[0] for row in found) == sum(numbers)
    assert sum(row.rows for row in found) == 2 * WINDOWS


def test_two_writers_of_one_row_replace_it_in_turn(url: str) -> None:
    def write(store: Store, status: str) -> None:
        for session in range(30):
            store.upsert_nodes([NodeRow(f"n{one}", session, status, 1, b"", b"", "") for one in range(5)])  # type: ignore[arg-type]
            store.note_sends([(sha256(b"block"), 7, 99)], [])

    at_once(lambda: write(Store(url), "online"), lambda: write(Store(url), "lost"))

    store = Store(url)
    assert {row.session for row in store.nodes() if row.node in {"n0", "n4"}} == {29}
    assert store.publish_counts()[sha256(b"block")] == 60


def test_receipts_of_one_node_from_two_writers_are_kept_once(url: str) -> None:
    def write(store: Store) -> None:
        for sequence in range(1, 31):
            row = ReceiptRow("r1", sequence, 5, sequence, "serving", "delay", "1", sha256(bytes([sequence])), 1, "", "", b"sealed")
            store.add_receipts([row])

    at_once(lambda: write(Store(url)), lambda: write(Store(url)))

    store = Store(url)
    assert len(store.receipts(node="r1")) == 30
    assert [row.sequence for row in store.serving(["r1"])] == [30]


def _apply_locks(url: str) -> int:
    count = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :low")
    with Database(url).read() as db:
        return int(db.execute(count, {"low": APPLY_LOCK & 0xFFFF_FFFF}).scalar_one())


def test_of_two_machines_one_applies_a_blueprint_and_names_itself(url: str, tmp_path: Path) -> None:
    def opened(name: str) -> OpenedFleet:
        (tmp_path / name).mkdir()
        settings = HubSettings(fleet="f", database_url=url, broker_url="mqtt://h:1883")
        return OpenedFleet(tmp_path / name, settings, Store(url).acting(name), None)  # type: ignore[arg-type]

    jane, bob = opened("jane"), opened("bob")
    with alone(jane, what="first.yaml") as check:
        row = Blueprints(jane.store.database).begin("blueprint: 1", left=1, same_as=None)
        with pytest.raises(Refused) as refused, alone(bob, what="second.yaml"):
            pass
        check()
        with Database(url).write() as db:  # As a server that restarts, or a road that breaks.
            db.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = :low"),
                {"low": APPLY_LOCK & 0xFFFF_FFFF},
            )
        until("the end of jane's connection", lambda: not _apply_locks(url))
        with alone(bob, what="second.yaml"):
            pass
        with pytest.raises(Unreachable, match="another apply may run"):
            check()

    assert refused.value.code is Code.BLUEPRINT_BUSY
    assert f"revision {row.revision} is being applied by jane on another machine" in refused.value.reason
    assert "second.yaml of bob was not begun" in refused.value.reason


def test_an_alert_that_is_written_late_is_delivered_too(url: str) -> None:
    store, outbox, other = Store(url), Outbox(Database(url)), Database(url)
    outbox.keep_only(["hook"])
    alert = Alert(kind="refused", at=1, code="x", text="first")
    values = {"at": 1, "kind": "refused", "model": None, "body": alert.model_dump_json()}
    has_begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with other.write() as db:
            db.execute(insert(tables.alerts).values(values))
            has_begun.set()
            may_end.wait(60)

    def read() -> None:
        has_begun.wait(60)
        store.add_alert(alert.model_copy(update={"text": "second"}))  # It has the later number, and is there first.
        reader = threading.Thread(target=lambda: outbox.collect("hook", lambda _: True))
        reader.start()
        reader.join(0.2)
        may_end.set()
        reader.join(60)

    at_once(slow, read)

    assert {one.alert.text for one in outbox.due("hook")} == {"first", "second"}


def test_a_change_of_an_enrolment_has_a_revision_of_its_own(url: str) -> None:
    def make(name: str) -> None:
        enrolments = Enrolments(Database(url))
        for number in range(10):
            place = Place(f"{name}{number}", "nyc", {})
            enrolments.add_tokens([(sha256(place.node.encode()), place)], expires_at=2**40)
            assert enrolments.redeem(sha256(place.node.encode()), place, b"key", certificate(place.node))

    at_once(lambda: make("a"), lambda: make("b"))

    with Database(url).read() as db:
        revisions = db.execute(text("SELECT revision FROM enrolments")).scalars().all()
    assert sorted(revisions) == list(range(1, 21))


def certificate(node: str) -> CertificateRow:
    return CertificateRow(sha256(node.encode()).hex()[:40], node, "node", 2**40, b"der")


def test_text_that_postgresql_cannot_hold_is_kept_all_the_same(url: str) -> None:
    store = Store(url)
    store.add_event("note", "a\0b" + "x" * 1000, {"of": "c\0d"}, actor="node " + "n" * 64)
    store.add_refusal(1, "topic", "code", "reason\0")

    assert store.refusals()[-1].reason == "reason\ufffd"
    assert next(one for one in store.events() if one.kind == "note").text.startswith("a\ufffdbx")


def test_names_have_the_same_order_as_in_sqlite(url: str) -> None:
    store = Store(url)
    store.upsert_nodes([NodeRow(name, 1, "online", 1, b"", b"", "") for name in ("zz-B", "zz-a", "zz_A", "zz-10", "zz-9")])

    assert [row.node for row in store.nodes_after("zz", 9)] == sorted(["zz-B", "zz-a", "zz_A", "zz-10", "zz-9"])


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret@/\n")
    for query in ("", "&password=s3cret"):
        url = place_of(tmp_path, f"postgresql://hub@/x?host={tmp_path}{query}", str(tmp_path / "password"))
        with pytest.raises(Unreachable) as refused:
            Store(url).open()
        assert "s3cret" not in str(refused.value)
        assert str(tmp_path) in str(refused.value)


def test_a_hub_without_psycopg_names_the_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules['psycopg'] = None\nfrom hub.database.store import Store\nStore('postgresql://hub@db/x')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)

    assert "install the extra 'fleetcast[hub,postgres]'" in done.stderr


@pytest.mark.parametrize("url", ["mysql://x", "postgresql+psycopg2://x", "nonsense"])
def test_a_url_of_another_database_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="database_url") as refused:
        Store(url)
    assert refused.value.code is Code.SETTINGS_INVALID


def in_child(work: Callable[[], object]) -> int:
    """Start it in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_migrations_are_whole_and_once_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = postgresql_url(tmp_path / "hub")
    assert [ended(child) for child in [in_child(Store(url).create) for _ in range(2)]] == [0, 0]
    store = Store(url)
    store.add_receipts([ReceiptRow("n", 1, 5, 1, "serving", "delay", "a", RELEASE, 1, "", "", b"sealed")])
    with store.database.write() as db:  # As a hub left it that had no versions.
        as_before_versions(db.connection.driver_connection)  # type: ignore[arg-type]

    def killed() -> None:
        count = [0]

        def kill(*_: object) -> None:
            count[0] += 1
            if count[0] > 40:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "after_cursor_execute", kill)
        Store(url).create()

    store.close()
    assert ended(in_child(killed)) == -signal.SIGKILL
    with pytest.raises(Refused, match="earlier version"):
        Store(url).open()
    assert [ended(child) for child in [in_child(Store(url).create) for _ in range(2)]] == [0, 0]
    assert Store(url).nodes_serving() == {RELEASE: 1}
    with store.database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []
        assert db.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]

    with store.database.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for work in (Store(url).open, Store(url).create):
        with pytest.raises(Refused, match="schema 9999, made by a newer fleetcast"):
            work()


def test_init_makes_a_fleet_whose_database_is_elsewhere(tmp_path: Path) -> None:
    url = postgresql_url(tmp_path / "hub")
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "pass").chmod(0o600)

    def init(folder: str, where: str) -> "subprocess.CompletedProcess[str]":
        asked = ("--fleet", "plant", "--database-url", where, "--passphrase-file", str(tmp_path / "pass"), "--json")
        return warm.run("fleetcast", "init", str(tmp_path / folder), *asked)

    made = init("plant", url)
    assert made.returncode == 0, made.stderr
    assert not list((tmp_path / "plant").glob("*.sqlite"))
    Store(url).upsert_node(NodeRow("n1", 1, "online", 1, b"", b"", ""))

    again = init("other", url)
    assert (again.returncode, (tmp_path / "other").exists()) == (Exit.CONFLICT, False)
    secret = init("other", url.replace("fleetcast@", "fleetcast:s3cret@"))
    assert secret.returncode == 2
    assert "s3cret" not in secret.stdout + secret.stderr
    history = warm.run("fleetcast", "history", "--dir", str(tmp_path / "plant"), "--json")
    assert (history.returncode, json.loads(history.stdout)) == (0, [])

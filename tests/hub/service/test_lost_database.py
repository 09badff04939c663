"""A hub whose PostgreSQL goes away, comes back, or has no room: nothing that it has acknowledged is missing, nothing counts twice."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from bench import shared_ingest
from hub.database.leadership import Deposed
from hub.database.members import Members
from hub.database.store import Store, WindowRow
from schemas.errors import Code, Refused, Unreachable
from schemas.names import sha256
from tests import brokers
from tests.databases import Server, needs_postgresql, scratch
from tests.hub.apart import SharedFleet
from tests.hub.hubs import Device, Fleet, until
from tests.small_disk import small_disk

ORDINARY = [125, 125, 125, 125, 125, 125, 125, 125, 0]
pytestmark = [pytest.mark.postgres, needs_postgresql]
SENT = 120
RECEIPTS = 20


@pytest.fixture
def server() -> Iterator[Server]:
    folder = scratch()
    made = Server(folder).start()
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_windows_that_arrive_while_the_database_is_away_are_counted_once(
    mosquitto: brokers.Broker, fleet: Fleet, server: Server, how: signal.Signals
) -> None:
    url = server.make("hub")
    manifest = fleet.publish("1.0.0")
    with fleet.hub(mosquitto, database_url=url):
        device, store = Device.connect("n1", mosquitto, fleet), Store(url)
        until("the node", lambda: store.node("n1"))
        sent = threading.Thread(target=lambda: [device.window(manifest, ORDINARY) for _ in range(SENT)])
        sent.start()
        until("some windows", lambda: windows(store))
        server.stop(how)
        sent.join(60)
        device.sign("serving", manifest)
        server.start()
        until("all windows", lambda: windows(store) >= SENT)
        until("the receipt", lambda: store.serving(["n1"]))
        device.window(manifest, ORDINARY)
        until("the last one", lambda: windows(store) > SENT)

    assert windows(store) == SENT + 1
    (interval,) = store.intervals("delay")
    assert list(interval.counts) == [(SENT + 1) * one for one in ORDINARY]
    with store.database.read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM windows_seen").scalar() == SENT + 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_comes_while_the_database_is_away_is_acknowledged_when_it_is_stored(
    mosquitto: brokers.Broker, tmp_path: Path, server: Server, is_killed: bool
) -> None:
    """States, receipts and windows of nodes that are known, and of some that report for the first time.

    A hub that is killed meanwhile has nothing in memory: what it had acknowledged would be gone.
    """
    shared = SharedFleet.make(tmp_path / "fleet", mosquitto, url=server.make("hub"))
    manifest = shared.publish("1.0.0")
    store, roles = shared.store, ("--roles", "ingest", "--shard", "1/1", "--name", "one")
    hub = shared.start(shared.directory, *roles)
    try:
        hub.wait_for("broker.connected")
        known = [Device.connect(f"n{number}", mosquitto, shared) for number in range(3)]
        until("the nodes", lambda: store.count_nodes() == len(known))
        server.stop(signal.SIGQUIT)
        new = [Device.connect(f"m{number}", mosquitto, shared) for number in range(3)]
        for device in (*known, *new):
            device.say_state(cohort="ewr")
            for _ in range(RECEIPTS):
                device.sign("serving", manifest)
                device.window(manifest, ORDINARY, cohort="ewr")
        hub.wait_for("store.failed")
        if is_killed:
            hub.kill()
        server.start()
        if is_killed:
            hub = shared.start(shared.directory, *roles)

        nodes, sent = {one.name for one in (*known, *new)}, RECEIPTS * 6
        until("all receipts", lambda: len(store.receipts()) >= sent)
        until("all windows", lambda: windows(store) >= sent)
        until("all states", lambda: {row.node for row in store.nodes() if row.cohort == "ewr" and row.session > 1} == nodes)
        last = known[0]
        last.sign("serving", manifest)
        until("one more", lambda: len(store.receipts()) > sent)
    finally:
        hub.end()

    expected = {(name, number) for name in nodes for number in range(1, RECEIPTS + 1)} | {(last.name, RECEIPTS + 1)}
    assert sorted((row.node, row.sequence) for row in store.receipts()) == sorted(expected)
    assert windows(store) == sent
    assert not store.refusals()


def windows(store: Store) -> int:
    try:
        return sum(row.windows for row in store.intervals("delay"))
    except Unreachable:
        return 0


def test_two_processes_lose_no_window_when_one_is_killed(server: Server, tmp_path: Path) -> None:
    found = shared_ingest.measure(server, tmp_path)

    assert (found.counted, found.differing) == (shared_ingest.WINDOWS, 0)
    assert found.unacknowledged > 0
    assert found.twice >= shared_ingest.SENT_AGAIN * shared_ingest.BATCH


def large(number: int) -> WindowRow:
    """A window of an interval of its own, which does not compress."""
    rng = Random(number)
    counts = [rng.getrandbits(50) for _ in range(2000)]
    return WindowRow(sha256(number.to_bytes(4))[:16], sha256(b"r"), "delay", "nyc", number * 60, 60, counts)


def test_a_server_without_room_refuses_and_goes_on_when_there_is_some(server: Server) -> None:
    disk_folder = Path(tempfile.mkdtemp(prefix="fleetcast-disk-"))
    with small_disk(disk_folder / "disk", size_bytes=20 * 1024 * 1024) as disk:
        with psycopg.connect(server.url(), autocommit=True) as db:
            db.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
            db.execute(b"CREATE DATABASE full_one TABLESPACE small")
        store = Store(server.url("full_one"))
        store.create()
        (disk / "ballast").write_bytes(bytes(4 * 1020 * 1024))
        kept = 0

        def fill() -> None:
            nonlocal kept
            for number in range(10_000):
                store.add_windows([large(number)])
                kept += 1

        with pytest.raises(Refused, match="server's disk") as refused:
            fill()
        assert refused.value.code is Code.DISK_FULL
        assert sum(row.windows for row in store.intervals("delay")) == kept

        (disk / "ballast").unlink()
        again = large(kept)
        assert store.add_windows([again]) == [True]
        assert store.add_windows([again]) == [False]
        store.close()
        with psycopg.connect(server.url(), autocommit=True) as db:
            db.execute(b"DROP DATABASE full_one")
            db.execute(b"DROP TABLESPACE small")
    shutil.rmtree(disk_folder, ignore_errors=True)


@pytest.fixture
def _logs() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logs")
def test_processes_without_a_database_pause_ever_longer_and_come_back(mosquitto: brokers.Broker, tmp_path: Path, server: Server) -> None:
    shared = SharedFleet.make(tmp_path / "fleet", mosquitto, url=server.make("hub"))
    roles = ("ingest", "blocks", "web")
    with ExitStack() as stack, capture_logs() as lines:
        for role in roles:
            stack.enter_context(shared.running(role, name=role if role != "ingest" else "one"))
        server.stop(signal.SIGQUIT)
        began = time.monotonic()
        until("failures", lambda: len(failures(lines)) >= 6 * len(roles))
        took = time.monotonic() - began
        many = len(failures(lines))
        server.start()
        members = Members(shared.store.database)
        until("all processes", lambda: len([one for one in members.all() if one.is_live]) == len(roles), seconds=60)

    assert took > 3.0  # The sixth attempt of each comes after pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s, each at least the half of it.
    assert many <= 7 * len(roles)
    assert all(line["again_seconds"] <= 30 for line in failures(lines))


def failures(lines: list[Any]) -> list[Any]:
    return [line for line in list(lines) if line["event"] == "store.failed"]


def test_a_leader_whose_database_went_away_ends_with_the_true_reason(mosquitto: brokers.Broker, tmp_path: Path, server: Server) -> None:
    shared = SharedFleet.make(tmp_path / "fleet", mosquitto, url=server.make("hub"))

    def run() -> None:
        with shared.running("controller") as leader:
            server.stop(signal.SIGQUIT)
            until("the end of the lead", lambda: leader._leadership is not None and not leader._leadership.leads)
            leader.turn()

    with pytest.raises(Deposed, match=r"the lead is held by a connection to the database, and that has ended \(.+\); start it again"):
        run()

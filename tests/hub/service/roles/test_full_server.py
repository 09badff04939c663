"""A hub in several processes whose PostgreSQL has no room: each role waits, says so, and loses nothing."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from starlette.testclient import TestClient

from hub.core.rollouts import commands
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from hub.web.application import application
from hub.web.guard import LOOPBACK_NAMES, Door
from schemas.errors import Refused
from tests.brokers import Broker
from tests.databases import Server, needs_postgresql, scratch
from tests.hub.apart import SharedFleet
from tests.hub.hubs import BLOCKS, START, WINDOW_SECONDS, Device, deployment_of, until
from tests.small_disk import small_disk

pytestmark = [needs_postgresql, pytest.mark.postgres]
ORDINARY = [125, 125, 125, 125, 125, 125, 125, 125, 0]
EACH = 60


@pytest.fixture
def database() -> Iterator[tuple[str, Path]]:
    """A database on a small disk, and that disk."""
    folder, beside = scratch(), Path(tempfile.mkdtemp(prefix="fleetcast-disk-"))
    server = Server(folder).start()
    with small_disk(beside / "disk", size_bytes=32 * 1024 * 1024) as disk:
        with psycopg.connect(server.url(), autocommit=True) as db:
            db.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
            db.execute(b"CREATE DATABASE hub TABLESPACE small")
        yield server.url("hub"), disk
        server.stop()
    for one in (folder, beside):
        shutil.rmtree(one, ignore_errors=True)


def fill(url: str, disk: Path) -> Path:
    """Take all the room there is; return a file that gives some back when it is gone."""
    (disk / "ballast").write_bytes(bytes(8 * 1024 * 1024))
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(b"CREATE TABLE ballast (number bigint)")
        for rows in (10_000, 100):
            with contextlib.suppress(psycopg.errors.DiskFull):
                while True:
                    db.execute("INSERT INTO ballast SELECT generate_series(1, %s)", (rows,))
    return disk / "ballast"


def test_every_role_waits_for_room_at_the_server_and_loses_nothing(mosquitto: Broker, tmp_path: Path, database: tuple[str, Path]) -> None:
    url, disk = database
    shared = SharedFleet.make(tmp_path / "fleet", mosquitto, url=url)
    manifest, store = shared.publish("1.0.0"), shared.store
    fleet = OpenedFleet(shared.directory, shared.settings(mosquitto), store, shared.repository)
    _, token = api_tokens.make(fleet, name="operator", role="operator", days=1)
    ingest = shared.start(shared.directory, "--roles", "ingest", "--name", "one")
    try:
        with shared.running("controller"), shared.running("blocks", name="two"):
            ingest.wait_for("broker.connected")
            devices = [Device.connect(f"n{number}", mosquitto, shared) for number in range(3)]
            until("the nodes", lambda: store.count_nodes() == len(devices))
            ballast = fill(url, disk)
            for device in devices:
                for number in range(EACH):
                    device.sign("serving", manifest)
                    device.window(manifest, ORDINARY, start=START + number * WINDOW_SECONDS)
            ingest.wait_for("disk.full")
            with contextlib.suppress(Refused):  # The server may want to write where it only reads.
                assert len(store.receipts()) < EACH * len(devices) or len(store.intervals("delay")) < EACH
            asked = commands.read("start", json.dumps({"version": "1.0.0", "stages": [100]}))
            with TestClient(application(Door(fleet, LOOPBACK_NAMES)), base_url="http://localhost", raise_server_exceptions=False) as web:
                answer = web.get("/api/v1/nodes", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 200 or answer.json()["code"] == "disk.full", answer.text

            ballast.unlink()
            store.add_command("delay", asked)
            until("all receipts", lambda: len(store.receipts()) == EACH * len(devices))
            until("all windows", lambda: sum(row.windows for row in store.intervals("delay")) == EACH * len(devices))
            until("the rollout", lambda: [row for row in store.rollout_rows() if deployment_of(row).state in {"running", "done"}])
            assert len(devices[0].fetch(manifest)) == BLOCKS
            assert ingest.process.poll() is None
    finally:
        ingest.end()

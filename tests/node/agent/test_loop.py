"""The agent's whole loop, in this process: what its settings keep it from sending, and how it ends."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from fleetcast.mqtt_connection import Published
from node.agent.loop import Agent
from node.core.telemetry.accuracy import LabelCounts
from node.serving.accuracy_route import LabelsReported
from node.settings import NodeSettings
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Unreachable
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.node.serving.test_metrics import samples
from tests.trust_fleet import Fleet

SECONDS_MAX = 60.0


def agent(folder: Path, broker: str, *, fleet: Fleet | None = None, **changes: Any) -> Agent:
    fleet = fleet or Fleet.make(folder / "fleet")
    settings = NodeSettings(
        id="n1", fleet=brokers.FLEET, broker=broker, data=folder / "data", root=folder / "root.json", port=0, isolation="inline", **changes
    )
    return Agent(settings, pinned_root=fleet.repository.root(), wall=time.time, monotonic=time.monotonic, rng=Random(0))


@contextmanager
def running(made: Agent) -> Iterator[Agent]:
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join(SECONDS_MAX)


def until(over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not over():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as running:
        yield running


def test_metrics_name_the_link_and_the_privacy_budget(embedded: brokers.Broker, tmp_path: Path) -> None:
    made = agent(tmp_path, embedded.url("n1"))

    def scraped() -> dict[tuple[str, ...], float]:
        return samples(httpx.get(f"http://127.0.0.1:{made.server.port}/metrics").text) if made.server.port else {}

    with running(made):
        until(lambda: scraped().get(("fleetcast_connected",)) == 1)
        found = scraped()

    assert found["fleetcast_telemetry_rho_spent",] == 0
    assert found["fleetcast_telemetry_rho_day_max",] == made._settings.rho_day_max
    assert found["fleetcast_telemetry_windows_waiting",] == 0
    assert time.time() - found["fleetcast_connection_changed_seconds",] < SECONDS_MAX
    assert found["fleetcast_agent_memory_bytes",] > 1e6


def test_without_telemetry_no_window_that_waits_is_sent_and_receipts_are(embedded: brokers.Broker, tmp_path: Path) -> None:
    made = agent(tmp_path, embedded.url("n1"), telemetry=False)
    for number in range(40):  # more than are in flight at once: they are in nobody's way
        made._store.enqueue("window", made._link.topics.telemetry("m", "default"), bytes([number]))
    made._store.mark_sent([made._store.enqueue("window", made._link.topics.telemetry("m", "default"), b"sent before")])
    made._store.enqueue("receipt", made._link.topics.receipt("n1"), b"receipt")
    stop = threading.Event()
    running = threading.Thread(target=made.run, args=(stop,))
    running.start()

    reading = NodeStore.reading(tmp_path / "data" / "node.sqlite")
    try:
        until(lambda: reading.count_waiting("receipt") == 0)
    finally:
        stop.set()
        running.join(SECONDS_MAX)

    assert [tried for *_, tried in reading.waiting_windows()] == [False] * 40


@pytest.mark.parametrize("dies", [False, True])
def test_a_restarted_node_hears_what_an_earlier_process_acknowledged(broker: brokers.Broker, tmp_path: Path, dies: bool) -> None:
    fleet, topics, hub = Fleet.make(tmp_path / "fleet", now=datetime.now(UTC)), Topics(brokers.FLEET), Client.of(broker, "hub")
    tls = broker.tls("n1")
    keys = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}
    for version in ("1.0.0", "1.1.0"):
        fleet.release(version)
    fleet.roll("1.0.0")
    hub.open()

    def announce() -> None:
        hub.link.publish(topics.trust, codec.encode(fleet.refresh(after=timedelta())), retain=True)
        hub.next(Published)

    announce()
    hub.link.publish(topics.model("delay"), codec.encode(fleet.models("1.0.0", "1.1.0")), retain=True)
    first = agent(tmp_path, broker.url("n1"), fleet=fleet, **keys)
    with running(first):
        until(lambda: wants(first) == "1.0.0")
        if dies:
            first._link._link.drop()  # as its end would

    second = agent(tmp_path, broker.url("n1"), fleet=fleet, **keys)
    with running(second):
        until(lambda: second._online)
        fleet.roll("1.1.0", serial=2)
        announce()
        until(lambda: wants(second) == "1.1.0")
    hub.link.close()


def wants(made: Agent) -> str | None:
    slot = made._store.slots().get("delay")
    return slot.target.version if slot is not None and slot.target is not None else None


def test_labels_that_nobody_takes_any_more_do_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = agent(tmp_path, "mqtt://127.0.0.1:1")
    ended = threading.Event()
    ended.set()

    with ThreadPoolExecutor(1) as programs:

        def ask() -> httpx.Response:
            url = f"http://127.0.0.1:{made.server.port}/v2/models/m/labels"
            return httpx.post(url, json={"at": 1, "right": 1, "wrong": 0}, timeout=SECONDS_MAX)

        asked = []

        def comes_last() -> None:
            asked.append(programs.submit(ask))
            until(lambda: not made._inbox.empty())

        monkeypatch.setattr(made._status_writer, "began", comes_last)
        made.run(ended)
        reply = asked[0].result(SECONDS_MAX)
    late = LabelsReported("m", None, LabelCounts(at=1, right=1, wrong=0))
    made._served.labels_reported(late)

    assert (reply.status_code, "is stopping" in reply.json()["error"]) == (503, True)
    assert isinstance(late.done.exception(timeout=0), Unreachable)

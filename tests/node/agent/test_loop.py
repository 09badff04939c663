"""The agent's whole loop, in this process: what its settings keep it from sending, and how it ends."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from node.agent.loop import Agent
from node.settings import NodeSettings
from node.store import NodeStore
from tests import brokers
from tests.trust_fleet import Fleet

SECONDS_MAX = 60.0


def agent(folder: Path, broker: str, **changes: Any) -> Agent:
    fleet = Fleet.make(folder / "fleet")
    settings = NodeSettings(
        id="n1", fleet=brokers.FLEET, broker=broker, data=folder / "data", root=folder / "root.json", port=0, isolation="inline", **changes
    )
    return Agent(settings, pinned_root=fleet.repository.root(), wall=time.time, monotonic=time.monotonic, rng=Random(0))


def until(over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not over():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as running:
        yield running


def test_without_telemetry_no_window_that_waits_is_sent_and_receipts_are(embedded: brokers.Broker, tmp_path: Path) -> None:
    made = agent(tmp_path, embedded.url("n1"), telemetry=False)
    for number in range(40):  # more than are in flight at once: they are in nobody's way
        made._store.enqueue("window", made._link.topics.telemetry("m", "default"), bytes([number]))
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

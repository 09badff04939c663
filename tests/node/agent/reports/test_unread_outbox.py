"""What a broker throws away, because its hub has not subscribed yet, waits on in the node and reaches the hub later."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fleetcast.mqtt_connection import Connected, Message, Published
from node.agent.reports.reporter import Reporter
from node.broker.mqtt import NodeLink
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from node.enrol.identity import Identity
from node.storage.store import NodeStore
from tests.broker.client import Client
from tests.brokers import FLEET, Broker

NODE = "node-a"


@pytest.fixture
def inbox() -> "queue.Queue[Any]":
    return queue.Queue()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    made = NodeStore.of_agent(tmp_path / "node.sqlite")
    yield made
    made.close()


def next_of(inbox: "queue.Queue[Any]", kind: type) -> Any:
    deadline = time.monotonic() + 100
    while True:
        event = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        if isinstance(event, kind):
            return event


def connected(broker: Broker, inbox: "queue.Queue[Any]", store: NodeStore, folder: Path, now: list[float]) -> tuple[Reporter, NodeLink]:
    link = NodeLink(broker.url(NODE), fleet=FLEET, node=NODE, inbox=inbox, tls=broker.tls(NODE))
    identity = Identity.load_or_create(folder / "key.pem")
    reporter = Reporter(
        node=NODE,
        store=store,
        link=link,
        identity=lambda: identity,
        wall=lambda: WallSeconds(0.0),
        monotonic=lambda: MonotonicSeconds(now[0]),
        rng=Random(0),
        windows=True,
    )
    link.open(session=1, at=0)
    next_of(inbox, Connected)
    reporter.connected(session_present=False)
    return reporter, link


def test_what_a_broker_refuses_waits_and_keeps_nothing_else_from_it(
    mosquitto: Broker, inbox: "queue.Queue[Any]", store: NodeStore, tmp_path: Path
) -> None:
    now = [1000.0]
    reporter, link = connected(mosquitto, inbox, store, tmp_path, now)
    hub = Client.of(mosquitto)
    hub.open()
    hub.subscribe(link.topics.receipt(NODE))
    store.enqueue("receipt", link.topics.receipt("node-b"), b"not ours to say")  # Its access list does not let us.
    store.enqueue("receipt", link.topics.receipt(NODE), b"ours")

    reporter.send()
    answers = [next_of(inbox, Published) for _ in range(2)]
    assert sorted(one.refused for one in answers) == ["", "Not authorized"]
    for one in answers:
        reporter.published(one.mid, is_unread=one.is_unread, refused=one.refused)

    assert hub.next(Message).payload == b"ours"
    assert [one.payload for one in store.waiting(10)] == [b"not ours to say"]
    reporter.send()
    assert not reporter._sending  # A while later, and on another connection at once.
    now[0] += 10
    reporter.send()
    assert len(reporter._sending) == 1
    reporter.connected(session_present=True)
    reporter.send()
    assert len(reporter._sending) == 1
    link.close()
    hub.link.drop()


def test_what_a_hub_was_not_there_for_is_sent_again(mosquitto: Broker, inbox: "queue.Queue[Any]", store: NodeStore, tmp_path: Path) -> None:
    now = [1000.0]
    reporter, link = connected(mosquitto, inbox, store, tmp_path, now)
    topic = link.topics.telemetry("delay", "lab")
    for number in range(3):
        store.enqueue("window", topic, b"window %d" % number)

    # mosquitto acknowledges it, and has thrown it away.
    reporter.send()
    for _ in range(3):
        lost = next_of(inbox, Published)
        reporter.published(lost.mid, is_unread=lost.is_unread)
        assert lost.is_unread
    assert store.count_waiting("window") == 3

    # From now on one finds out for all, less and less often.
    pauses = []
    for _ in range(12):
        began = now[0]
        while not reporter._sending:
            now[0] += 1
            reporter.send()
        lost = next_of(inbox, Published)
        assert not reporter._sending.keys() - {lost.mid}
        reporter.published(lost.mid, is_unread=lost.is_unread)
        pauses.append(now[0] - began)
    assert pauses[0] <= 8
    assert 300 <= pauses[-1] <= 900

    # Then the hub is there.
    hub = Client.of(mosquitto)
    hub.open()
    hub.subscribe(topic)
    now[0] += 900
    for _ in range(3):
        reporter.send()
        taken = next_of(inbox, Published)
        reporter.published(taken.mid, is_unread=taken.is_unread)
        assert not taken.is_unread

    assert {hub.next(Message).payload for _ in range(3)} == {b"window 0", b"window 1", b"window 2"}
    assert store.count_waiting("window") == 0
    link.close()
    hub.link.drop()

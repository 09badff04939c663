"""Nodes of two fleets may have one name, and a node that takes another client id sends nothing again for that."""

import queue
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fleetcast.mqtt_connection import BrokerUrl, Connected
from node.agent.connecting import Connecting
from node.broker.mqtt import NodeLink
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from node.storage.store import NodeStore
from tests import brokers

NODE = "n-1"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    made = NodeStore.of_agent(tmp_path / "node.sqlite")
    yield made
    made.close()


class Node:
    """What connects one node."""

    def __init__(self, url: str, store: NodeStore, *, fleet: str = brokers.FLEET) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.link = NodeLink(url, fleet=fleet, node=NODE, inbox=self.inbox, tls=None)
        self.connecting = Connecting(
            node=NODE,
            store=store,
            wall=lambda: WallSeconds(0.0),
            monotonic=lambda: MonotonicSeconds(0.0),
            rng=Random(0),
            post=lambda _: None,
        )

    def connect(self) -> str:
        """Connect, and return what the session is."""
        self.connecting.begin(self.link)
        while not isinstance(event := self.inbox.get(timeout=100), Connected):
            pass
        return self.connecting.accepted(event)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("mqtt://host", "plant.n-1"), ("mqtts://host", "n-1"), ("mqtt://n-1:secret@host", "n-1")],
)
def test_a_client_id_names_the_fleet_where_nothing_else_tells_names_apart(url: str, expected: str) -> None:
    assert BrokerUrl.parse(url).client_id("n-1", fleet="plant") == expected


def test_a_node_takes_its_new_client_id_for_no_lost_memory_of_the_broker(broker: brokers.Broker, store: NodeStore) -> None:
    first = Node(broker.url(), store)
    assert first.connect() == "remembers"  # An earlier version had another id: nothing is sent again.
    first.link.close()

    broker.restart()
    second = Node(broker.url(), store)
    assert second.connect() == "forgot"
    second.link.close()


def test_two_nodes_of_one_name_in_two_fleets_keep_their_connections(broker: brokers.Broker, store: NodeStore, tmp_path: Path) -> None:
    other_store = NodeStore.of_agent(tmp_path / "other.sqlite")
    mine, other = Node(broker.url(), store), Node(broker.url(), other_store, fleet="other")
    mine.connect()
    other.connect()
    mid = mine.link.publish(mine.link.topics.telemetry("delay", "lab"), b"a window")
    while getattr(event := mine.inbox.get(timeout=100), "mid", None) != mid:
        pass

    assert type(event).__name__ == "Published"
    for one in (mine, other):
        one.link.close()
    other_store.close()

"""What rmqttd makes of our certificates and access lists: with the very files of broker-config/rmqtt, judged by what arrives."""

import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fleetcast.mqtt_connection import BrokerUrl, Disconnected, Link, Message, Published, Subscribed, TlsFiles, Will
from tests.broker.client import Client
from tests.broker.test_acl import HUB_ONLY, TOPICS, arrived, own_topics
from tests.brokers import CONSUMER
from tests.cluster import build
from tests.cluster.nodes import Cluster

pytestmark = pytest.mark.cluster
TAKEOVERS = 60
HEALED_SECONDS = 20.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One rmqttd, as each of a cluster is set up."""
    program = build.program()
    assert program is not None, "rmqttd is not built: python -m tests.cluster.build"
    made = Cluster(tmp_path_factory.mktemp("rmqtt"), program, count=1)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def user(broker: Cluster) -> Iterator[Callable[..., Client]]:
    """Opened connections of those who are named."""
    clients: list[Client] = []

    def connect(name: str, *, client_id: str | None = None, will: Will | None = None) -> Client:
        clients.append(made(broker, name, client_id=client_id))
        clients[-1].open(will)
        return clients[-1]

    yield connect
    for client in clients:
        client.link.drop()


@pytest.fixture
def hub(user: Callable[..., Client]) -> Client:
    """The hub's connection, listening to its fleet."""
    client = user("hub")
    assert client.subscribe("fleetcast/v1/main/#").refused == 0
    arrived(client)  # What earlier tests have retained.
    return client


def made(broker: Cluster, name: str, *, client_id: str | None = None) -> Client:
    inbox: queue.Queue[Any] = queue.Queue()
    url = BrokerUrl.parse(broker.url(name))
    link = Link(url, client_id=client_id or name, inbox=inbox, session_expiry_seconds=0, tls=broker.tls(name))
    return Client(link, inbox)


def test_what_a_node_says_in_its_own_name_arrives(hub: Client, user: Callable[..., Client]) -> None:
    node = user("node-a")

    for topic in own_topics("node-a"):
        node.link.publish(topic, b"mine")

    assert arrived(hub, 4) == [(topic, b"mine") for topic in own_topics("node-a")]


@pytest.mark.parametrize("topic", [*HUB_ONLY, *own_topics("node-b")[:3], "fleetcast/v1/other/want/node-a", "elsewhere"])
def test_who_says_what_is_not_theirs_is_disconnected_and_not_heard(hub: Client, user: Callable[..., Client], topic: str) -> None:
    node = user("node-a")

    node.link.publish(topic, b"forged", retain=True)

    assert isinstance(node.next((Published, Disconnected)), Disconnected)
    assert arrived(hub) == []


def test_a_node_reads_its_own_settings_and_what_is_for_all(user: Callable[..., Client], hub: Client) -> None:
    node = user("node-a")
    readable = {*HUB_ONLY[:7], TOPICS.settings("node-a")}
    for topic in (*HUB_ONLY, TOPICS.settings("node-a")):
        assert node.subscribe(topic).refused == (topic not in readable), topic
    for wide in ("#", "+/#", "fleetcast/v1/main/#", "fleetcast/v1/main/+/+/+", TOPICS.filter("settings"), TOPICS.filter("state")):
        assert node.subscribe(wide).refused, wide
        assert node.subscribe(f"$share/group/{wide}").refused, wide
    assert node.subscribe("$SYS/#").refused

    for topic in (*HUB_ONLY, TOPICS.settings("node-a")):
        hub.link.publish(topic, b"from the hub")

    assert {topic for topic, _ in arrived(node, len(readable))} == readable


def test_a_consumer_reads_insight_and_states_and_writes_nothing(hub: Client, user: Callable[..., Client]) -> None:
    consumer, node = user(CONSUMER, client_id="grafana"), user("node-a")
    readable = {TOPICS.windows("delay"), TOPICS.drift("delay"), TOPICS.alert, TOPICS.state("node-a"), TOPICS.telemetry("delay", "nyc")}
    for topic in (*HUB_ONLY, *own_topics("node-a")):
        assert consumer.subscribe(topic).refused == (topic not in readable), topic
    for topic in HUB_ONLY:
        hub.link.publish(topic, b"from the hub")
    for topic in own_topics("node-a"):
        node.link.publish(topic, b"of a node")
    assert {topic for topic, _ in arrived(consumer, len(readable))} == readable
    arrived(hub)

    consumer.link.publish(TOPICS.telemetry("delay", "nyc"), b"forged")

    assert isinstance(consumer.next((Published, Disconnected)), Disconnected)
    assert arrived(hub) == []


def test_a_will_is_held_to_no_access_list(broker: Cluster, hub: Client) -> None:
    """A fault of rmqttd 0.24: docs/brokers.md says so, and says more than is true if this fails."""
    forger = made(broker, "node-a")
    forger.open(Will(TOPICS.state("node-b"), b"forged", delay_seconds=0))

    forger.link.drop()

    assert arrived(hub, 1) == [(TOPICS.state("node-b"), b"forged")]


def test_nobody_connects_without_a_certificate_of_ours(broker: Cluster, tmp_path: Path) -> None:
    host, port = broker.url().removeprefix("mqtts://").split(":")
    tls = broker.tls()
    assert tls is not None
    stranger = Cluster(tmp_path / "other", Path("none"), count=1).tls("hub")
    assert stranger is not None

    for shown in (None, stranger):
        context = ssl.create_default_context(cafile=tls.ca)
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        said = b""
        with (
            suppress(OSError),
            socket.create_connection((host, int(port)), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(bytes.fromhex("101000044d5154540502003c000003616263"))  # CONNECT, MQTT 5, client id "abc"
            said = connection.recv(4)
        assert said == b""


def test_a_node_that_takes_its_own_connection_over_is_served_or_comes_again(broker: Cluster, hub: Client) -> None:
    """The broker forgets the name of the connection before, now and then after it has noted the new one: what a node does then heals it."""
    denied = 0
    for _ in range(TAKEOVERS):
        before, node = made(broker, "node-a"), made(broker, "node-a")
        before.open()
        node.open()
        deadline = time.monotonic() + HEALED_SECONDS
        while not served(node):
            denied += 1
            assert time.monotonic() < deadline, "not served again"
            node.link.drop()
            node.inbox.queue.clear()
            node.open()
        node.link.drop()
        before.link.drop()
    print(f"{denied} of {TAKEOVERS} had to come again")


def served(node: Client) -> bool:
    """Whether the broker knows the node's name: it takes its state, and lets it read its settings."""
    node.link.subscribe([TOPICS.settings("node-a")])
    node.link.publish(TOPICS.state("node-a"), b"online")
    refused = 0
    while True:
        match node.next((Published, Disconnected, Subscribed)):
            case Subscribed(_, refused):
                pass
            case Published():
                return not refused
            case Disconnected():
                return False


def test_a_client_id_is_anybodys_and_ends_the_connection_that_has_it(hub: Client, user: Callable[..., Client]) -> None:
    """Unlike mosquitto's, this broker's client ids are not tied to certificates: docs/brokers.md says so."""
    victim = user("node-a")

    user("node-b", client_id="node-a")

    assert isinstance(victim.next(Disconnected), Disconnected)


def test_a_cluster_carries_messages_and_what_is_retained_to_each_broker(tmp_path: Path) -> None:
    program = build.program()
    assert program is not None
    cluster = Cluster(tmp_path / "cluster", program)
    cluster.start()
    clients: list[Client] = []
    try:
        for number in range(3):
            inbox: queue.Queue[Any] = queue.Queue()
            tls: TlsFiles | None = cluster.tls("hub")
            url = BrokerUrl.parse(cluster.url(node=number))
            clients.append(Client(Link(url, client_id=f"hub-{number}", inbox=inbox, session_expiry_seconds=0, tls=tls), inbox))
            clients[-1].open()
        clients[0].subscribe(TOPICS.trust)
        clients[1].link.publish(TOPICS.trust, b"trust", retain=True)
        assert clients[0].next(Message).payload == b"trust"
        clients[2].subscribe(TOPICS.trust)
        assert clients[2].next(Message).payload == b"trust"
    finally:
        for client in clients:
            client.link.drop()
        cluster.stop()

"""What the generated access lists let through on mosquitto: judged by what arrives, since a SUBSCRIBE is granted and then filtered."""

import queue
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from fleetcast.mqtt_connection import BrokerUrl, Connected, Disconnected, Link, Message, Published, Will
from schemas.topics import TABLE, Topics
from tests.broker.client import Client
from tests.brokers import CONSUMER, FLEET, Mosquitto

TOPICS = Topics(FLEET)
DIGEST = bytes(range(32))
QUIET_SECONDS = 0.5
HUB_ONLY = (
    TOPICS.trust,
    TOPICS.trust_time,
    TOPICS.trust_roles,
    TOPICS.deployed,
    TOPICS.deploy("delay"),
    TOPICS.model("delay"),
    TOPICS.block(DIGEST),
    TOPICS.settings("node-b"),
    TOPICS.windows("delay"),
    TOPICS.drift("delay"),
    TOPICS.alert,
    TOPICS.hub,
)


@pytest.fixture
def hub(mosquitto: Mosquitto) -> Iterator[Client]:
    """The hub's connection, listening to everything."""
    client = Client.of(mosquitto)
    client.open()
    client.subscribe("#")
    yield client
    client.link.drop()


@pytest.fixture
def user(mosquitto: Mosquitto) -> Iterator[Callable[[str], Client]]:
    """Opened connections of whoever is named."""
    clients: list[Client] = []

    def connect(name: str, *, client_id: str | None = None, will: Will | None = None) -> Client:
        clients.append(Client.of(mosquitto, name, client_id=client_id))
        clients[-1].open(will)
        return clients[-1]

    yield connect
    for client in clients:
        client.link.drop()


def arrived(listener: Client, least: int = 0) -> list[tuple[str, bytes]]:
    """All that comes; so many are waited for, however long they take."""
    return [(message.topic, message.payload) for message in listener.messages(seconds=QUIET_SECONDS, least=least)]


def own_topics(node: str) -> list[str]:
    return [TOPICS.want(node), TOPICS.state(node), TOPICS.receipt(node), TOPICS.telemetry("delay", "nyc")]


def test_what_a_node_says_in_its_own_name_arrives(hub: Client, user: Callable[..., Client]) -> None:
    node = user("node-a")

    for topic in own_topics("node-a"):
        node.link.publish(topic, b"mine")

    assert arrived(hub, len(own_topics("node-a"))) == [(topic, b"mine") for topic in own_topics("node-a")]


def test_what_a_node_says_in_another_nodes_name_does_not_arrive(hub: Client, user: Callable[..., Client]) -> None:
    node = user("node-a")

    for topic in (TOPICS.want("node-b"), TOPICS.state("node-b"), TOPICS.receipt("node-b")):
        node.link.publish(topic, b"forged")
        node.next(Published)  # PUBACK comes all the same: it is no proof of delivery

    assert arrived(hub) == []


def test_a_node_cannot_speak_as_the_hub(hub: Client, user: Callable[..., Client]) -> None:
    node = user("node-a")

    for topic in HUB_ONLY:
        node.link.publish(topic, b"forged", retain=True)

    assert arrived(hub) == []
    late = user("node-b")
    late.subscribe("#")
    assert arrived(late) == []


@pytest.mark.parametrize("topic", ["fleetcast/v1/other/trust", "fleetcast/v1/other/want/node-a", "elsewhere", "$SYS/broker/version"])
def test_a_node_cannot_speak_outside_its_fleet(hub: Client, user: Callable[..., Client], topic: str) -> None:
    user("node-a").link.publish(topic, b"stray")

    assert arrived(hub) == []


def test_a_node_that_subscribes_to_everything_gets_what_it_may_read(hub: Client, user: Callable[..., Client]) -> None:
    node, other = user("node-a"), user("node-b")
    node.subscribe("#")
    node.subscribe("$SYS/#")

    for topic in HUB_ONLY:
        hub.link.publish(topic, b"from the hub")
    for topic in own_topics("node-b"):
        other.link.publish(topic, b"of another")

    trust = {TOPICS.trust, TOPICS.trust_time, TOPICS.trust_roles}
    readable = {*trust, TOPICS.deployed, TOPICS.deploy("delay"), TOPICS.model("delay"), TOPICS.block(DIGEST)}
    assert {topic for topic, _ in arrived(node, len(readable))} == readable


def test_a_node_reads_its_own_settings_and_no_others(hub: Client, user: Callable[..., Client]) -> None:
    node = user("node-a")
    for topic in ("#", TOPICS.settings("node-b"), TOPICS.filter("settings")):
        node.subscribe(topic)

    for name in ("node-b", "node-a"):
        hub.link.publish(TOPICS.settings(name), name.encode(), retain=True)
    node.link.publish(TOPICS.settings("node-a"), b"forged", retain=True)

    assert {(topic, payload) for topic, payload in arrived(node, 1)} == {(TOPICS.settings("node-a"), b"node-a")}
    late = user("node-c")
    late.subscribe("#")
    assert arrived(late) == []


def test_a_consumer_reads_insight_and_states_and_no_more(hub: Client, user: Callable[..., Client]) -> None:
    consumer, node = user(CONSUMER, client_id="grafana"), user("node-a")
    consumer.subscribe("#")

    for topic in HUB_ONLY:
        hub.link.publish(topic, b"from the hub")
    for topic in own_topics("node-a"):
        node.link.publish(topic, b"of a node")

    readable = {TOPICS.windows("delay"), TOPICS.drift("delay"), TOPICS.alert, TOPICS.state("node-a"), TOPICS.telemetry("delay", "nyc")}
    assert {topic for topic, _ in arrived(consumer, len(readable))} == readable


def test_a_consumer_writes_nothing(hub: Client, user: Callable[..., Client]) -> None:
    consumer = user(CONSUMER, client_id="grafana")

    for topic in (*HUB_ONLY, *own_topics(CONSUMER), *own_topics("node-a")):
        consumer.link.publish(topic, b"forged", retain=True)

    assert arrived(hub) == []


def test_a_consumer_gets_and_says_nothing_at_the_nodes_door(mosquitto: Mosquitto, hub: Client) -> None:
    consumer = at_door(mosquitto, CONSUMER, door="node-a")
    consumer.subscribe("#")

    for topic in HUB_ONLY:
        hub.link.publish(topic, b"from the hub")
    for topic in own_topics(CONSUMER):
        consumer.link.publish(topic, b"forged")

    assert arrived(consumer) == []
    assert {payload for _, payload in arrived(hub, len(HUB_ONLY))} == {b"from the hub"}
    consumer.link.drop()


def test_a_node_gets_and_says_nothing_at_the_consumers_door(mosquitto: Mosquitto, hub: Client) -> None:
    node = at_door(mosquitto, "node-a", door=CONSUMER)
    node.subscribe("#")

    for topic in HUB_ONLY:
        hub.link.publish(topic, b"from the hub")
    for topic in own_topics("node-a"):
        node.link.publish(topic, b"from a node")

    assert arrived(node) == []
    assert {payload for _, payload in arrived(hub, len(HUB_ONLY))} == {b"from the hub"}
    node.link.drop()


def test_two_consumers_share_a_certificate_without_ending_each_other(hub: Client, user: Callable[..., Client]) -> None:
    first, second = user(CONSUMER, client_id="grafana"), user(CONSUMER, client_id="node-red")
    first.subscribe(TOPICS.alert)
    second.subscribe(TOPICS.alert)

    hub.link.publish(TOPICS.alert, b"look")

    assert arrived(first, 1) == arrived(second, 1) == [(TOPICS.alert, b"look")]


def test_a_node_cannot_end_another_nodes_connection_by_its_client_id(hub: Client, user: Callable[..., Client]) -> None:
    victim = user("node-a")
    victim.subscribe(TOPICS.trust)

    user("node-b", client_id="node-a")
    hub.link.publish(TOPICS.trust, b"still here")

    assert victim.next(Message).payload == b"still here"
    assert not any(isinstance(event, Disconnected) for event in victim.heard)


def test_a_will_in_another_nodes_name_is_not_sent(mosquitto: Mosquitto, hub: Client, user: Callable[..., Client]) -> None:
    forger = Client.of(mosquitto, "node-a")
    forger.link.open(Will(TOPICS.state("node-b"), b"forged", delay_seconds=0))
    honest = user("node-c", will=Will(TOPICS.state("node-c"), b"lost", delay_seconds=0))

    forger.next((Connected, Disconnected))
    forger.link.drop()
    honest.link.drop()

    assert arrived(hub, 1) == [(TOPICS.state("node-c"), b"lost")]


@pytest.mark.parametrize("name", ["#", "+", "node-a/state", "node-a/receipt", "a/../node-a"])
def test_a_certificate_with_a_wildcard_or_a_slash_for_a_name_owns_nothing_of_others(mosquitto: Mosquitto, hub: Client, name: str) -> None:
    stranger = Client.of(mosquitto, name)

    stranger.link.open()
    if isinstance(stranger.next((Connected, Disconnected)), Connected):
        for topic in own_topics("node-a")[:3]:
            stranger.link.publish(topic, b"forged")
    stranger.link.drop()

    assert arrived(hub) == []


def test_nobody_connects_without_a_certificate(mosquitto: Mosquitto) -> None:
    host, port = mosquitto.url().removeprefix("mqtts://").split(":")
    context = ssl.create_default_context(cafile=mosquitto.tls().ca)

    said = b""
    with (
        suppress(OSError),
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(bytes.fromhex("101000044d5154540502003c000003616263"))  # CONNECT, MQTT 5, client id "abc"
        said = connection.recv(4)

    assert said == b""


def test_every_row_of_the_table_is_tried_above() -> None:
    tried = {TOPICS.parse(topic).kind for topic in (*HUB_ONLY, *own_topics("node-a"))}

    assert tried == {kind.name for kind in TABLE}


def at_door(broker: Mosquitto, user: str, *, door: str) -> Client:
    """A connection with one user's certificate at the listener that is meant for another."""
    inbox: queue.Queue[Any] = queue.Queue()
    link = Link(BrokerUrl.parse(broker.url(door)), client_id=user, inbox=inbox, session_expiry_seconds=0, tls=broker.tls(user))
    client = Client(link, inbox)
    client.open()
    return client

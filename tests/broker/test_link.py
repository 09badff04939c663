"""What `fleetcast.mqtt_connection.Link` promises, against both real brokers; and against a rogue one."""

import os
import queue
import resource
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fleetcast.mqtt_connection import (
    GOODBYE_SECONDS,
    INFLIGHT_MAX,
    QUEUED_MAX,
    BrokerUrl,
    Connected,
    Disconnected,
    Link,
    Message,
    Published,
    TlsFiles,
    Will,
)
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.topics import Topics
from tests.broker.client import Client
from tests.brokers import FLEET, Authority, Broker, Mosquitto, free_port
from tests.hub.hubs import until

TOPIC = "fleetcast/v1/main/"
FLOOD_BYTES_MAX = 64 * MIB
QUIET_SECONDS = 0.5  # nothing more is expected after it


@pytest.fixture
def opened() -> Iterator[Callable[..., Client]]:
    """Connected clients, closed at the end."""
    clients: list[Client] = []

    def connect(broker: Broker, user: str = "hub", *, will: Will | None = None, **options: Any) -> Client:
        client = Client.of(broker, user, **options)
        clients.append(client)
        client.open(will)
        return client

    yield connect
    for client in clients:
        client.link.drop()


def test_a_block_of_full_size_arrives_as_it_was_sent(broker: Broker, opened: Callable[..., Client]) -> None:
    node, hub = opened(broker, "node-a"), opened(broker)
    payload = bytes(range(256)) * (BLOCK_BYTES_MAX // 256)
    topic = TOPIC + "block/" + "00" * 32
    node.subscribe(topic)

    mid = hub.link.publish(topic, payload)

    assert hub.next(Published).mid == mid
    message = node.next(Message)
    assert (message.topic, message.payload, message.retained, message.qos) == (topic, payload, False, 1)


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(broker: Broker, opened: Callable[..., Client]) -> None:
    hub, node = opened(broker), opened(broker, "node-a", session_expiry_seconds=60)
    node.subscribe(TOPIC + "trust")
    hub.link.publish(TOPIC + "trust", b"one")
    unacknowledged = node.next(Message)

    again = node.open()
    repeated = node.next(Message)
    node.link.ack(unacknowledged)  # of an earlier connection: not sent
    node.link.ack(repeated)
    hub.link.publish(TOPIC + "trust", b"two")
    following = node.next(Message)
    node.link.ack(following)
    assert [message.payload for message in node.messages(seconds=QUIET_SECONDS)] == []
    node.open()

    assert again.session_present
    assert (unacknowledged.payload, repeated.payload, following.payload) == (b"one", b"one", b"two")
    assert [message.payload for message in node.messages(seconds=QUIET_SECONDS)] == []


def test_a_dropped_connection_says_so_before_the_next_one_begins(broker: Broker, opened: Callable[..., Client]) -> None:
    client = opened(broker)

    client.open()

    assert [type(event) for event in client.heard] == [Connected, Disconnected, Connected]


def test_after_a_restart_the_broker_says_that_the_session_is_gone(broker: Broker, opened: Callable[..., Client]) -> None:
    client = opened(broker, "node-a", session_expiry_seconds=600)
    client.subscribe(TOPIC + "trust")

    broker.restart()

    client.next(Disconnected)
    assert not client.open().session_present


def test_retained_reaches_latecomers_until_it_expires_or_is_cleared(broker: Broker, opened: Callable[..., Client]) -> None:
    expiry_seconds = 3
    hub, early, late = opened(broker), opened(broker, "node-a"), opened(broker, "node-b")
    for payload, topic, expiry in (
        (b"keep", "keep", None),
        (b"cleared", "cleared", None),
        (b"", "cleared", None),
        (b"expires", "expires", expiry_seconds),
    ):
        hub.link.publish(TOPIC + f"model/{topic}", payload, retain=True, expiry_seconds=expiry)
        hub.next(Published)
    early.subscribe(TOPIC + "model/expires")
    early.subscribe(TOPIC + "model/keep")
    early.subscribe(TOPIC + "model/cleared")
    at_once = early.messages(seconds=QUIET_SECONDS, least=2)
    time.sleep(expiry_seconds + 1)  # brokers count whole seconds

    late.subscribe(TOPIC + "model/expires")
    late.subscribe(TOPIC + "model/keep")

    assert {(message.payload, message.retained) for message in at_once} == {(b"keep", True), (b"expires", True)}
    assert [message.payload for message in late.messages(seconds=QUIET_SECONDS, least=1)] == [b"keep"]


def test_the_will_follows_a_death_after_its_delay_and_no_goodbye(broker: Broker, opened: Callable[..., Client]) -> None:
    hub = opened(broker)
    hub.subscribe(TOPIC + "node/+/state")
    polite = opened(broker, "node-b", will=Will(TOPIC + "node/node-b/state", b"lost b", delay_seconds=1), session_expiry_seconds=60)
    dying = opened(broker, "node-a", will=Will(TOPIC + "node/node-a/state", b"lost a", delay_seconds=1), session_expiry_seconds=60)

    polite.link.close()
    dying.link.drop()

    assert [message.payload for message in hub.messages(seconds=1.5, least=1)] == [b"lost a"]


def test_who_is_back_within_the_delay_was_never_lost(mosquitto: Broker, opened: Callable[..., Client]) -> None:
    hub = opened(mosquitto)
    hub.subscribe(TOPIC + "node/+/state")
    will = Will(TOPIC + "node/node-a/state", b"lost", delay_seconds=4)
    node = opened(mosquitto, "node-a", will=will, session_expiry_seconds=60)

    node.open(will)

    assert hub.messages(seconds=5.5) == []


def test_the_same_client_id_takes_the_connection_over(broker: Broker, opened: Callable[..., Client]) -> None:
    first = opened(broker, "node-a")

    second = opened(broker, "node-a")

    first.next(Disconnected)
    second.subscribe(TOPIC + "trust")


def test_what_was_published_before_the_connection_is_sent_on_it(broker: Broker, opened: Callable[..., Client]) -> None:
    hub = opened(broker)
    hub.subscribe(TOPIC + "want/+")
    node = Client.of(broker, "node-a")

    sent = [b"%d" % number for number in range(5 * INFLIGHT_MAX)]  # more than may be under way at once
    for payload in sent:
        node.link.publish(TOPIC + "want/node-a", payload)
    node.open()

    assert [message.payload for message in hub.messages(seconds=QUIET_SECONDS, least=len(sent))] == sent
    node.link.drop()


def test_no_more_is_under_way_than_the_broker_said_it_takes() -> None:
    connack = b"\x20\x06\x00\x00\x03\x21\x00\x05"  # Receive Maximum 5
    with rogue(b"", connack=connack) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)
        for _ in range(50):
            client.link.publish("t", b"before")
        client.open()
        for _ in range(50):
            client.link.publish("t", b"after")
        until("five", lambda: server.heard.count(b"before") >= 5)
        client.messages(seconds=QUIET_SECONDS)
        client.link.drop()

    assert server.heard.count(b"before") == 5
    assert server.heard.count(b"after") == 0


def test_nor_is_it_of_what_is_published_while_the_connection_begins() -> None:
    accept, connack = threading.Event(), b"\x20\x06\x00\x00\x03\x21\x00\x05"  # Receive Maximum 5

    class Inbox(queue.Queue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if isinstance(item, Connected):  # in the network thread, before it sends what waits
                other = threading.Thread(target=lambda: [client.link.publish("t", b"after") for _ in range(50)])
                other.start()
                other.join(0.5)
            super().put(item, block, timeout)

    with rogue(b"", connack=connack, accept=accept) as server:
        client = Client(plain_link(server.port, inbox := Inbox()), inbox)
        client.link.open()
        for _ in range(50):
            client.link.publish("t", b"between")
        accept.set()
        until("five", lambda: server.heard.count(b"between") >= 5)
        client.messages(seconds=QUIET_SECONDS)
        client.link.drop()

    assert server.heard.count(b"between") == 5
    assert server.heard.count(b"after") == 0


def test_publishes_do_not_pile_up_without_bound_while_there_is_no_connection() -> None:
    link = plain_link(free_port())
    for _ in range(QUEUED_MAX):
        link.publish(TOPIC + "alert", b"")

    with pytest.raises(Unreachable, match=str(QUEUED_MAX)):
        link.publish(TOPIC + "alert", b"")


def test_a_broker_that_is_not_there_is_unreachable_at_once() -> None:
    port = free_port()

    with pytest.raises(Unreachable, match=f"mqtt://127.0.0.1:{port}"):
        plain_link(port).open()


def test_a_name_that_no_machine_has_is_unreachable() -> None:
    link = Link(BrokerUrl.parse("mqtt://no-such-broker.invalid"), client_id="a", inbox=queue.Queue(), session_expiry_seconds=0)

    with pytest.raises(Unreachable, match=r"no-such-broker\.invalid"):
        link.open()


@pytest.mark.parametrize("url", ["", "127.0.0.1:1883", "http://broker", "mqtt://", "mqtt://host:port", "mqtt://host:99999", "mqtt://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refusal:
        BrokerUrl.parse(url)

    assert refusal.value.code == Code.SETTINGS_INVALID


def test_a_url_names_user_and_password_but_does_not_print_them() -> None:
    url = BrokerUrl.parse("mqtts://node%2Da:p%40ss@[::1]:1")

    assert (url.host, url.port, url.tls, url.username, url.password) == ("::1", 1, True, "node-a", "p@ss")
    assert "p@ss" not in f"{url} {url!r}"


def test_tls_and_plain_are_not_mixed_up(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("hub")
    for url, tls in (("mqtts://127.0.0.1", None), ("mqtt://127.0.0.1", files)):
        with pytest.raises(Refused) as refusal:
            Link(BrokerUrl.parse(url), client_id="a", inbox=queue.Queue(), session_expiry_seconds=0, tls=tls)

        assert refusal.value.code == Code.SETTINGS_INVALID


@pytest.mark.parametrize("broken", ["ca", "certificate", "key"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate\n", b"\x00\xff" * 100])
def test_a_tls_file_that_is_missing_or_no_pem_is_refused(tmp_path: Path, broken: str, content: bytes | None) -> None:
    good = Authority(tmp_path).issue("hub")
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    paths = {"ca": good.ca, "certificate": good.certificate, "key": good.key, broken: str(bad)}

    with pytest.raises(Refused, match=r"bad\.pem") as refusal:
        Link(BrokerUrl.parse("mqtts://127.0.0.1"), client_id="a", inbox=queue.Queue(), session_expiry_seconds=0, tls=TlsFiles(**paths))

    assert refusal.value.code == Code.KEY_UNREADABLE


def test_a_broker_whose_certificate_another_authority_signed_is_not_spoken_to(mosquitto: Mosquitto, tmp_path: Path) -> None:
    ours = mosquitto.tls("node-a")
    files = TlsFiles(ca=str(Authority(tmp_path / "stranger").ca_path), certificate=ours.certificate, key=ours.key)

    with pytest.raises(Unreachable, match="certificate"):
        tls_link(mosquitto, files).open()


def test_a_client_whose_certificate_another_authority_signed_is_not_let_in(mosquitto: Mosquitto, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").issue("hub")
    client = tls_client(mosquitto, TlsFiles(ca=mosquitto.tls().ca, certificate=stranger.certificate, key=stranger.key))

    try:
        client.link.open()  # TLS 1.3: the client's side is done before the server has looked at its certificate
    except Unreachable:
        return
    client.next(Disconnected)

    assert not any(isinstance(event, Connected) for event in client.heard)


def test_a_giant_packet_ends_the_connection_before_it_takes_memory() -> None:
    with rogue(announce_publish(200 * MIB), endless=True) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)
        tracemalloc.start()

        client.open()
        client.next(Disconnected)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 8 * MIB
    assert server.sent_bytes < 32 * MIB  # what the kernel's buffers took


MALFORMED = {
    "length of five bytes": b"\x30\xff\xff\xff\xff\xff\x7f",
    "topic that is no UTF-8": b"\x30\x05\x00\x02\xff\xfe\x00",
    "topic longer than the packet": b"\x30\x04\xff\xff\x61\x00",
    "empty publish": b"\x30\x00",
    "QoS 3": b"\x36\x06\x00\x01a\x00\x01\x00",
    "unknown property": b"\x30\x06\x00\x01a\x02\x7f\x00",
    "property longer than the packet": b"\x30\x05\x00\x01a\x7f\x26",
    "empty suback": b"\x90\x00",
    "packet type 0": b"\x00\x00",
    "packet type of a client": b"\x80\x00",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_end_the_connection_and_the_owner_hears_of_it(name: str) -> None:
    with rogue(MALFORMED[name]) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)

        client.open()

        client.next(Disconnected)


def test_no_bytes_whatever_end_the_network_thread_in_silence() -> None:
    for seed in range(40):
        with rogue(Random(seed).randbytes(200) + b"\x00\x00", closing=True) as server:
            client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)

            client.link.open()

            client.next(Disconnected)
            client.link.drop()


def test_a_refused_connection_is_a_disconnection() -> None:
    with rogue(b"", connack=b"\x20\x03\x00\x87\x00", closing=True) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)

        client.link.open()

        client.next(Disconnected)
        assert not any(isinstance(event, Connected) for event in client.heard)


def test_leaving_a_broker_that_reads_no_more_does_not_take_for_ever() -> None:
    with rogue(b"", deaf=True) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)
        client.open()
        for _ in range(INFLIGHT_MAX):
            client.link.publish("t", bytes(BLOCK_BYTES_MAX))
        began = time.monotonic()

        client.link.close()

        assert time.monotonic() - began < GOODBYE_SECONDS + 60


def test_who_is_sent_more_than_it_can_parse_still_has_its_say() -> None:
    packet = b"\x30\xec\x07\x00\x01t\x00" + bytes(1000)  # QoS 0: nothing waits for us; of a length that no read ends with

    with rogue(b"", flood=packet * 64) as server:
        client = Client(plain_link(server.port, inbox := queue.Queue()), inbox)
        client.open()
        client.next(Message)
        client.link.publish("t", b"still here")
        until("our publish", lambda: b"still here" in server.heard)
        client.link.drop()

    assert server.sent_bytes < FLOOD_BYTES_MAX


def plain_link(port: int, inbox: "queue.Queue[Any] | None" = None) -> Link:
    return Link(BrokerUrl.parse(f"mqtt://127.0.0.1:{port}"), client_id="a", inbox=inbox or queue.Queue(), session_expiry_seconds=0)


def tls_link(broker: Mosquitto, files: TlsFiles) -> Link:
    return tls_client(broker, files).link


def tls_client(broker: Mosquitto, files: TlsFiles) -> Client:
    inbox: queue.Queue[Any] = queue.Queue()
    return Client(Link(BrokerUrl.parse(broker.url()), client_id="a", inbox=inbox, session_expiry_seconds=0, tls=files), inbox)


def announce_publish(remaining_bytes: int) -> bytes:
    """The first bytes of a PUBLISH of this length (MQTT 5, 1.5.5: seven bits a byte, least significant first)."""
    length = bytearray()
    while remaining_bytes:
        remaining_bytes, digit = divmod(remaining_bytes, 128)
        length.append(digit | (0x80 if remaining_bytes else 0))
    return b"\x30" + bytes(length)


@dataclass(slots=True)
class Rogue:
    """What a server of ours that breaks the rules has seen."""

    port: int
    sent_bytes: int = 0
    heard: bytes = b""


@contextmanager
def rogue(
    first: bytes,
    *,
    connack: bytes = b"\x20\x03\x00\x00\x00",
    endless: bool = False,
    flood: bytes = b"",
    accept: threading.Event | None = None,
    closing: bool = False,
    deaf: bool = False,
) -> Iterator[Rogue]:
    """A server that lets one client in, once `accept` is set, and says `first`. Then it sends zeros as long as they are taken (200 MiB at
    the most), or `flood` again and again until it is told something (64 MiB at the most), or closes, or reads nothing, or reads all.
    """
    done = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(240)
            connection.recv(4096)
            if accept is not None:
                accept.wait(240)
            connection.sendall(connack + first)
            while endless and server.sent_bytes < 200 * MIB:
                server.sent_bytes += connection.send(bytes(64 * 1024))
            while flood and server.sent_bytes < FLOOD_BYTES_MAX and not select.select([connection], [], [], 0)[0]:
                connection.sendall(flood)
                server.sent_bytes += len(flood)
            if deaf:
                done.wait(240)
            while not closing and (data := connection.recv(65536)):
                server.heard += data

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Rogue(listener.getsockname()[1])
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server
        done.set()
        thread.join(60)


def test_acknowledgements_leave_in_the_order_of_arrival(broker: Broker) -> None:
    topic = Topics(FLEET).telemetry("m", "c")
    hub, node = Client.of(broker, "hub", session_expiry_seconds=60), Client.of(broker, "node-a")
    hub.open()
    hub.subscribe(topic)
    node.open()
    for number in range(8):
        node.link.publish(topic, b"%d" % number)
    came = [hub.next(Message) for _ in range(8)]

    for message in [*reversed(came), came[0]]:  # done with in any order, one of them twice
        hub.link.ack(message)
    node.link.publish(topic, b"after")

    assert hub.next(Message).payload == b"after"
    assert not any(isinstance(event, Disconnected) for event in hub.heard)
    node.link.close()
    hub.link.drop()


def test_small_messages_and_a_large_one_arrive_whole_and_are_acknowledged_together(broker: Broker) -> None:
    topic = Topics(FLEET).telemetry("m", "c")
    hub, node = Client.of(broker, "hub", session_expiry_seconds=60), Client.of(broker, "node-a")
    hub.open()
    hub.subscribe(topic)
    node.open()
    sent = [b"%d" % number * (number % 7 + 1) for number in range(200)]
    sent[100] = bytes(range(256)) * (BLOCK_BYTES_MAX // 256)  # larger than what is read ahead, between small ones
    for payload in sent:
        node.link.publish(topic, payload)
    came: list[Message] = []
    for _ in range(0, len(sent), 50):
        some = [hub.next(Message) for _ in range(50)]
        hub.link.ack_all(reversed(some))
        came += some

    assert sent == [message.payload for message in came]
    node.link.publish(topic, b"last")
    hub.link.ack(hub.next(Message))
    hub.link.close()
    hub.open()
    node.link.publish(topic, b"later")
    assert hub.next(Message).payload == b"later"  # nothing that was acknowledged comes again
    node.link.close()
    hub.link.drop()


def test_a_connection_holds_when_a_thousand_other_files_are_open(broker: Broker, opened: Callable[..., Client]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1024 + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files, and the case is past 1,024")
    files = list[int]()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        while not files or files[-1] < 1024:
            files.append(os.open(os.devnull, os.O_RDONLY))
        node, hub = opened(broker, "node-a"), opened(broker)
        topic = TOPIC + "block/" + "00" * 32
        node.subscribe(topic)
        for number in range(3):
            hub.link.publish(topic, b"%d" % number)
            assert node.next(Message, seconds=20).payload == b"%d" % number
    finally:
        for one in files:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

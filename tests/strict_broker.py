"""A broker as strict as AWS IoT Core: a proxy before a real one that reads every packet of a client, and ends what breaks a limit.

The limits are those of "AWS IoT Core endpoints and quotas", message broker and protocols; each that was broken is kept in `broken`. Only
what a client sends is looked at: what the broker sends was sent by a client before.
"""

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from schemas.limits import KIB

FILTERS_PER_SUBSCRIBE_MAX = 8
SUBSCRIPTIONS_MAX = 50
PAYLOAD_BYTES_MAX = 128 * KIB
PACKET_BYTES_MAX = 149_504  # What it announces at CONNACK.
TOPIC_BYTES_MAX, SLASHES_MAX = 256, 7
CLIENT_ID_BYTES_MAX = 128
KEEPALIVE_SECONDS = range(30, 1201)
PUBLISHES_PER_SECOND_MAX = 100
BYTES_PER_SECOND_MAX = 512 * KIB
SESSION_SECONDS_MAX = 7 * 24 * 3600
CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE = 1, 3, 8, 10
SUBSCRIPTION_IDENTIFIER = 0x0B


class Broken(Exception):
    """A client has broken a limit."""


@dataclass(slots=True)
class Client:
    """What is known of one connection."""

    name: str = ""
    filters: set[str] = field(default_factory=set)
    published: deque[tuple[float, int]] = field(default_factory=deque)
    most_filters: int = 0

    def packet(self, head: int, body: bytes, now: float) -> None:
        """Judge one packet.

        Raises:
            Broken: it breaks a limit.
        """
        match head >> 4:
            case 1:
                self._connect(body)
            case 3:
                self._publish(head, body, now)
            case 8:
                self._subscribe(body)
            case 10:
                at, _ = _skip_properties(body, 2)
                while at < len(body):
                    name, at = _text(body, at)
                    self.filters.discard(name)
            case _:
                pass

    def _connect(self, body: bytes) -> None:
        _, at = _text(body, 0)
        version, flags = body[at], body[at + 1]
        keepalive = struct.unpack_from(">H", body, at + 2)[0]
        _need(version == 5, f"MQTT version {version}")
        _need((flags >> 3) & 3 <= 1, "a Will of QoS 2")
        _need(keepalive in KEEPALIVE_SECONDS, f"keep alive of {keepalive} s")
        at, _ = _skip_properties(body, at + 4)
        self.name, at = _text(body, at)
        _need(len(self.name.encode()) <= CLIENT_ID_BYTES_MAX, "client id")
        if flags & 4:
            at, _ = _skip_properties(body, at)
            topic, _ = _text(body, at)
            _check_topic(topic)

    def _publish(self, head: int, body: bytes, now: float) -> None:
        _need((head >> 1) & 3 <= 1, "QoS 2")
        topic, at = _text(body, 0)
        _check_topic(topic)
        at, _ = _skip_properties(body, at + 2 if (head >> 1) & 3 else at)
        size = len(body) - at
        _need(size <= PAYLOAD_BYTES_MAX, f"payload of {size} bytes on {topic}")
        while self.published and self.published[0][0] <= now - 1.0:
            self.published.popleft()
        self.published.append((now, size))
        _need(len(self.published) <= PUBLISHES_PER_SECOND_MAX, f"{len(self.published)} publishes in a second")
        moved = sum(one for _, one in self.published)
        _need(moved <= BYTES_PER_SECOND_MAX, f"{moved} bytes in a second")

    def _subscribe(self, body: bytes) -> None:
        at, properties = _skip_properties(body, 2)
        _need(SUBSCRIPTION_IDENTIFIER not in properties[:1], "a subscription identifier")
        named: list[str] = []
        while at < len(body):
            name, at = _text(body, at)
            _check_topic(name)
            _need(body[at] & 3 <= 1, "a subscription of QoS 2")
            named.append(name)
            at += 1
        _need(len(named) <= FILTERS_PER_SUBSCRIBE_MAX, f"{len(named)} filters in one SUBSCRIBE")
        self.filters.update(named)
        self.most_filters = max(self.most_filters, len(self.filters))
        _need(len(self.filters) <= SUBSCRIPTIONS_MAX, f"{len(self.filters)} subscriptions")


class StrictProxy:
    """Between clients and a broker on loopback."""

    def __init__(self, broker_port: int) -> None:
        self.broken: list[str] = []
        self.clients: list[Client] = []
        self._sessions: dict[str, set[str]] = {}  # subscriptions are the session's, and outlive a connection
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._broker_port))
            except OSError:
                return
            self._open += [near, far]
            client = Client()
            self.clients.append(client)
            threading.Thread(target=self._judge, args=(near, far, client), daemon=True).start()
            threading.Thread(target=_carry, args=(far, near), daemon=True).start()

    def _judge(self, near: socket.socket, far: socket.socket, client: Client) -> None:
        try:
            while packet := _packet(near):
                head, whole, body = packet
                if len(whole) > PACKET_BYTES_MAX:
                    raise Broken(f"packet of {len(whole)} bytes")
                client.packet(head, body, time.monotonic())
                if head >> 4 == CONNECT:
                    client.filters = self._sessions.setdefault(client.name, client.filters)
                far.sendall(whole)
        except Broken as broken:
            self.broken.append(f"{client.name}: {broken}")
        except (OSError, IndexError, struct.error):
            pass
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _packet(source: socket.socket) -> tuple[int, bytes, bytes] | None:
    """The next packet: its first byte, all of it, and its body; None at the end."""
    head = source.recv(1)
    if not head:
        return None
    length, shift, digits = 0, 0, b""
    while True:
        digit = source.recv(1)
        if not digit:
            return None
        digits += digit
        length |= (digit[0] & 0x7F) << shift
        shift += 7
        if not digit[0] & 0x80:
            break
    parts: list[bytes] = []
    left = length
    while left:
        data = source.recv(min(left, 1 << 16))
        if not data:
            return None
        parts.append(data)
        left -= len(data)
    body = b"".join(parts)
    return head[0], head + digits + body, body


def _text(body: bytes, at: int) -> tuple[str, int]:
    size = struct.unpack_from(">H", body, at)[0]
    return body[at + 2 : at + 2 + size].decode(), at + 2 + size


def _skip_properties(body: bytes, at: int) -> tuple[int, bytes]:
    """Where the properties end that begin here, and their bytes."""
    length, shift = 0, 0
    while True:
        digit = body[at]
        at += 1
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return at + length, body[at : at + length]


def _check_topic(topic: str) -> None:
    _need(len(topic.encode()) <= TOPIC_BYTES_MAX, f"topic of {len(topic)} bytes")
    _need(topic.count("/") <= SLASHES_MAX, f"topic with {topic.count('/')} slashes")


def _need(is_so: bool, what: str) -> None:
    if not is_so:
        raise Broken(what)

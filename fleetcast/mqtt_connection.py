"""Keep one MQTT 5 connection as this fleet uses it: bounded, acknowledged by hand, loud on its own bugs. Knows no topic and no document.

Messages are handed to an inbox, and nothing is decoded in the network thread: an exception there would end it silently. The owner
reads the inbox, does what the message asks, and only then acknowledges it. The owner also decides when to reconnect, because each CONNECT
carries its own Will.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion, _ConnectionState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fleetcast.absent_modules import absent
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import PACKET_BYTES_MAX

with absent("dns"):  # which paho would load for SRV records, where another program has installed it: 0.07 s of CPU
    import paho.mqtt.client as paho

KEEPALIVE_SECONDS = 60
CONNECT_TIMEOUT_SECONDS = 10
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name.
CONNACK_SECONDS = 30.0  # Over 20 kbit/s with 2 s of delay a connection takes longer than a retry would wait.
GOODBYE_SECONDS = 2.0
PROCESS_PROPERTY, WINDOWS_PROPERTY = "process", "windows"  # User properties that this fleet knows.
PROPERTY_MAX = 64  # Characters; what a stranger sends is cut.
DROPPED = "dropped"  # The reason of a connection that we ended ourselves.
SESSION_TAKEN_OVER = 0x8E  # MQTT 5 reason code of a DISCONNECT: another client has connected with our client id.
INFLIGHT_MAX = 64  # Publishes awaiting PUBACK; paho's 20 halves the rate, and a broker's Receive Maximum lowers it.
QUEUED_MAX = 4096  # Publishes waiting in paho, so that an offline client does not grow without bound.
PUBACK = struct.Struct("!BBH")  # Type, remaining length, packet id.
READ_AHEAD_BYTES = 64 * 1024  # Bytes read from the socket at once: windows are 200 bytes, and paho asks for each in four pieces.


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Hold a broker's address, and the credentials for it."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> "BrokerUrl":
        """Parse `mqtt://[user[:password]@]host[:port]` or `mqtts://...`.

        Raises:
            Refused: it is not such a URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Refused(Code.SETTINGS_INVALID, f"broker {url!r}: {error}") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
            raise Refused(Code.SETTINGS_INVALID, f"broker {url!r} must look like mqtt://host:1883 or mqtts://host:8883")
        tls = parts.scheme == "mqtts"
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, user, password)

    @property
    def is_anonymous(self) -> bool:
        """Return whether the broker knows its clients by neither certificate nor password: by nothing but what they call themselves."""
        return not self.tls and self.username is None

    def client_id(self, name: str, *, fleet: str) -> str:
        """Return the id of a node or a relay: with its fleet's name where nothing else tells it from one of that name in another fleet."""
        return f"{fleet}.{name}" if self.is_anonymous else name

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Hold the paths of the CA that signed the broker's certificate, and of our own certificate and key."""

    ca: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Will:
    """Describe what the broker publishes when our connection is lost."""

    topic: str
    payload: bytes
    delay_seconds: int = 5  # A connection that drops briefly is not lost.


@dataclass(frozen=True, slots=True)
class Connected:
    """Report that the broker accepted us; `session_present` is False when it has forgotten our subscriptions."""

    session_present: bool
    packet_bytes_max: int
    retain_available: bool
    shared_available: bool = True  # Subscriptions that several clients share: `$share/group/filter`.


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Report that the connection ended; nothing more arrives until the next `open`.

    `taken_over`: the broker says that another client has connected with our client id. Not every broker says so (mosquitto 2.0.11 and the
    embedded one close the connection without a word).
    """

    reason: str
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """Hold a PUBLISH that waits for its acknowledgement."""

    topic: str
    payload: bytes
    retained: bool
    mid: int
    qos: int
    epoch: int  # Number of the connection that it came by: an acknowledgement on another one would be a protocol error.
    process: str = ""  # The user property of this name: which process of the sender published it.
    windows: str = ""  # And this one: which windows an empty message asks for.


@dataclass(frozen=True, slots=True)
class Published:
    """Report that the broker has answered a publish: it has taken it, which is not yet delivery, unless a field says otherwise."""

    mid: int
    is_unread: bool = False  # The broker says that nobody has subscribed to the topic: it has thrown the message away.
    refused: str = ""  # Why the broker has not taken it, as MQTT 5 names that (3.4.2.1).


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Report the broker's answer to a SUBSCRIBE; `refused` counts the filters that it denied."""

    mid: int
    refused: int


NO_MATCHING_SUBSCRIBERS: Final = 0x10  # MQTT 5, table 3-4: a broker may say so in a PUBACK, and mosquitto does
LinkEvent = Connected | Disconnected | Message | Published | Subscribed


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Carry a message that could not be parsed, and the reason."""

    refusal: Refused
    message: Message


@dataclass(frozen=True, slots=True)
class Cleared:
    """Carry a zero-length message: no news, and nothing is revoked by it."""

    message: Message


class Inbox(Protocol):
    """Take events; it is called in the network thread, so it must neither wait nor raise."""

    def put(self, event: Any, /) -> None:
        """Take one event."""


class BoundedClient(paho.Client):
    """Change three habits of paho that a broker could use against us, two that cost a hub most of its time (a system
    call for every few bytes read, and three for every acknowledgement), and one that loses it its broker when a thousand files are open.
    """

    _ahead, _ahead_at = b"", 0  # Bytes that were read from the socket and not asked for yet.

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho reads a packet of any announced length; here a length above our bound is refused before memory is reserved for it.
        if bufsize > PACKET_BYTES_MAX:
            raise OSError(f"the broker announced a packet of {bufsize} bytes, at most {PACKET_BYTES_MAX} are allowed")
        if self._ahead_at == len(self._ahead):
            if bufsize >= READ_AHEAD_BYTES:
                return super()._sock_recv(bufsize)
            self._ahead, self._ahead_at = super()._sock_recv(READ_AHEAD_BYTES), 0
        begin = self._ahead_at
        self._ahead_at = min(begin + bufsize, len(self._ahead))
        return self._ahead[begin : self._ahead_at]

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        # paho waits by select(), which takes no descriptor from 1024 on: a connection that got such a number would be lost at once, and the
        # next one, too. The steps are those of paho's own loop.
        sock, wake = self._sock, self._sockpairR
        if sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        ahead = sock.pending() if isinstance(sock, ssl.SSLSocket) else 0
        number, poll = sock.fileno(), select.poll()
        try:
            poll.register(number, select.POLLIN | (select.POLLOUT if self.want_write() else 0))
            if wake is not None:
                poll.register(wake, select.POLLIN)
            found = dict(poll.poll(0 if ahead else 1000 * timeout))
        except (TypeError, ValueError, OSError):  # It was closed meanwhile.
            if self._state not in (_ConnectionState.MQTT_CS_DISCONNECTING, _ConnectionState.MQTT_CS_DISCONNECTED):
                self._state = _ConnectionState.MQTT_CS_CONNECTION_LOST
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        if ahead or found.get(number, 0) & ~select.POLLOUT:
            result = self.loop_read()
            if result or self._sock is None:
                return result
        is_woken = wake is not None and wake.fileno() in found
        if is_woken and wake is not None:
            with contextlib.suppress(BlockingIOError):
                wake.recv(10_000)  # One byte for each call from another thread.
        if is_woken or found.get(number, 0) & select.POLLOUT:
            result = self.loop_write()
            if result or self._sock is None:
                return result
        return self.loop_misc()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Handle all that was read from the socket, and write in between."""
        # The call to select() does not see what was read ahead, so all of it is handled before the next one. A packet that is not whole
        # brings
        # more along, without an end if others send faster than we parse: so after each read from the socket we write.
        ahead = self._ahead
        result = super().loop_read(max_packets)
        while result == MQTTErrorCode.MQTT_ERR_SUCCESS and self._ahead_at < len(self._ahead):
            if self._ahead is not ahead:
                ahead = self._ahead
                result = self._between_reads()
            if result == MQTTErrorCode.MQTT_ERR_SUCCESS:
                result = super().loop_read(max_packets)
        return result

    def _between_reads(self) -> MQTTErrorCode:
        """Do what paho's own loop does between two reads: send acknowledgements and publishes, and keep the connection alive."""
        result = self.loop_write() if self.want_write() else MQTTErrorCode.MQTT_ERR_SUCCESS
        return self.loop_misc() if result == MQTTErrorCode.MQTT_ERR_SUCCESS else result

    def reconnect(self) -> MQTTErrorCode:
        """Connect anew."""
        self._ahead, self._ahead_at = b"", 0  # The bytes read ahead are those of the connection before.
        return super().reconnect()

    def ack_all(self, mids: Sequence[int]) -> None:
        """Send PUBACKs of QoS 1 messages, in this order, in one write (MQTT 3.4: without reason and properties each is four bytes)."""
        packets = b"".join(PUBACK.pack(paho.PUBACK, 2, mid) for mid in mids)
        self._packet_queue(paho.PUBACK, packets, mids[-1], 0)

    def _packet_read(self) -> MQTTErrorCode:
        # paho's parsers raise struct.error, IndexError, UnicodeDecodeError and others at malformed bytes, which would end the network
        # thread
        # without a report to its owner; so such an error ends the connection.
        try:
            return super()._packet_read()
        except Exception:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _send_publish(self, *args: Any, **named: Any) -> MQTTErrorCode:
        # Before CONNACK the broker's limit is unknown: what is published meanwhile waits like what was published before.
        if self._state == _ConnectionState.MQTT_CS_CONNECTING:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        return super()._send_publish(*args, **named)

    def _handle_connack(self) -> MQTTErrorCode:
        # Until the waiting publishes are counted as in flight, another thread's publishes would be sent as if none were.
        with self._out_message_mutex:
            return super()._handle_connack()

    def limit_inflight(self, inflight_max: int) -> None:
        """Keep to the broker's Receive Maximum, also for publishes that waited for this connection: paho would send all of them at once."""
        with self._out_message_mutex:
            self._max_inflight_messages = inflight_max
            waiting = [message for message in self._out_messages.values() if message.state == paho.mqtt_ms_publish]
            for message in waiting[max(0, inflight_max - self._inflight_messages) :]:
                message.state = paho.mqtt_ms_queued


MakeClient = Callable[..., BoundedClient]


class Link:
    """Connect one client to one broker; events go to `inbox`, in order.

    `now` is for a device whose clock may be wrong: it replaces the machine's clock when the broker's certificate is judged. Our own
    certificate is read again at every `open`, because it may have been renewed. `make_client` is another in a simulated fleet, where there
    is no socket.
    """

    def __init__(
        self,
        url: BrokerUrl,
        *,
        client_id: str,
        inbox: Inbox,
        session_expiry_seconds: int,
        receive_max: int = 64,
        tls: TlsFiles | None = None,
        now: Callable[[], float] | None = None,
        make_client: MakeClient = BoundedClient,
    ) -> None:
        if url.tls != (tls is not None):
            wrong = (
                "needs TLS: give the CA, our certificate and its key" if url.tls else "is not TLS, but TLS files are given: say mqtts://"
            )
            raise Refused(Code.SETTINGS_INVALID, f"broker {url} {wrong}")
        self._url, self._tls, self._now = url, tls, now
        self._inbox = inbox
        self._ended = threading.Event()
        self._reopening = self._accepted = False
        self._refusal = ""
        self._session_expiry_seconds = session_expiry_seconds
        self._receive_max = receive_max
        self._epoch = 0
        self._unacked: dict[int, bool] = {}  # Packet id to whether its effect is durable, in the order of arrival.
        self._ack_lock = threading.Lock()
        client = make_client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.max_queued_messages_set(QUEUED_MAX)
        client.connect_timeout = CONNECT_TIMEOUT_SECONDS
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        if url.username:
            client.username_pw_set(url.username, url.password)
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            try:
                self._context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
                self._context.load_cert_chain(tls.certificate, tls.key)
            except (OSError, ssl.SSLError) as error:
                raise Refused(Code.KEY_UNREADABLE, f"TLS files {tls.ca}, {tls.certificate}, {tls.key}: {error}") from error
            if now is not None:
                self._context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
            client.tls_set_context(self._context)
        self._client = client

    def move(self, url: BrokerUrl) -> None:
        """Use another address of the broker from the next `open` on.

        Raises:
            Refused: the new address needs other TLS settings than the present one.
        """
        if url.tls != self._url.tls:
            raise Refused(Code.SETTINGS_INVALID, f"broker {url} needs other TLS settings than {self._url}: restart with them")
        self._url = url

    def rename(self, client_id: str) -> None:
        """Use another client id from the next `open` on: with it the broker keeps another session."""
        self._client._client_id = client_id.encode()

    def open(self, will: Will | None = None, *, clean: bool = False) -> None:
        """Begin one connection; `Connected` or `Disconnected` follows in the inbox. `clean`: the broker's session is ended.

        Raises:
            Unreachable: nothing answers at that address.
        """
        self._reopening = True
        self.drop()
        self._reopening = self._accepted = False
        self._refusal = ""
        if will is not None:
            properties = _properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = will.delay_seconds
            self._client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_expiry_seconds
        properties.ReceiveMaximum = self._receive_max
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        with self._ack_lock:
            self._epoch += 1
            self._unacked.clear()
        self._ended.clear()
        try:
            if self._context is not None and self._tls is not None:
                self._context.load_cert_chain(self._tls.certificate, self._tls.key)
            self._client.connect(
                self._url.host,
                self._url.port,
                keepalive=KEEPALIVE_SECONDS,
                clean_start=clean or self._session_expiry_seconds == 0,
                properties=properties,
            )
        except (OSError, ValueError) as error:  # paho raises ValueError for a TLS context that the peer refuses.
            raise Unreachable(f"broker {self._url}: {error}") from error
        self._client.loop_start()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_seconds: int | None = None,
        content_type: str | None = None,
        process: str = "",
        windows: str = "",
    ) -> int:
        """Queue one QoS 1 publish and return its id, which `Published` will name.

        `process` and `windows` go along as user properties, which readers of an earlier version do not look at.

        Raises:
            Unreachable: too many are waiting already.
        """
        properties = _properties(PacketTypes.PUBLISH)
        if expiry_seconds is not None:
            properties.MessageExpiryInterval = expiry_seconds
        if content_type is not None:
            properties.ContentType = content_type
        if user := [(name, value) for name, value in ((PROCESS_PROPERTY, process), (WINDOWS_PROPERTY, windows)) if value]:
            properties.UserProperty = user
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise Unreachable(f"broker {self._url}: {QUEUED_MAX} publishes wait already")
        return info.mid

    def subscribe(self, filters: Sequence[str], *, no_local: bool = False, only_if_new: bool = False) -> int | None:
        """Send one SUBSCRIBE; None when there is no connection, and the next `Connected` has to subscribe again.

        With `only_if_new` a broker that knows the subscription does not send again what it retains: so it can be sent at every
        connection, whether or not an earlier one received the retained messages.
        """
        handling = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB if only_if_new else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        options = SubscribeOptions(qos=1, noLocal=no_local, retainHandling=handling)
        result, mid = self._client.subscribe([(one, options) for one in filters])
        return mid if result == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Send one UNSUBSCRIBE, if there is a connection."""
        self._client.unsubscribe(list(filters))

    def ack(self, message: Message) -> None:
        """Acknowledge a message, now that its effect is durable; one of an earlier connection, or a second time, needs none.

        The packets leave in the order in which the messages came, as MQTT-4.6.0-2 demands and rumqttd enforces: so the owner may finish
        them in any order.
        """
        self.ack_all([message])

    def ack_all(self, messages: Iterable[Message]) -> None:
        """Acknowledge many at once, now that their effect is durable."""
        with self._ack_lock:
            for message in messages:
                if message.epoch == self._epoch and message.mid in self._unacked:
                    self._unacked[message.mid] = True
            due = list(takewhile(self._unacked.__getitem__, self._unacked))
            for mid in due:
                del self._unacked[mid]
            if due:
                self._client.ack_all(due)

    def drop(self) -> None:
        """End the network thread without a DISCONNECT, so that the broker sends the Will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            # SSLSocket's own shutdown forgets the TLS state first, and the network thread would take ciphertext for a message.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._client.loop_stop()
        if self._accepted and not self._ended.is_set():  # paho's thread was stopped before it had seen the end.
            self._ended.set()
            self._inbox.put(Disconnected(DROPPED))

    def close(self) -> None:
        """Disconnect: the broker keeps the session and sends no Will.

        If it does not take the DISCONNECT in time, the connection is dropped.
        """
        if self._client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._ended.wait(GOODBYE_SECONDS)
        self.drop()

    def _on_socket_open(self, client: paho.Client, userdata: object, sock: Any) -> None:
        """Run after the TLS handshake, before a byte of MQTT, in the thread that opens."""
        _no_delay(sock)
        if self._now is None or not isinstance(sock, ssl.SSLSocket):
            return
        ends = ssl.cert_time_to_seconds(str((sock.getpeercert() or {}).get("notAfter")))
        if ends <= self._now():  # A certificate that is not valid yet shows that the clock lags, and is no reason to doubt the broker.
            raise OSError("the broker's certificate has expired")

    # Network thread: these methods hand over and decide nothing.

    def _on_connect(self, client: paho.Client, userdata: object, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._refusal = str(reason)  # paho calls _on_disconnect next, with "Protocol error" there.
            return
        self._accepted = True
        packet_max = getattr(properties, "MaximumPacketSize", None) or PACKET_BYTES_MAX
        receive_max = getattr(properties, "ReceiveMaximum", None) or INFLIGHT_MAX
        self._client.limit_inflight(min(INFLIGHT_MAX, receive_max))
        retain = getattr(properties, "RetainAvailable", 1) != 0
        shared = getattr(properties, "SharedSubscriptionAvailable", 1) != 0
        self._inbox.put(Connected(flags.session_present, min(packet_max, PACKET_BYTES_MAX), retain, shared))

    def _on_disconnect(self, client: paho.Client, userdata: object, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        self._ended.set()
        if self._accepted or not self._reopening:  # Otherwise it would be taken for the end of the connection that has just begun.
            self._inbox.put(Disconnected(self._refusal or str(reason), taken_over=reason.value == SESSION_TAKEN_OVER))

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        if message.qos:
            with self._ack_lock:
                self._unacked[message.mid] = False
        user = getattr(message.properties, "UserProperty", ())
        process, windows = (_property(user, name) for name in (PROCESS_PROPERTY, WINDOWS_PROPERTY))
        self._inbox.put(
            Message(message.topic, bytes(message.payload), message.retain, message.mid, message.qos, self._epoch, process, windows)
        )

    def _on_publish(self, client: paho.Client, userdata: object, mid: int, reason: ReasonCode, properties: Properties) -> None:
        self._inbox.put(Published(mid, reason.value == NO_MATCHING_SUBSCRIBERS, str(reason) if reason.is_failure else ""))

    def _on_subscribe(
        self, client: paho.Client, userdata: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        self._inbox.put(Subscribed(mid, sum(reason.is_failure for reason in reasons)))


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho left this one constructor without types


def _property(user: Iterable[tuple[str, str]], name: str) -> str:
    return next((value for found, value in user if found == name), "")[:PROPERTY_MAX]


def _no_delay(sock: Any) -> None:
    # Nagle's algorithm and delayed acknowledgements together cost a factor of 20 on small windows.
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

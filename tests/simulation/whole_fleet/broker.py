"""An MQTT 5 broker in memory, and a stand-in for paho's client, as far as the real `Link` above it calls one.

What is kept of the standard: sessions that outlive connections, clean start, retained messages and how a subscription asks for them, the
Will and its delay, QoS 1 with redelivery of what was not acknowledged, the order of a connection, Receive Maximum, expiry of messages and
sessions, No Local, take-over of a session with reason 0x8E. What a real one may do besides: lose its memory, and every connection.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from tests.simulation.whole_fleet.world import World

QUEUED_MAX = 65_535  # of one session that nobody reads
PACKET_BYTES_MAX = 268_435_455
SUCCESS = ReasonCode(PacketTypes.CONNACK, "Success")
GRANTED = ReasonCode(PacketTypes.SUBACK, "Granted QoS 1")
TAKEN_OVER = ReasonCode(PacketTypes.DISCONNECT, "Session taken over")
UNSPECIFIED = ReasonCode(PacketTypes.DISCONNECT, "Unspecified error")
NORMAL = ReasonCode(PacketTypes.DISCONNECT, "Normal disconnection")
PUBACK = ReasonCode(PacketTypes.PUBACK, "Success")


@dataclass(frozen=True, slots=True)
class Packet:
    topic: str
    payload: bytes
    retain: bool
    expires_at: float | None
    sender: str
    user: tuple[tuple[str, str], ...] = ()  # properties that pass through


@dataclass(slots=True)
class Subscription:
    no_local: bool


@dataclass(eq=False, slots=True)
class Session:
    """What the broker keeps of a client."""

    client: str
    expiry_seconds: float
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    waiting: deque[tuple[Packet, bool]] = field(default_factory=deque)  # with the retain flag that the client sees
    inflight: dict[int, tuple[Packet, bool]] = field(default_factory=dict)
    number: int = 0
    connection: "SimClient | None" = None
    ended: int = 0  # connections so far: what was planned at the end of an older one is off


def matches(pattern: str, topic: str) -> bool:
    if pattern == topic:
        return True
    if "+" not in pattern and "#" not in pattern:
        return False
    wanted, found = pattern.split("/"), topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(found) or level not in ("+", found[at]):
            return False
    return len(wanted) == len(found)


class Broker:
    """One broker. `counts` are its messages by client and kind, for the bound on storms.

    In every other seed it is `is_sparing`, as rumqttd is: what it retains it gives to no subscription that it knows, however
    asked, and a client whose session another one takes over is not told why.
    """

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.random("broker")
        self.retained: dict[str, Packet] = {}
        self.sessions: dict[str, Session] = {}
        self.up = True
        self.is_sparing = world.seed % 2 == 1
        self.counts: Counter[tuple[str, str]] = Counter()

    # What a client does

    def connect(self, client: "SimClient", *, clean: bool) -> bool:
        """Return whether a session was there."""
        self.counts[client.client_id, "connect"] += 1
        session = self.sessions.get(client.client_id)
        if session is not None and session.connection is not None:
            # Of a client that has dropped its connection itself nothing is left that could hear of the end.
            heard = session.connection is not client
            self._lost(session, (UNSPECIFIED if self.is_sparing else TAKEN_OVER) if heard else None, will=clean)
        present = session is not None and not clean
        if session is None or clean:
            session = self.sessions[client.client_id] = Session(client.client_id, 0.0)
        session.connection, session.expiry_seconds = client, client.expiry_seconds
        session.ended += 1
        for mid, (packet, retain) in list(session.inflight.items()):
            client.deliver(mid, packet, retain)
        self._flush(session)
        return present

    def publish(self, packet: Packet) -> None:
        kind = "presence" if packet.topic.endswith("/hub") else packet.topic.split("/")[2]
        self.counts[packet.sender, kind] += 1
        if packet.retain:
            if packet.payload:
                self.retained[packet.topic] = packet
            else:
                self.retained.pop(packet.topic, None)
        for session in list(self.sessions.values()):
            for pattern, subscription in session.subscriptions.items():
                if matches(pattern, packet.topic) and not (subscription.no_local and session.client == packet.sender):
                    self._queue(session, packet, retain=False)
                    break

    def subscribe(self, client: "SimClient", filters: Sequence[tuple[str, Any]]) -> None:
        session = self._session_of(client)
        if session is None:
            return
        self.counts[client.client_id, "subscribe"] += 1
        for pattern, options in filters:
            known = pattern in session.subscriptions
            session.subscriptions[pattern] = Subscription(bool(options.noLocal))
            if options.retainHandling == 2 or (known and (options.retainHandling == 1 or self.is_sparing)):
                continue
            for topic in list(self.retained):
                if matches(pattern, topic):
                    self._queue(session, self.retained[topic], retain=True)

    def unsubscribe(self, client: "SimClient", filters: Sequence[str]) -> None:
        session = self._session_of(client)
        for pattern in filters if session is not None else ():
            session.subscriptions.pop(pattern, None)  # type: ignore[union-attr]

    def acked(self, client: "SimClient", mid: int) -> None:
        session = self._session_of(client)
        if session is not None:
            session.inflight.pop(mid, None)
            self._flush(session)

    def gone(self, client: "SimClient", *, polite: bool) -> None:
        """Take in that a connection ended, as the broker sees it."""
        session = self._session_of(client)
        if session is not None:
            self._lost(session, None, will=not polite)

    # What happens to it

    def cut(self, client_id: str) -> None:
        """The network between it and one client breaks for a moment."""
        session = self.sessions.get(client_id)
        if session is not None and session.connection is not None:
            self._lost(session, UNSPECIFIED, will=True)

    def lose_session(self, client_id: str) -> None:
        """Forget one client's session, with what waits in it: messages for it are acknowledged to their senders, and lost."""
        self.cut(client_id)
        self.sessions.pop(client_id, None)

    def stop(self, *, forget: bool) -> None:
        """End: every connection is lost, and its memory, if it has none on disk."""
        self.up = False
        for session in list(self.sessions.values()):
            if session.connection is not None:
                self._lost(session, UNSPECIFIED, will=not forget)
        if forget:
            self.retained.clear()
            self.sessions.clear()

    def start(self) -> None:
        self.up = True

    # How

    def _session_of(self, client: "SimClient") -> Session | None:
        session = self.sessions.get(client.client_id)
        return session if session is not None and session.connection is client else None

    def _queue(self, session: Session, packet: Packet, *, retain: bool) -> None:
        if len(session.waiting) < QUEUED_MAX:
            session.waiting.append((packet, retain))
        self._flush(session)

    def _flush(self, session: Session) -> None:
        client = session.connection
        if client is None:
            return
        while session.waiting and len(session.inflight) < client.receive_max:
            packet, retain = session.waiting.popleft()
            if packet.expires_at is not None and packet.expires_at <= self.world.now:
                continue
            session.number = session.number % 65_535 + 1
            session.inflight[session.number] = (packet, retain)
            client.deliver(session.number, packet, retain)

    def _lost(self, session: Session, reason: ReasonCode | None, *, will: bool) -> None:
        client, session.connection = session.connection, None
        session.ended += 1
        ended, said = session.ended, client.will if client is not None else None
        if client is not None and reason is not None:
            client.ended(reason)
        if will and said is not None:
            self.world.after(client.will_delay if client is not None else 0.0, lambda: self._will(session, said, ended))
        self.world.after(session.expiry_seconds, lambda: self._expire(session, ended))

    def _will(self, session: Session, will: Packet, ended: int) -> None:
        if session.ended == ended and self.up:
            self.publish(will)

    def _expire(self, session: Session, ended: int) -> None:
        if session.ended == ended and self.sessions.get(session.client) is session:
            del self.sessions[session.client]


@dataclass(slots=True)
class Road:
    """Between one machine and the broker. A packet takes a while, and never overtakes another one."""

    slowest_seconds: float = 0.05
    broken: bool = False


class SimClient:
    """What `Link` knows of paho: publishes wait for their acknowledgement over connections, acknowledgements are sent by hand."""

    def __init__(self, broker: Broker, road: Road, client_id: str) -> None:
        self.broker, self.road, self.client_id = broker, road, client_id
        self.world = broker.world
        self.rng = broker.world.random(f"client {client_id} {broker.counts[client_id, 'client']}")
        broker.counts[client_id, "client"] += 1
        self.connected = self.accepted = False
        self.epoch = 0
        self.mid = 0
        self.unacked: dict[int, Packet] = {}
        self.unsent: deque[int] = deque()
        self.under_way: deque[Callable[[], None]] = deque()  # from here to the broker
        self.will: Packet | None = None
        self.will_delay = 0.0
        self.expiry_seconds, self.receive_max, self.inflight_max = 0.0, 64, 64
        self.up_at = self.down_at = 0.0
        self.on_connect: Callable[..., None] = _nothing
        self.on_disconnect: Callable[..., None] = _nothing
        self.on_message: Callable[..., None] = _nothing
        self.on_publish: Callable[..., None] = _nothing
        self.on_subscribe: Callable[..., None] = _nothing
        self.on_socket_open: Callable[..., None] = _nothing
        self.connect_timeout = 0.0

    # What `Link` calls

    def max_inflight_messages_set(self, inflight_max: int) -> None:
        self.inflight_max = inflight_max

    def max_queued_messages_set(self, queued_max: int) -> None:
        self.queued_max = queued_max

    def limit_inflight(self, inflight_max: int) -> None:
        self.inflight_max = inflight_max

    def socket(self) -> None:
        return None

    def loop_start(self) -> None:
        pass

    def will_set(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Any) -> None:
        self.will, self.will_delay = Packet(topic, payload, retain, None, self.client_id, _user(properties)), properties.WillDelayInterval

    def connect(self, host: str, port: int, *, keepalive: int, clean_start: bool, properties: Any) -> None:
        if self.road.broken or not self.broker.up:
            raise ConnectionRefusedError(111, "Connection refused")
        self.epoch += 1
        self.connected, self.accepted = True, False
        self.under_way.clear()
        self.expiry_seconds, self.receive_max = float(properties.SessionExpiryInterval), properties.ReceiveMaximum
        self.up_at = self.down_at = self.world.now
        self._up(lambda: self._accept(clean=clean_start))

    def loop_stop(self) -> None:
        """End the connection without a word; the broker notices after a while."""
        self.vanish()

    def disconnect(self) -> MQTTErrorCode:
        if not self.connected:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        while self.under_way and self.broker.up:  # it is in the socket before the DISCONNECT
            self.under_way.popleft()()
        if not self.connected:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        self.connected = self.accepted = False
        self.epoch += 1
        self.broker.gone(self, polite=True)
        self.on_disconnect(self, None, None, NORMAL, None)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Any) -> SimpleNamespace:
        if len(self.unacked) >= self.queued_max:
            return SimpleNamespace(rc=MQTTErrorCode.MQTT_ERR_QUEUE_SIZE, mid=0)
        expiry = getattr(properties, "MessageExpiryInterval", None)
        self.mid += 1
        until, user = None if expiry is None else self.world.now + expiry, _user(properties)
        packet = Packet(topic, bytes(payload), retain, until, self.client_id, user)
        self.unacked[self.mid] = packet
        self.unsent.append(self.mid)
        self._send()
        return SimpleNamespace(rc=MQTTErrorCode.MQTT_ERR_SUCCESS, mid=self.mid)

    def subscribe(self, filters: Sequence[tuple[str, Any]]) -> tuple[MQTTErrorCode, int | None]:
        if not self.accepted:
            return MQTTErrorCode.MQTT_ERR_NO_CONN, None
        self.mid += 1
        mid, count = self.mid, len(filters)

        def arrive() -> None:
            self._down(lambda: self.on_subscribe(self, None, mid, [GRANTED] * count, None))  # SUBACK comes before what is retained
            self.broker.subscribe(self, filters)

        self._up(arrive)
        return MQTTErrorCode.MQTT_ERR_SUCCESS, mid

    def unsubscribe(self, filters: Sequence[str]) -> None:
        if self.accepted:
            self._up(lambda: self.broker.unsubscribe(self, filters))

    def ack_all(self, mids: Sequence[int]) -> None:
        for mid in mids if self.accepted else ():
            self._up(lambda mid=mid: self.broker.acked(self, mid))  # type: ignore[misc]

    # What the broker calls

    def deliver(self, mid: int, packet: Packet, retain: bool) -> None:
        properties = SimpleNamespace(**({"UserProperty": list(packet.user)} if packet.user else {}))
        message = SimpleNamespace(topic=packet.topic, payload=packet.payload, retain=retain, mid=mid, qos=1, properties=properties)
        self._down(lambda: self.on_message(self, None, message))

    def ended(self, reason: ReasonCode) -> None:
        """The broker, or the network, ended the connection."""
        if self.connected:
            self.connected = self.accepted = False
            self.epoch += 1
            self.world.after(self._late(), lambda epoch=self.epoch: self._told(reason, epoch))  # type: ignore[misc]

    def _told(self, reason: ReasonCode, epoch: int) -> None:
        if self.epoch == epoch:
            self.on_disconnect(self, None, None, reason, None)

    def vanish(self) -> None:
        """The process is gone: nothing of it is called any more."""
        if not self.connected:
            return
        for _ in range(self.rng.randint(0, len(self.under_way)) if self.broker.up and not self.road.broken else 0):
            self.under_way.popleft()()  # what the kernel had taken arrives all the same
        self.connected = self.accepted = False
        self.epoch += 1
        ended = self.epoch
        self.world.after(self._late(), lambda: self.broker.gone(self, polite=False) if self.epoch == ended else None)

    # How

    def _accept(self, *, clean: bool) -> None:
        def accepted() -> None:
            self.accepted = True
            flags, properties = SimpleNamespace(session_present=present), SimpleNamespace(RetainAvailable=1)
            self.on_connect(self, None, flags, SUCCESS, properties)
            self.unsent = deque(self.unacked)  # with DUP: the broker may have taken them already
            self._send()

        if not self.broker.up:
            self.ended(UNSPECIFIED)
            return
        session = self.broker.sessions.get(self.client_id)
        present = session is not None and not clean
        self._down(accepted)
        self.broker.connect(self, clean=clean)

    def _send(self) -> None:
        while self.accepted and self.unsent and len(self.unacked) - len(self.unsent) < self.inflight_max:
            mid = self.unsent.popleft()
            packet = self.unacked[mid]
            if packet.expires_at is not None and packet.expires_at <= self.world.now:
                del self.unacked[mid]
                continue
            self._up(lambda mid=mid, packet=packet: self._arrive(mid, packet))  # type: ignore[misc]

    def _arrive(self, mid: int, packet: Packet) -> None:
        self.broker.publish(packet)
        self._down(lambda: self._taken(mid))

    def _taken(self, mid: int) -> None:
        if self.unacked.pop(mid, None) is not None:
            self.on_publish(self, None, mid, PUBACK, None)
        self._send()

    def _late(self) -> float:
        return self.rng.uniform(0.001, self.road.slowest_seconds)

    def _up(self, do: Callable[[], None]) -> None:
        """Have the broker see this after a while, in order, unless the connection ends before."""
        self.up_at = max(self.up_at, self.world.now + self._late())
        self.under_way.append(do)
        self.world.at(self.up_at, lambda epoch=self.epoch: self._arrives(epoch))  # type: ignore[misc]

    def _arrives(self, epoch: int) -> None:
        if self.epoch == epoch and self.under_way:
            do = self.under_way.popleft()
            if self.broker.up:
                do()

    def _down(self, do: Callable[[], None]) -> None:
        epoch = self.epoch
        self.down_at = max(self.down_at, self.world.now + self._late())
        self.world.at(self.down_at, lambda: do() if self.epoch == epoch else None)


def _nothing(*arguments: object) -> None:
    pass


def _user(properties: Any) -> tuple[tuple[str, str], ...]:
    return tuple(getattr(properties, "UserProperty", ()))

"""Sends and receives documents over the hub's connection: parses at the door, so that nothing inside sees a topic string or raw bytes."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from fleetcast.block_publisher import BlockPublisher
from fleetcast.mqtt_connection import (
    BoundedClient,
    BrokerUrl,
    Cleared,
    Connected,
    Disconnected,
    Inbox,
    Link,
    LinkEvent,
    MakeClient,
    Message,
    Published,
    Subscribed,
    TlsFiles,
    Unreadable,
)
from schemas import codec
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.block_request import Want
from schemas.deployments import Envelope
from schemas.errors import Code, Refused, mismatch
from schemas.names import check_name
from schemas.receipt import SealedReceipt
from schemas.state import State
from schemas.topics import Address, Topics
from schemas.window import Window
from schemas.window_request import WindowRequest

SESSION_EXPIRY_SECONDS = 24 * 3600  # receipts and windows wait at the broker for a hub that is away for a day
RECEIVE_MAX = 2048  # unacknowledged messages to us: two batches of windows, one on its way while the other is made durable
OWN_KINDS = ("trust-roles", "trust-time", "model", "deploy", "deployed", "trust")  # In the order in which they are published.
NODE_KINDS = ("want", "state", "receipt", "telemetry")  # What nodes say to the hub.
SHARE_GROUP = "fleetcast"
ASK_EXPIRY_SECONDS = 3600  # A request for receipts is not worth more: the hub repeats it while it lacks them.
ASK_WINDOWS_EXPIRY_SECONDS = 60  # A request for windows counts seconds back from when it is read; it is repeated, too.
MSGPACK, JSON = "application/msgpack", "application/json"


@dataclass(frozen=True, slots=True)
class WantArrived:
    """Carry a node's request."""

    node: str
    want: Want
    message: Message


@dataclass(frozen=True, slots=True)
class StateArrived:
    """Carry a node's report of itself, or its Will."""

    state: State
    message: Message


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    """Carry a receipt whose signature is not checked yet."""

    node: str
    sealed: SealedReceipt
    message: Message


@dataclass(frozen=True, slots=True)
class WindowArrived:
    """Carry a window. It names no node."""

    model: str
    cohort: str
    window: Window
    message: Message


@dataclass(frozen=True, slots=True)
class OwnTopic:
    """Carry a message on a topic that only the hub should write; `model` is None where it names none. Not decoded."""

    kind: str  # As schemas/topics.py names it.
    model: str | None
    message: Message


@dataclass(frozen=True, slots=True)
class PresenceArrived:
    """Carry what a hub says of itself, whose signature is not checked yet."""

    envelope: Envelope
    message: Message


HubEvent = (
    Connected
    | Disconnected
    | Published
    | Subscribed
    | WantArrived
    | StateArrived
    | ReceiptArrived
    | WindowArrived
    | OwnTopic
    | PresenceArrived
    | Unreadable
    | Cleared
)


class HubLink(BlockPublisher):
    """Speak on the hub's connection to its broker."""

    def __init__(
        self,
        url: str,
        *,
        fleet: str,
        inbox: Inbox,
        tls: TlsFiles | None,
        make_client: MakeClient = BoundedClient,
        client_id: str = "hub",
        may_announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Make it; `may_announce` raises where this process may not say anything for the fleet any more."""
        self.topics, self._may_announce = Topics(fleet), may_announce
        self._link = Link(
            BrokerUrl.parse(url),
            client_id=client_id,
            inbox=inbox,
            session_expiry_seconds=SESSION_EXPIRY_SECONDS,
            receive_max=RECEIVE_MAX,
            tls=tls,
            make_client=make_client,
        )

    def open(self) -> None:
        """Begin a connection.

        Raises:
            Unreachable: nothing answers.
        """
        self._link.open()

    def rename(self, client_id: str) -> None:
        """Be another client of the broker from the next connection on."""
        self._link.rename(client_id)

    def drop(self) -> None:
        """End the connection, so that what was not acknowledged comes again."""
        self._link.drop()

    def close(self) -> None:
        """Leave politely."""
        self._link.close()

    def subscribe(self, kinds: Collection[str] = NODE_KINDS, *, shared: Collection[str] = (), guards: bool = True) -> int:
        """Subscribe to these kinds of what nodes say, and, as a guard, to what only the hub may say.

        Of a `shared` kind each message comes to one of the processes that subscribe to it. A `Subscribed` follows for each of the returned
        number.
        """
        for kind in kinds:
            self._link.subscribe([self._filter(kind, shared)])
        if guards:
            self._link.subscribe([self.topics.filter(kind) for kind in (*OWN_KINDS, "hub")], no_local=True)
        return len(kinds) + guards

    def leave_shared(self, kinds: Collection[str]) -> None:
        """Have no more of these shared kinds come to this process, so that others get all of them."""
        self._link.unsubscribe([self._filter(kind, kinds) for kind in kinds])

    def leave_session(self) -> None:
        """Have nothing more of this fleet come into the present session, and end the connection: another client uses that session, too."""
        plain = [self.topics.filter(kind) for kind in (*NODE_KINDS, *OWN_KINDS, "hub")]
        self._link.unsubscribe([*plain, *(self._filter(kind, NODE_KINDS) for kind in NODE_KINDS)])
        self._link.close()

    def _filter(self, kind: str, shared: Collection[str]) -> str:
        plain = self.topics.filter(kind)
        return f"$share/{SHARE_GROUP}-{kind}/{plain}" if kind in shared else plain

    def retain(self, topic: str, payload: bytes) -> None:
        """Retain an encoded bundle on one of the hub's own topics."""
        self._may_announce()
        self._link.publish(topic, payload, retain=True, content_type=MSGPACK)

    def retain_settings(self, node: str, envelope: bytes) -> None:
        """Retain a node's signed settings for it; nothing takes them out of the broker's memory."""
        self._may_announce()
        self._link.publish(self.topics.settings(node), envelope, retain=True, content_type=MSGPACK)

    def retain_presence(self, envelope: bytes) -> None:
        """Retain that this hub runs, signed; empty: it runs no more."""
        self._link.publish(self.topics.hub, envelope, retain=True, content_type=MSGPACK)

    def ask_for_receipts(self, node: str) -> None:
        """Ask a node to sign its receipts once more: by an empty message on its settings' topic, which older nodes acknowledge only."""
        self._link.publish(self.topics.settings(node), b"", expiry_seconds=ASK_EXPIRY_SECONDS)

    def ask_for_windows(self, node: str, request: WindowRequest) -> None:
        """Ask a node to send windows once more: by the same empty message with a property; older nodes sign their receipts again."""
        self._link.publish(self.topics.settings(node), b"", expiry_seconds=ASK_WINDOWS_EXPIRY_SECONDS, windows=str(request))

    def clear_state(self, node: str) -> None:
        """Take a forgotten node's state out of the broker's memory."""
        self._link.publish(self.topics.state(node), b"", retain=True)

    def publish_insight(self, document: MergedWindow | Drift | Alert, *, retain: bool = False) -> None:
        """Publish JSON for analytics consumers."""
        match document:
            case Alert():
                topic = self.topics.alert
            case Drift():
                topic = self.topics.drift(document.model)
            case MergedWindow():
                topic = self.topics.windows(document.model)
        self._link.publish(topic, document.model_dump_json(exclude_none=True).encode(), retain=retain, content_type=JSON)

    def ack(self, message: Message) -> None:
        """Acknowledge a message whose effect is durable."""
        self._link.ack(message)

    def ack_all(self, messages: Iterable[Message]) -> None:
        """Acknowledge messages whose effects are all durable."""
        self._link.ack_all(messages)

    def parse(self, event: LinkEvent) -> HubEvent:
        """Parse an event into documents."""
        if not isinstance(event, Message):
            return event
        try:
            return self._parse(event)
        except Refused as refusal:
            return Unreadable(refusal, event)

    def _parse(self, event: Message) -> HubEvent:
        address = self.topics.parse(event.topic)
        if address.kind in OWN_KINDS:
            return OwnTopic(address.kind, address.levels[0] if address.levels else None, event)
        if not event.payload:
            return Cleared(event)
        if address.kind == "hub":
            return PresenceArrived(codec.decode(Envelope, event.payload), event)
        return _of_node(address, event)


def _of_node(address: Address, event: Message) -> HubEvent:
    match address.kind:
        case "want":
            return WantArrived(check_name("node", address.levels[0]), codec.decode(Want, event.payload), event)
        case "state":
            state = codec.decode(State, event.payload)
            if state.node != address.levels[0]:
                raise mismatch(Code.SCHEMA_MALFORMED, "node of a state", expected=address.levels[0], actual=state.node)
            return StateArrived(state, event)
        case "receipt":
            return ReceiptArrived(address.levels[0], codec.decode(SealedReceipt, event.payload), event)
        case "telemetry":
            return WindowArrived(address.levels[0], address.levels[1], codec.decode(Window, event.payload), event)
        case _:
            raise Refused(Code.SCHEMA_MALFORMED, f"the hub does not read {address.kind!r} topics")

"""Publish and receive documents on the node's connection: parse at the door, so that nobody inside sees a topic string or raw bytes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

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
    Will,
)
from schemas import codec
from schemas.block_request import Want
from schemas.bundle import ModelBundle, TrustBundle, TrustRoles, TrustTime
from schemas.deployment_index import DeploymentIndex
from schemas.deployments import Envelope
from schemas.disclosure import leaving
from schemas.errors import Code, Refused
from schemas.names import check_name
from schemas.state import State
from schemas.topics import Address, Topics, block_digest
from schemas.window_request import WindowRequest

SESSION_EXPIRY_SECONDS = 600  # the broker holds blocks for us over a short drop; a longer one is healed by asking again
WANT_EXPIRY_SECONDS = 60
MSGPACK = "application/msgpack"


@dataclass(frozen=True, slots=True)
class TrustArrived:
    """Carry a trust bundle, not verified."""

    bundle: TrustBundle
    message: Message


@dataclass(frozen=True, slots=True)
class ModelArrived:
    """Carry a model bundle, not verified."""

    bundle: ModelBundle
    message: Message


@dataclass(frozen=True, slots=True)
class TimeArrived:
    """Carry a timestamp alone, not verified."""

    time: TrustTime
    message: Message


@dataclass(frozen=True, slots=True)
class RolesArrived:
    """Carry roles without rollouts, not verified."""

    roles: TrustRoles
    message: Message


@dataclass(frozen=True, slots=True)
class IndexArrived:
    """Carry the index of deployments, which nobody signs."""

    index: DeploymentIndex
    message: Message


@dataclass(frozen=True, slots=True)
class DeploymentsArrived:
    """Carry what came on a model's topic of deployments, not verified."""

    model: str
    envelope: Envelope
    message: Message


@dataclass(frozen=True, slots=True)
class SettingsArrived:
    """Carry what came on this node's topic of settings, not verified."""

    envelope: Envelope
    message: Message


@dataclass(frozen=True, slots=True)
class ReceiptsAsked:
    """Carry the hub's request for receipts that it lacks: an empty message on this node's topic of settings."""

    message: Message


@dataclass(frozen=True, slots=True)
class WindowsAsked:
    """Carry the hub's request for windows that a broker may have lost: the same empty message, with a property."""

    request: WindowRequest
    message: Message


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """Carry a payload on a block topic, not verified."""

    digest: bytes
    message: Message


ConnectionEvent = Connected | Disconnected | Published | Subscribed
StatementEvent = TimeArrived | RolesArrived | IndexArrived | DeploymentsArrived
DocumentEvent = (
    TrustArrived | ModelArrived | StatementEvent | SettingsArrived | ReceiptsAsked | WindowsAsked | Unreadable | Cleared
)  # Each carries one message, which is acknowledged once handled.
NodeEvent = ConnectionEvent | DocumentEvent | BlockArrived


def model_bundle(address: Address, payload: bytes) -> ModelBundle:
    """Return the bundle on a model's topic.

    Raises:
        Refused: malformed, or another model's.
    """
    bundle = codec.decode(ModelBundle, payload)
    if bundle.model != address.levels[0]:
        raise Refused(Code.SCHEMA_MALFORMED, f"topic of model {address.levels[0]!r} carries model {bundle.model!r}")
    return bundle


class BlockReader:
    """Ask for blocks on a connection: what a node has in common with a relay."""

    def __init__(self, link: Link, *, fleet: str, name: str) -> None:
        self.topics = Topics(fleet)
        self._link, self._name = link, name
        self._asked: dict[int, str] = {}  # Topics by the id of the SUBSCRIBE that awaits its answer.
        self.ended: dict[str, int] = {}  # Topics that are to be read again after a while, each with the number of its end.
        self._ends = count()

    def close(self) -> None:
        """Leave politely."""
        self._link.close()

    def subscribe_trust(self, *, only_if_new: bool) -> None:
        """Ask for the trust bundle."""
        self.read([self.topics.trust], only_if_new=only_if_new)

    def read(self, topics: Sequence[str], *, only_if_new: bool = False) -> int | None:
        """Subscribe to exact topics, one SUBSCRIBE each; `Subscribed` with the returned id follows for the last of them."""
        mid = None
        for topic in topics:
            mid = self._link.subscribe([topic], only_if_new=only_if_new)
            self.ended.pop(topic, None)
            if mid is not None:
                self._asked[mid] = topic
        return mid

    def answered(self, mid: int) -> str | None:
        """Return the topic that the broker's answer to a SUBSCRIBE is about, once; None where it is about blocks."""
        return self._asked.pop(mid, None)

    def leave(self, topics: Sequence[str]) -> None:
        """End subscriptions."""
        for topic in topics:
            self.ended.pop(topic, None)
        if topics:
            self._link.unsubscribe(topics)

    def subscribe_models(self, models: Sequence[str], *, only_if_new: bool = False) -> None:
        """Ask for these models' roles and manifests: exact topics, for not every broker gives what it retains to a wildcard."""
        self.read([self.topics.model(model) for model in models], only_if_new=only_if_new)

    def subscribe_blocks(self, digests: Sequence[bytes], *, only_if_new: bool = False) -> int | None:
        """Ask for exact block topics; `Subscribed` with the returned id follows."""
        return self._link.subscribe([self.topics.block(digest) for digest in digests], only_if_new=only_if_new)

    def unsubscribe_blocks(self, digests: Sequence[bytes]) -> None:
        """Leave block topics."""
        self._link.unsubscribe([self.topics.block(digest) for digest in digests])

    def want(self, want: Want) -> None:
        """Ask for blocks; a want that waited too long is worth nothing.

        Raises:
            Unreachable: too much waits already.
        """
        self._link.publish(self.topics.want(self._name), codec.encode(want), expiry_seconds=WANT_EXPIRY_SECONDS, content_type=MSGPACK)

    def model_of(self, topic: str) -> str:
        """Return the model that a topic is about; "" if it is about none."""
        with suppress(Refused):
            address = self.topics.parse(topic)
            return address.levels[0] if address.kind == "model" else ""
        return ""

    def ack(self, message: Message) -> None:
        """Acknowledge a message whose effect is durable."""
        self._link.ack(message)


class NodeLink(BlockReader):
    """Speak on one node's connection to its broker."""

    def __init__(
        self,
        url: str,
        *,
        fleet: str,
        node: str,
        inbox: Inbox,
        tls: TlsFiles | None,
        now: Callable[[], float] | None = None,
        make_client: MakeClient = BoundedClient,
        process: str = "",
    ) -> None:
        self._process, at = process, BrokerUrl.parse(url)
        self.client_id = at.client_id(node, fleet=fleet)
        link = Link(
            at,
            client_id=self.client_id,
            inbox=inbox,
            session_expiry_seconds=SESSION_EXPIRY_SECONDS,
            tls=tls,
            now=now,
            make_client=make_client,
        )
        super().__init__(link, fleet=fleet, name=node)

    def open(self, *, session: int, at: int, clean: bool = False) -> None:
        """Begin a connection whose Will says that this session is lost; `clean`: the broker forgets what it kept for us.

        Raises:
            Unreachable: nothing answers.
        """
        self._asked.clear()
        self.ended.clear()
        lost = State(node=self._name, session=session, status="lost", at=at)
        self._link.open(Will(self.topics.state(self._name), codec.encode(lost)), clean=clean)

    def move(self, url: str) -> None:
        """Go to another broker from the next `open` on.

        Raises:
            Refused: no such URL, or another kind of connection.
        """
        self._link.move(BrokerUrl.parse(url))

    def subscribe_again(self, topics: Sequence[str]) -> None:
        """Ask for what is retained there; some brokers give it to no subscription that they know already, so that is ended first.

        `Resubscriptions` begins it a moment later.
        """
        self.leave(topics)
        self.ended.update((topic, next(self._ends)) for topic in topics)

    @property
    def settings_topic(self) -> str:
        """Return the topic of this node's settings."""
        return self.topics.settings(self._name)

    def subscribe_settings(self, *, only_if_new: bool) -> None:
        """Ask for this node's own settings."""
        self.read([self.settings_topic], only_if_new=only_if_new)

    def is_settings(self, topic: str) -> bool:
        """Return whether a topic is that of this node's settings."""
        return topic == self.settings_topic

    def publish_state(self, state: State) -> None:
        """Retain what is so. It names our process, so that the hub can tell two devices with one name apart."""
        topic = self.topics.state(self._name)
        self._link.publish(topic, codec.encode(leaving(state)), retain=True, content_type=MSGPACK, process=self._process)

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish an encoded document that waits in the outbox; `Published` with the returned id follows."""
        return self._link.publish(topic, payload, content_type=MSGPACK)

    def parse(self, event: LinkEvent) -> NodeEvent:
        """Return the event as documents."""
        if not isinstance(event, Message):
            return event
        if event.payload:
            return self._parse(event)
        if not self.is_settings(event.topic):
            return Cleared(event)
        if not event.windows:
            return ReceiptsAsked(event)
        try:
            return WindowsAsked(WindowRequest.parse(event.windows), event)
        except Refused:  # A newer hub may ask in another way: nothing is wrong with this node.
            return Cleared(event)

    def _parse(self, event: Message) -> DocumentEvent | BlockArrived:
        try:
            if self.is_settings(event.topic):
                return SettingsArrived(codec.decode(Envelope, event.payload), event)
            address = self.topics.parse(event.topic)
            if address.kind == "block":
                return BlockArrived(block_digest(address), event)
            return _document(address, event)
        except Refused as refusal:
            return Unreadable(refusal, event)


def _document(address: Address, event: Message) -> DocumentEvent:
    found: DocumentEvent
    match address.kind:
        case "trust":
            found = TrustArrived(codec.decode(TrustBundle, event.payload), event)
        case "trust-time":
            found = TimeArrived(codec.decode(TrustTime, event.payload), event)
        case "trust-roles":
            found = RolesArrived(codec.decode(TrustRoles, event.payload), event)
        case "deployed":
            found = IndexArrived(codec.decode(DeploymentIndex, event.payload), event)
        case "deploy":
            found = DeploymentsArrived(check_name("model", address.levels[0]), codec.decode(Envelope, event.payload), event)
        case "model":
            found = ModelArrived(model_bundle(address, event.payload), event)
        case _:
            raise Refused(Code.SCHEMA_MALFORMED, f"a node does not read {address.kind!r} topics")
    return found

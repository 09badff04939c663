"""Read and write documents on a relay's two connections: parse at the door. What comes by either is in one inbox, with its side."""

import queue
from dataclasses import dataclass
from typing import Literal

from fleetcast.block_publisher import BlockPublisher
from fleetcast.mqtt_connection import BrokerUrl, Link, LinkEvent, Message
from node.broker.mqtt import BlockReader, model_bundle
from node.relay.relay_settings import Door
from schemas import codec
from schemas.block_request import Want
from schemas.bundle import ModelBundle, TrustBundle
from schemas.deployment_index import DeploymentIndex
from schemas.errors import Code, Refused
from schemas.names import check_name
from schemas.topics import block_digest

SESSION_EXPIRY_SECONDS = 24 * 3600
RECEIVE_MAX = 128
Side = Literal["upstream", "site"]


@dataclass(frozen=True, slots=True)
class SideEvent:
    """Hold an event of one connection."""

    side: Side
    event: LinkEvent


@dataclass(frozen=True, slots=True)
class WantArrived:
    """Report that a node of the site wants blocks."""

    node: str
    want: Want


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """Carry a payload from up the road, not verified."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class _Inbox:
    """Take the events of one `Link`."""

    side: Side
    queue: "queue.Queue[SideEvent]"

    def put(self, event: LinkEvent) -> None:
        """Say by which connection it came."""
        self.queue.put(SideEvent(self.side, event))


Parsed = WantArrived | BlockArrived | TrustBundle | DeploymentIndex | ModelBundle | None


class RelayLink(BlockReader, BlockPublisher):
    """Speak on one of the two connections."""

    def __init__(self, side: Side, door: Door, *, fleet: str, name: str, inbox: "queue.Queue[SideEvent]") -> None:
        url = BrokerUrl.parse(door.broker)
        link = Link(
            url,
            client_id=url.client_id(name, fleet=fleet),
            inbox=_Inbox(side, inbox),
            session_expiry_seconds=SESSION_EXPIRY_SECONDS,
            receive_max=RECEIVE_MAX,
            tls=door.tls,
        )
        super().__init__(link, fleet=fleet, name=name)

    def open(self, *, clean: bool) -> None:
        """Begin a connection; `clean`: the broker forgets what it kept for us.

        Raises:
            Unreachable: nothing answers.
        """
        self._link.open(clean=clean)

    def subscribe_wants(self) -> None:
        """Hear what the site's nodes want."""
        self._link.subscribe([self.topics.filter("want")])

    def parse(self, message: Message) -> Parsed:
        """Return the message as a document; None when there is nothing in it.

        Raises:
            Refused: it is not one that a relay reads, or malformed.
        """
        if not message.payload:
            return None
        address = self.topics.parse(message.topic)
        found: Parsed
        match address.kind:
            case "want":
                found = WantArrived(check_name("node", address.levels[0]), codec.decode(Want, message.payload))
            case "block":
                found = BlockArrived(block_digest(address))
            case "trust":
                found = codec.decode(TrustBundle, message.payload)
            case "deployed":
                found = codec.decode(DeploymentIndex, message.payload)
            case "model":
                found = model_bundle(address, message.payload)
            case _:
                raise Refused(Code.SCHEMA_MALFORMED, f"a relay does not read {address.kind!r} topics")
        return found

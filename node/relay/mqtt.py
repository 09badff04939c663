"""A relay's two connections, as documents: parses at the door. What comes by either stands in one inbox, and says by which."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from node.relay.settings import Door
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.errors import Code, Refused
from schemas.mqtt import BrokerUrl, Link, Message
from schemas.names import check_name
from schemas.topics import Topics, block_digest
from schemas.want import Want

SESSION_EXPIRY_SECONDS = 24 * 3600
WANT_EXPIRY_SECONDS = 30  # a want that waited longer is worth nothing: it is said again
RECEIVE_MAX = 128
MSGPACK = "application/msgpack"
Side = Literal["upstream", "site"]


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of one connection."""

    side: Side
    event: Any


@dataclass(frozen=True, slots=True)
class WantArrived:
    """A node of the site wants blocks."""

    node: str
    want: Want


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """A payload from up the road, not verified."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class _Inbox:
    """Where a `Link` puts its events."""

    side: Side
    queue: "queue.SimpleQueue[Heard]"

    def put(self, event: Any) -> None:
        """Say by which connection it came."""
        self.queue.put(Heard(self.side, event))


Parsed = WantArrived | BlockArrived | TrustBundle | ModelBundle | None


class RelayLink:
    """One of the two connections."""

    def __init__(self, side: Side, door: Door, *, fleet: str, name: str, inbox: "queue.SimpleQueue[Heard]") -> None:
        self.topics = Topics(fleet)
        self._name = name
        self._link = Link(
            BrokerUrl.parse(door.broker),
            client_id=name,
            inbox=_Inbox(side, inbox),  # type: ignore[arg-type]  # it is only ever put into
            session_expiry_seconds=SESSION_EXPIRY_SECONDS,
            receive_max=RECEIVE_MAX,
            tls=door.tls,
        )

    def open(self) -> None:
        """Begin a connection.

        Raises:
            Unreachable: nothing answers.
        """
        self._link.open()

    def close(self) -> None:
        """Leave politely."""
        self._link.close()

    def subscribe_wants(self) -> None:
        """Hear what the site's nodes want."""
        self._link.subscribe([self.topics.filter("want")])

    def subscribe_trust(self, *, only_if_new: bool) -> None:
        """Hear which models there are."""
        self._link.subscribe([self.topics.trust], only_if_new=only_if_new)

    def subscribe_models(self, models: Sequence[str], *, only_if_new: bool = False) -> None:
        """Hear which releases these models have: exact topics, for not every broker gives what it retains to a wildcard."""
        for model in models:
            self._link.subscribe([self.topics.model(model)], only_if_new=only_if_new)

    def subscribe_blocks(self, digests: Sequence[bytes], *, only_if_new: bool = False) -> int | None:
        """Ask for exact block topics; `Subscribed` with the returned id follows."""
        return self._link.subscribe([self.topics.block(digest) for digest in digests], only_if_new=only_if_new)

    def unsubscribe_blocks(self, digests: Sequence[bytes]) -> None:
        """Leave block topics."""
        self._link.unsubscribe([self.topics.block(digest) for digest in digests])

    def want(self, want: Want) -> None:
        """Ask up the road.

        Raises:
            Unreachable: too much waits already.
        """
        self._link.publish(self.topics.want(self._name), codec.encode(want), expiry_seconds=WANT_EXPIRY_SECONDS, content_type=MSGPACK)

    def say_block(self, digest: bytes, payload: bytes, *, retain: bool, expiry_seconds: int) -> int:
        """Give the site a payload; `Published` with the returned id follows.

        Raises:
            Unreachable: too much waits already.
        """
        return self._link.publish(self.topics.block(digest), payload, retain=retain, expiry_seconds=expiry_seconds)

    def clear_block(self, digest: bytes) -> None:
        """Take a payload out of the site's broker's memory."""
        self._link.publish(self.topics.block(digest), b"", retain=True)

    def ack(self, message: Message) -> None:
        """The effect of this message is durable."""
        self._link.ack(message)

    def parse(self, message: Message) -> Parsed:
        """The message as a document; None when there is nothing in it.

        Raises:
            Refused: it is not one that a relay reads, or malformed.
        """
        if not message.payload:
            return None
        address = self.topics.parse(message.topic)
        match address.kind:
            case "want":
                return WantArrived(check_name("node", address.levels[0]), codec.decode(Want, message.payload))
            case "block":
                return BlockArrived(block_digest(address))
            case "trust":
                return codec.decode(TrustBundle, message.payload)
            case "model":
                bundle = codec.decode(ModelBundle, message.payload)
                if bundle.model != address.levels[0]:
                    raise Refused(Code.SCHEMA_MALFORMED, f"topic of model {address.levels[0]!r} carries model {bundle.model!r}")
                return bundle
            case _:
                raise Refused(Code.SCHEMA_MALFORMED, f"a relay does not read {address.kind!r} topics")

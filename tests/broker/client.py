"""A user of `fleetcast.mqtt_connection.Link` for tests: waits for an event of a kind, within seconds."""

import queue
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fleetcast.mqtt_connection import BrokerUrl, Connected, Link, LinkEvent, Message, Subscribed, Will
from tests.brokers import Broker

E = TypeVar("E")


@dataclass(slots=True)
class Client:
    """One connection and all that it ever heard."""

    link: Link
    inbox: "queue.Queue[Any]"
    heard: list[LinkEvent] = field(default_factory=list)
    unread: list[Message] = field(default_factory=list)  # came while something else was waited for

    @classmethod
    def of(cls, broker: Broker, user: str = "hub", *, client_id: str | None = None, session_expiry_seconds: int = 0) -> "Client":
        """Not yet connected."""
        inbox: queue.Queue[Any] = queue.Queue()
        url = BrokerUrl.parse(broker.url(user))
        return cls(
            Link(url, client_id=client_id or user, inbox=inbox, session_expiry_seconds=session_expiry_seconds, tls=broker.tls(user)), inbox
        )

    def open(self, will: Will | None = None) -> Connected:
        """Connect and wait until the broker has said yes."""
        self.link.open(will)
        return self.next(Connected)

    def subscribe(self, *filters: str) -> Subscribed:
        """Subscribe and wait for the broker's answer."""
        self.link.subscribe(filters)
        return self.next(Subscribed)

    def next(self, kind: type[E], *, seconds: float = 100.0) -> E:
        """The next event of this kind; messages that come before it stay unread."""
        if kind is Message and self.unread:
            return self.unread.pop(0)  # type: ignore[return-value]
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__} within {seconds} s; heard {self.heard[-5:]}") from None
            self.heard.append(event)
            if isinstance(event, kind):
                return event
            if isinstance(event, Message):
                self.unread.append(event)

    def messages(self, *, seconds: float, least: int = 0) -> list[Message]:
        """All messages that come until nothing came for so long, acknowledged; the first `least` are waited for as `next` does."""
        found, self.unread = self.unread, []
        for message in found:
            self.link.ack(message)
        while True:
            try:
                event = self.inbox.get(timeout=seconds if len(found) >= least else 100.0)
            except queue.Empty:
                return found
            self.heard.append(event)
            if isinstance(event, Message):
                found.append(event)
                self.link.ack(event)

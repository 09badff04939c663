"""Holds what came from the broker and waits for the hub's loop: bounded, by lane and sender. Reads topics, and no payload.

The network thread puts, the loop takes. What is let go, because there is no room or its sender sends too many in a minute, is counted by
sender. A message of QoS 1 that is let go has to be acknowledged all the same: acknowledgements leave in the order of arrival
(MQTT-4.6.0-2), so one that never comes would hold back those of everybody else until the receive window is full and the broker delivers
nothing more. That silence is what a flood is after. What is lost by it is small: of a node's states only the newest matters, a want is sent
again, and other messages of QoS 1 are bounded by the receive window already.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from fleetcast.mqtt_connection import Connected, LinkEvent, Message
from hub.core.floods.fair_inbox import Lanes, Waiting
from hub.core.floods.sender_rates import SenderRates
from hub.settings import HubSettings
from schemas.errors import Refused
from schemas.topics import Topics

NEWEST_KEPT = {
    "state": 4,  # a Will of an older session may come after the state that overtakes it, so the newest alone is not enough
    "own": 4,
    "want": 16,  # a node asks for one window of blocks at a time, and asks again for what does not come
}
LANES = ("want", "own", "state", "receipt", "telemetry", "other")  # in the order in which they are read
_LANE_OF = {"trust": "own", "model": "own", **{name: name for name in ("want", "state", "receipt", "telemetry")}}


@dataclass(frozen=True, slots=True)
class OtherFleet:
    """Report a message on a topic of another fleet. It is not acknowledged, for it waits for that fleet's hub."""

    fleet: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Hold the messages dropped since the last look: their numbers by lane and sender, and those to acknowledge."""

    counts: Counter[tuple[str, str]]
    unacknowledged: list[Message]


class Inbox:
    """Hold one hub's inbox."""

    def __init__(self, topics: Topics, settings: HubSettings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._topics, self._monotonic = topics, monotonic
        # Requests for blocks are not limited by time: a fast node sends hundreds a second, of which the newest few are kept.
        reports = settings.node_reports_per_minute
        self._rates = SenderRates({"state": reports, "receipt": reports, "telemetry": settings.cohort_windows_per_minute})
        self._changed = threading.Condition()
        self._waited_for = False
        self._events: deque[LinkEvent | OtherFleet] = deque()
        self._met: OtherFleet | None = None  # On this connection.
        self._lanes: Lanes[Message] = Lanes(
            LANES, newest=NEWEST_KEPT, messages_max=settings.inbox_messages_max, bytes_max=settings.inbox_bytes_max
        )
        self._lost = Lost(Counter(), [])

    # Network thread

    def put(self, event: LinkEvent, /) -> None:
        """Add what the connection says."""
        with self._changed:
            if isinstance(event, Message) and (other := self._topics.other_fleet(event.topic)):
                if self._met is None:  # One is enough: the hub ends this connection.
                    self._met = OtherFleet(other)
                    self._events.append(self._met)
            elif isinstance(event, Message):
                waiting = self._addressed(event)
                is_taken = self._rates.admit(waiting.lane, waiting.sender, self._monotonic())
                for gone in self._lanes.put(waiting) if is_taken else [waiting]:
                    self._lost.counts[gone.lane, gone.sender] += 1
                    if gone.firm:
                        self._lost.unacknowledged.append(replace(gone.item, payload=b""))
            else:
                if isinstance(event, Connected):
                    self._met = None
                if isinstance(event, Connected) and event.session_present:
                    self._lanes.forget_firm()  # MQTT-4.4.0-1: what was not acknowledged is sent again
                self._events.append(event)
            if self._waited_for:
                self._changed.notify()

    def _addressed(self, message: Message) -> Waiting[Message]:
        try:
            address = self._topics.parse(message.topic)
        except Refused:
            lane, sender = "other", ""
        else:
            lane, sender = _LANE_OF.get(address.kind, "other"), "/".join(address.levels) or address.kind
        return Waiting(lane, sender, message, len(message.topic) + len(message.payload), firm=message.qos > 0)

    # The loop

    def wait(self, seconds: float) -> None:
        """Return when something waits, or after this many seconds."""
        with self._changed:
            if not self._events and not len(self._lanes) and seconds > 0:
                self._waited_for = True
                self._changed.wait(seconds)
                self._waited_for = False

    def wake(self) -> None:
        """End a wait: something else than a message has arrived. Any thread may call it."""
        with self._changed:
            if self._waited_for:
                self._changed.notify()

    def events(self) -> list[LinkEvent | OtherFleet]:
        """Return the connection's own events, in order."""
        with self._changed:
            found = list(self._events)
            self._events.clear()
        return found

    def take(self, lane: str, at_most: int) -> list[Message]:
        """Return the next messages of a lane, one of each sender in turn."""
        with self._changed:
            return self._lanes.take(lane, at_most)

    def count(self, lane: str) -> int:
        """Return how many messages wait in this lane."""
        with self._changed:
            return self._lanes.count(lane)

    def only(self, lane: str) -> int:
        """Return how many messages wait in this lane; 0 when anything else waits too."""
        with self._changed:
            count = self._lanes.count(lane)
            return count if count == len(self._lanes) and not self._events else 0

    def lost(self) -> Lost | None:
        """Return what was let go since the last time."""
        with self._changed:
            found = self._lost
            if not found.counts:
                return None
            self._lost = Lost(Counter(), [])
        return found

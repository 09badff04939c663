"""Hold what waits for the agent's loop: bounded, and of each document only the newest. Reads topics, and no payload.

A broker's owner can send faster than any device verifies signatures. Of a retained document the newest counts, so an older one that still
waits is let go. What the agent's own parts report never waits behind what the broker sends.
"""

import queue
from collections import deque
from dataclasses import replace

from fleetcast.mqtt_connection import Message
from node.agent.events import Incoming, LocalEvent
from schemas.limits import MIB

BYTES_MAX = 32 * MIB  # Blocks of QoS 1 that are not acknowledged are at most 8 MiB, whatever a node's window is.
MESSAGES_MAX = 4096
_BLOCKS = "/block/"


class Inbox(queue.Queue[Incoming]):
    """Hold one agent's events. Any thread puts, the loop takes."""

    def _init(self, maxsize: int) -> None:
        self._local: deque[Incoming] = deque()
        self._heard: dict[object, Incoming] = {}  # Documents by topic, everything else by a key of its own; in the order to take them.
        self._bytes = self._dropped = 0
        self._let_go: list[Message] = []

    def _qsize(self) -> int:
        return len(self._local) + len(self._heard)

    def _put(self, item: Incoming) -> None:
        if isinstance(item, LocalEvent):
            self._local.append(item)
        elif isinstance(item, Message):
            self._put_message(item)
        else:
            self._heard[object()] = item

    def _put_message(self, message: Message) -> None:
        is_document = message.payload and _BLOCKS not in message.topic  # An empty one is a request, or says nothing.
        key: object = message.topic if is_document else object()
        older = self._heard.pop(key, None)
        if isinstance(older, Message):
            self._bytes -= _size(older)
            self._keep_to_acknowledge(older)
        if self._bytes + _size(message) > BYTES_MAX or len(self._heard) >= MESSAGES_MAX:
            self._dropped += 1
            self._keep_to_acknowledge(message)
            return
        self._bytes += _size(message)
        self._heard[key] = message

    def _get(self) -> Incoming:
        if self._local:
            return self._local.popleft()
        key = next(iter(self._heard))
        event = self._heard.pop(key)
        if isinstance(event, Message):
            self._bytes -= _size(event)
        return event

    def _keep_to_acknowledge(self, message: Message) -> None:
        if message.qos:
            self._let_go.append(replace(message, payload=b""))

    def let_go(self) -> list[Message]:
        """Return the messages of QoS 1 that were let go since the last call: nothing else would ever acknowledge them."""
        with self.mutex:
            found, self._let_go = self._let_go, []
        return found

    def dropped(self) -> int:
        """Return how many messages were dropped since the last call because too much waits already."""
        with self.mutex:
            found, self._dropped = self._dropped, 0
        return found


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)

"""Record everything that crosses the broker, and search it for data that must not be there."""

import json
import queue
import struct
import threading
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import zstandard

from deploy.demo.data import rows
from fleetcast.mqtt_connection import BrokerUrl, Connected, Disconnected, Link, Message
from schemas.errors import Unreachable
from schemas.limits import BLOCK_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Recorded:
    """Hold one message."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Recorder:
    """Record `#` for as long as there is a broker."""

    port: int
    messages: list[Recorded] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to record."""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        inbox: queue.Queue[object] = queue.Queue()
        link = Link(BrokerUrl("127.0.0.1", self.port, tls=False), client_id="recorder", inbox=inbox, session_expiry_seconds=0)
        connected = False
        while not self._stop.is_set():
            if not connected:
                try:
                    link.open()
                    connected = True
                except Unreachable:
                    self._stop.wait(0.2)
                    continue
            try:
                event = inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(event, Connected):
                link.subscribe(["#"])
            elif isinstance(event, Disconnected):
                connected = False
            elif isinstance(event, Message):
                self.messages.append(Recorded(event.topic, event.payload))
                link.ack(event)
        link.close()

    def stop(self) -> None:
        """Stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)

    def of(self, part: str) -> list[Recorded]:
        """Return messages whose topic has this level in it."""
        return [message for message in self.messages if part in message.topic.split("/")]


def row_patterns(frame: pd.DataFrame) -> set[bytes]:
    """Return every row as a message would hold it: its features side by side as float32 or float64, in either byte order, or as JSON."""
    found: set[bytes] = set()
    values = rows(frame)
    for kind in ("<f4", ">f4", "<f8", ">f8"):
        found.update(row.tobytes() for row in values.astype(kind))
    for row in values.tolist():
        found.update((json.dumps(row).encode(), json.dumps(row, separators=(",", ":")).encode()))
    return found


def value_patterns(frame: pd.DataFrame) -> set[bytes]:
    """Return every distinct value alone, as float64 in either byte order: for the small messages that nodes send."""
    found: set[bytes] = set()
    for value in np.unique(rows(frame).astype(np.float64)):
        if value not in (0.0, 1.0, 10.0):  # Zero, one and the usual ten miles of visibility occur in any document.
            found.update((struct.pack("<d", value), struct.pack(">d", value)))
    return found


def search(messages: list[Recorded], patterns: set[bytes]) -> list[Recorded]:
    """Return the messages that hold any of the patterns, by a hash of every stretch of each length."""
    by_length: dict[int, set[bytes]] = {}
    for pattern in patterns:
        by_length.setdefault(len(pattern), set()).add(pattern)
    found = []
    for message in {message.payload: message for message in messages}.values():
        payload = _unpacked(message.payload)
        if any(payload[at : at + length] in wanted for length, wanted in by_length.items() for at in range(len(payload) - length + 1)):
            found.append(message)
    return found


def _unpacked(payload: bytes) -> bytes:
    """Return what a payload holds: compression hides it from a search."""
    try:
        return payload + zstandard.ZstdDecompressor().decompress(payload, max_output_size=BLOCK_BYTES_MAX)
    except zstandard.ZstdError:
        return payload

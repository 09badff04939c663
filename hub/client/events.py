"""Follow a hub's events by server-sent events: none is missed when the connection ends, and none comes twice."""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from fleetcast.backoff import LASTING_SECONDS, Backoff
from hub.client.connection import Connection
from schemas.errors import Unreachable

READ_SECONDS_MAX: Final = 35.0  # A hub beats every 10 s.
BACKOFF: Final = Backoff(0.5, 30.0)
FAILURES_MAX: Final = 8  # In a row, without an event between: some minutes.


@dataclass(frozen=True, slots=True)
class Event:
    """Hold what happened, as the hub has recorded it."""

    id: int
    at: str
    kind: str
    text: str
    actor: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def follow(
    connection: Connection,
    after: int | None = None,
    *,
    failures_max: int = FAILURES_MAX,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Yield events behind an id, or new ones, and connect again where the connection ends. It does not end by itself.

    Raises:
        Refused: the hub refuses: the token was revoked, or too many follow.
        Unreachable: the hub was not there several times in a row.
    """
    at, failures = after, 0
    while True:
        began = monotonic()
        try:
            for event, seen in _one_stream(connection, at):
                at = seen if seen is not None else at
                if event is not None:
                    failures = 0
                    yield event
        except Unreachable:
            failures = 1 if monotonic() - began > LASTING_SECONDS else failures + 1
            if failures > failures_max:
                raise
        sleep(BACKOFF.after(failures).wait_seconds(chance()))


def _one_stream(connection: Connection, after: int | None) -> Iterator[tuple[Event | None, int | None]]:
    """Yield each event with the id behind which to go on; the hub names one at once, before any event."""
    headers = {"accept": "text/event-stream", **({"last-event-id": str(after)} if after is not None else {})}
    with closing(connection.stream_lines("/events/stream", headers=headers, read_seconds_max=READ_SECONDS_MAX)) as lines:
        seen, data = after, list[str]()
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "data":
                    data.append(value)
                elif name == "id" and value.isdigit() and len(value) < 19:
                    seen = int(value)
                continue
            event = _event("\n".join(data)) if data else None
            if event is not None and (after is None or event.id > after):  # A hub that sends one twice is believed once.
                after = event.id
                yield event, event.id
            elif event is None:
                yield None, seen
            data.clear()


def _event(text: str) -> Event | None:
    try:
        found = json.loads(text)
        return Event(int(found["id"]), str(found["at"]), str(found["kind"]), str(found["text"]), found.get("actor"), dict(found["facts"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

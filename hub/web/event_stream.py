"""Send events as they happen (server-sent events). Each client has a bounded queue, and one that does not read is ended."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub.database.rows import EventRow
from hub.database.store import Store
from hub.operations.events import event_row
from hub.service.bounded_server import HALF_CLOSED, KEEP, LISTENS
from schemas.errors import Code, FleetcastError, Refused
from schemas.limits import KIB

LOOK_SECONDS: Final = 0.5
BEAT_SECONDS: Final = 10.0
STREAM_SECONDS_MAX: Final = 3600.0  # The client opens another one, and goes on by Last-Event-ID: a revoked token ends here at the latest.
SEND_SECONDS_MAX: Final = 30.0
STREAMS_MAX: Final = 256
PIECE_BYTES_MAX: Final = 32 * KIB  # Sent at once: of a client that does not read, this much waits beside what the connection lets wait.
PLACES_SHARE: Final = 8  # One part in this number of the connections is for requests that are answered at once.
QUEUE_EVENTS_MAX: Final = 1000
PAGE: Final = 500
HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]

Kind = Literal["page", "api"]


@dataclass(eq=False)
class _Client:
    queue: asyncio.Queue[EventRow | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_EVENTS_MAX + 1))
    sent: int = 0


class Places:
    """Count the streams that are open, of pages and of the API: they leave connections for requests. Runs in the loop of the API."""

    def __init__(self, connections_max: Callable[[], int]) -> None:
        self._connections_max = connections_max
        self.taken = Counter[Kind]()

    def check(self, kind: Kind, kind_max: int) -> None:
        """Check that one more stream of a kind may be open.

        Raises:
            Refused: REQUEST_CROWDED.
        """
        called = {"page": "pages are followed", "api": "event streams are open"}[kind]
        if self.taken[kind] >= kind_max:
            raise Refused(Code.REQUEST_CROWDED, f"{kind_max} {called}, and no more may be")
        connections = self._connections_max()
        if self.taken.total() >= max(1, connections - max(1, connections // PLACES_SHARE)):
            reason = f"{self.taken[kind]} {called}, and this hub may open too few files for more (`ulimit -n`, `LimitNOFILE`)"
            raise Refused(Code.REQUEST_CROWDED, reason)

    @property
    def are_scarce(self) -> bool:
        """Return whether streams have half of all connections: one that waits for its next request would then cost a stream its own."""
        return 2 * self.taken.total() >= self._connections_max()

    @contextmanager
    def one(self, kind: Kind) -> Iterator[None]:
        """Hold a place."""
        self.taken[kind] += 1
        try:
            yield
        finally:
            self.taken[kind] -= 1


class EventFeed:
    """Read new events once for all clients, while there are any. Runs in the loop of the API."""

    def __init__(self, store: Store, places: Places) -> None:
        self._store, self._places = store, places
        self._clients: set[_Client] = set()
        self._reader: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._at = 0

    @property
    def open_streams(self) -> int:
        """Return how many clients follow."""
        return len(self._clients)

    def check_room(self) -> None:
        """Check that one more client may follow.

        Raises:
            Refused: REQUEST_CROWDED.
        """
        self._places.check("api", STREAMS_MAX)

    async def follow(self, after: int | None, is_good: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """Yield events after this id, or new ones; beats between; it ends with its time, or when the client falls behind."""
        client = _Client()
        self._clients.add(client)
        try:
            if self._reader is None or self._reader.done():
                self._began = asyncio.Event()
                self._reader = asyncio.create_task(self._read(self._began))
            await self._began.wait()  # From here on the reader has everything that comes, so that none is between it and what is read now.
            yield b"retry: 2000\n\n"
            if after is None:  # A client that loses the connection before the first event goes on from here.
                yield f"id: {self._at}\n\n".encode()
            until = asyncio.get_running_loop().time() + STREAM_SECONDS_MAX
            at = after
            while at is not None and (page := await run_in_threadpool(self._store.events, at, PAGE)):
                at = page[-1].id
                client.sent = at
                for earlier in page:  # One by one, so that no more than one waits for a client that reads slowly.
                    yield _encoded(earlier)
            while asyncio.get_running_loop().time() < until:
                try:
                    event = await asyncio.wait_for(client.queue.get(), BEAT_SECONDS)
                except TimeoutError:
                    if not await is_good():
                        return
                    yield b": beat\n\n"
                    continue
                if event is None:
                    return
                if event.id > client.sent:
                    client.sent = event.id
                    yield _encoded(event)
        finally:
            self._clients.discard(client)
            if not self._clients and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _read(self, began: asyncio.Event) -> None:
        self._at = await run_in_threadpool(self._store.last_event_id)
        began.set()
        while True:
            try:
                page: Sequence[EventRow] = await run_in_threadpool(self._store.events, self._at, PAGE)
            except FleetcastError:  # The database does not answer: the next look may find it.
                page = ()
            for event in page:
                self._at = event.id
                for client in list(self._clients):
                    self._put(client, event)
            if len(page) < PAGE:
                await asyncio.sleep(LOOK_SECONDS)

    def _put(self, client: _Client, event: EventRow) -> None:
        if client.queue.qsize() >= QUEUE_EVENTS_MAX:  # It does not read: it may come again, and go on where it was.
            self._clients.discard(client)
            with suppress(asyncio.QueueFull):
                client.queue.put_nowait(None)
            return
        client.queue.put_nowait(event)


def _encoded(event: EventRow) -> bytes:
    kind = "".join(one for one in event.kind if one.isprintable())
    return f"id: {event.id}\nevent: {kind}\ndata: {json.dumps(event_row(event))}\n\n".encode()


class EventStream(Response):
    """Answer with a stream that ends when the client does not take what it was sent."""

    def __init__(self, events: AsyncIterator[bytes], places: Places, kind: Kind) -> None:
        super().__init__(media_type="text/event-stream")
        self._events, self._places, self._kind = events, places, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end, the client goes, or it does not read for a while."""
        state = scope.setdefault("state", {})
        state[LISTENS] = True
        if state.get(HALF_CLOSED):  # It has gone, or could never be seen to go.
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        state.get(KEEP, lambda: None)()
        with self._places.one(self._kind):
            await self._answer(receive, send)

    async def _answer(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        sender, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sender, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, gone):
                task.cancel()
            await asyncio.gather(sender, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        try:
            async for part in self._events:
                for at in range(0, len(part), PIECE_BYTES_MAX):
                    await send({"type": "http.response.body", "body": part[at : at + PIECE_BYTES_MAX], "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            aclose = getattr(self._events, "aclose", None)
            if aclose is not None:
                await aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

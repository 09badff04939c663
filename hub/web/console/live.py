"""Send the regions of open pages as they change (server-sent events). A region is made once for all viewers of a role and an address.

A client has at most one waiting version of each region, the newest: one that reads slowly misses what nobody would have seen, and one that
does not read at all is ended by its connection. Everything here but the reading runs in the loop of the server.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from hub.database.store import Store
from hub.operations import console_sessions
from hub.operations.console_sessions import Session
from hub.operations.opened_fleet import OpenedFleet
from hub.web.console import moments, rendering
from hub.web.console.page import Answer, Page, View
from hub.web.console.shared import Shared
from hub.web.event_stream import EventStream
from hub.web.guard import Door
from hub.web.roles import may
from schemas.errors import Code, FleetcastError, Refused

log = structlog.get_logger()

LOOK_SECONDS: Final = 1.0  # At most one version of a region in this time.
GLANCE_SECONDS: Final = 0.25  # Between looks at whether an event came.
SHARE: Final = 10  # A page that takes long to make is made less often, so that making it takes no more of the processor.
SHARE_OF_ALL: Final = 2  # All pages together take no more of it than one part in this number, however many and large they are.
BEAT_SECONDS: Final = 10.0
STREAM_SECONDS_MAX: Final = 3600.0
STREAMS_MAX: Final = 1000
PAGES_MAX: Final = 64  # Different pages that are followed at one time.
ADDRESS_CHARACTERS_MAX: Final = 2000

Key = tuple[str, str]
Values = Callable[[Page, View, Answer], Mapping[str, Any]]


@dataclass(eq=False)
class _Client:
    regions: frozenset[str]
    waiting: dict[str, bytes] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, name: str, event: bytes) -> None:
        """Let an event wait, in place of an older one of the same region."""
        self.waiting.pop(name, None)
        self.waiting[name] = event
        self.woken.set()


@dataclass(eq=False)
class _Followed:
    """Hold what is known of one page for one role: its newest regions, and who follows."""

    make: Callable[[], tuple[dict[str, str], float]]  # Returns also how much of a processor it took, in seconds.
    clients: set[_Client] = field(default_factory=set)
    newest: dict[str, str] = field(default_factory=dict)
    cost: float = 0.0  # How much of a processor it took to make them, in seconds.
    event: int = 0  # Id of the newest event of the hub when they were made.
    task: asyncio.Task[None] | None = None


class Live:
    """Follow pages for those who have them open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followed: dict[Key, _Followed] = {}
        self._newest, self._glanced = 0, float("-inf")
        self._turn = asyncio.Lock()  # One page is made at a time: several at once take as long, and more from the loop of the hub.

    def last_event(self, fleet: OpenedFleet) -> int:
        """Return the id of the newest event."""
        return fleet.store.last_event_id()

    async def answer(
        self, request: Request, door: Door, session: Session, cookie: str, pages: Sequence[Page], values: Values, shared: Shared
    ) -> Response:
        """Return the stream of a page's regions.

        Raises:
            Refused: there is no such page, its role may not see it, or too many are open.
        """
        address, names = request.query_params.get("page", ""), request.query_params.get("regions", "")
        page, params, query = _page_at(address, pages, session.role)
        door.places.check("page", STREAMS_MAX)
        key = session.role, address
        if key not in self._followed and len(self._followed) >= PAGES_MAX:
            raise Refused(Code.REQUEST_CROWDED, f"{PAGES_MAX} different pages are followed, and no more may be: this one stays as it is")

        def make() -> tuple[dict[str, str], float]:
            began = time.thread_time()
            view = View(door.of_request(session.actor), shared, session.role, None, params, query, int(time.time()), address)
            found = dict(values(page, view, page.load(view)))
            needs = found["needs"]
            title = json.dumps(
                {"title": f"({needs}) {found['title']}" if needs else found["title"], "needs": needs, "alerts": found["matters"]}
            )
            return {**rendering.regions(page.template, found), "": title}, time.thread_time() - began

        followed = self._followed.setdefault(key, _Followed(make))
        client = _Client(frozenset(names.split(",")) | {""})

        async def is_good() -> bool:
            return isinstance(await run_in_threadpool(console_sessions.find, door.fleet, cookie, looks=False), Session)

        return EventStream(self._follow(key, followed, client, is_good), door.places, "page")

    async def _follow(self, key: Key, followed: _Followed, client: _Client, is_good: Callable[[], Any]) -> AsyncIterator[bytes]:
        followed.clients.add(client)
        self._followed[key] = followed  # The one before may have ended between the request and this.
        try:
            for name, text in followed.newest.items():
                self._put(followed, (client,), name, text)
            if followed.task is None or followed.task.done():
                followed.task = asyncio.create_task(self._look(followed))
            yield b"retry: 2000\n\n" + _beat()
            loop = asyncio.get_running_loop()
            until = loop.time() + STREAM_SECONDS_MAX
            while loop.time() < until:
                try:
                    await asyncio.wait_for(client.woken.wait(), BEAT_SECONDS)
                except TimeoutError:
                    if not await is_good():
                        yield b"event: over\ndata: {}\n\n"
                        return
                    yield _beat()
                    continue
                client.woken.clear()
                while client.waiting:
                    yield client.waiting.pop(next(iter(client.waiting)))
        finally:
            followed.clients.discard(client)
            if not followed.clients:
                if followed.task is not None:
                    followed.task.cancel()
                if self._followed.get(key) is followed:
                    del self._followed[key]

    async def _look(self, followed: _Followed) -> None:
        """Make the page again and again, and send what has changed."""
        loop, sent = asyncio.get_running_loop(), float("-inf")
        while True:
            found: Mapping[str, str] = {}
            try:
                async with self._turn:
                    began = loop.time()
                    followed.event = await run_in_threadpool(self._store.last_event_id)
                    found, followed.cost = await run_in_threadpool(followed.make)
            except FleetcastError as error:  # The database does not answer, or the page is gone: its readers see of when it is.
                log.warning("console.region_failed", reason=str(error))
            except Exception:
                log.exception("console.region_crashed")
            for name, text in found.items():
                if followed.newest.get(name) != text:
                    followed.newest[name], sent = text, loop.time()
                    self._put(followed, tuple(followed.clients), name, text)
            await self._pause(followed, began=began, sent=sent)

    async def _pause(self, followed: _Followed, *, began: float, sent: float) -> None:
        """Wait for the next look: shorter where an event of the hub came, and nothing was sent for a while."""
        loop = asyncio.get_running_loop()
        least = began + SHARE_OF_ALL * sum(one.cost for one in self._followed.values())
        until = max(least, began + LOOK_SECONDS, began + SHARE * followed.cost)
        await asyncio.sleep(max(0.0, least - loop.time()))
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(GLANCE_SECONDS, left))
            if loop.time() - sent >= LOOK_SECONDS and await self._newest_event() != followed.event:
                return

    async def _newest_event(self) -> int:
        """Return the id of the newest event, looked at once for all pages."""
        now = asyncio.get_running_loop().time()
        if now - self._glanced >= GLANCE_SECONDS / 2:
            self._glanced = now
            with suppress(FleetcastError):
                self._newest = await run_in_threadpool(self._store.last_event_id)
        return self._newest

    def _put(self, followed: _Followed, clients: Iterable[_Client], name: str, text: str) -> None:
        """Let a region wait for those who follow it: it is written once for all of them."""
        event = _encoded(followed.event, name, text, moments.clock(int(time.time())))
        for client in clients:
            if name in client.regions:
                client.put(name, event)


def _encoded(event: int, name: str, text: str, at: str) -> bytes:
    if not name:
        return f"id: {event}\nevent: title\ndata: {text}\n\n".encode()
    return f"id: {event}\nevent: region\ndata: {json.dumps({'name': name, 'html': text, 'at': at})}\n\n".encode()


def _beat() -> bytes:
    """Return a beat. It is an event, since a script does not see comments."""
    return f'event: beat\ndata: "{moments.clock(int(time.time()))}"\n\n'.encode()


def _page_at(address: str, pages: Sequence[Page], role: str) -> tuple[Page, dict[str, str], dict[str, str]]:
    """Return the page that an address names, with its parameters.

    Raises:
        Refused: there is none, or the role may not see it.
    """
    parts = urlsplit(address) if len(address) <= ADDRESS_CHARACTERS_MAX else urlsplit("")
    query: dict[str, str] = {}
    with suppress(ValueError):
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20))
    for page in pages if not (parts.scheme or parts.netloc or parts.fragment) else ():
        pattern, _, convertors = compile_path(page.path)
        found = pattern.fullmatch(parts.path)
        if found is not None and may(role, page.right) and set(query) <= page.query | {"wall"}:
            return page, {name: unquote(str(convertors[name].convert(text))) for name, text in found.groupdict().items()}, query
    raise Refused(Code.REQUEST_UNKNOWN, "there is no page of this address to follow")

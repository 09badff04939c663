"""Speak HTTP/1.1 on one connection, parsed in C by httptools, with a bound on all that is not a body. Knows no model.

uvicorn's own protocol on httptools bounds neither a head nor trailers, loses the body of a request that offers an upgrade, as every stock
Java client's does (uvicorn issue 2722), refuses in the middle of an answer, and tells only the newest request that its client hung up. Here
whatever comes without becoming a body is bounded, an offer of an upgrade is passed over, and a refusal comes behind the answers to what was
asked before it. A whole answer leaves in one piece: its reader wakes up once.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGIReceiveEvent, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from node.core.inference.tensors import Buffer
from node.serving.connection_limits import ANSWERING, IDLE, WAITING, ConnectionLimits
from node.workers.gathered_write import write_gathered
from schemas.limits import KIB

HEAD_BYTES_MAX: Final = 64 * KIB  # A request's line and fields, trailers too; what h11 takes.
AHEAD_BYTES_MAX: Final = 64 * KIB  # Requests that wait: room for many small ones, and large ones need not be here before their turn
HEAD_END: Final = b"\r\n\r\n"
HEAD_BYTES_KEPT: Final = 2048  # a longer head is parsed each time
PIPELINED_MAX: Final = 64  # requests of one connection that wait for the one before them: each costs more memory than it has bytes
WHOLE: Final = "fleetcast.whole"  # The ASGI extension under which a request finds its `Cycle`.
JUST_CONNECTED_SECONDS: Final = 1.0  # a client that has connected and not yet asked has this long, when the server ends

Header = tuple[bytes, bytes]


class _Head(NamedTuple):
    """Hold a head that was parsed on this connection: a client sends the same bytes again with each request of the same size."""

    data: bytes
    request_bytes: int  # with the body behind it
    scope: HTTPScope


class Cycle(RequestResponseCycle):
    """Hold one request and its answer. Each passes in one piece where it can: ASGI copies a body twice, and writes an answer twice."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._pieces: list[bytes] = []  # What came of the body since it was last asked for.
        self.body_bytes = 0
        self.held_bytes = 0  # An answer that waits until the one before it was read.
        self.limits: ConnectionLimits | None = None
        self.half_closed = False  # The client sends no more, and may read on.
        self._asked = False

    def add(self, piece: bytes) -> int:
        """Take a piece of the body. Returns how many bytes of it wait."""
        self._pieces.append(piece)
        self.body_bytes += len(piece)
        return self.body_bytes

    def whole_body(self) -> bytes | None:
        """Return the body if all of it is here and none of it was asked for, which is so of most requests; else ask by `receive`."""
        if self.more_body or self.disconnected or self.response_complete or self._asked:
            return None
        self.flow.resume_reading()
        return self._taken()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next piece of the body, as ASGI has it."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete and not self._has_left:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self._has_left:
            self.disconnected = True
            self.transport.close()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._taken(), "more_body": self.more_body}

    async def answer(self, status: int, headers: Sequence[Header], body: Sequence[Buffer]) -> None:
        """Do what `send` does with a head and a body that are known, at once."""
        if self.flow.write_paused:
            self.held_bytes = sum(len(part) for part in body)
            if self.limits is not None:
                self.limits.check()
            await self.flow.drain()
            self.held_bytes = 0
        if self.disconnected:
            return
        self.response_started = self.response_complete = True
        pieces = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        pieces.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        write_gathered(self.transport, [b"".join(pieces), *body])
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    @property
    def _has_left(self) -> bool:
        """Return whether the client sends no more, where an answer goes on until it leaves: nothing else will show that it has left."""
        return self.half_closed and self._asked and not self.more_body and not self._pieces

    def _taken(self) -> bytes:
        pieces, self._pieces, self.body_bytes, self._asked = self._pieces, [], 0, True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Connection(HttpToolsProtocol):
    """Parse requests and start the application for each."""

    _head_bytes = 0  # This request's fields so far.
    _idle_bytes = 0  # that came since anything came of them
    _ahead_bytes = 0  # that came while one request was being answered and another waited
    _moved = False
    _unfinished = False  # the newest request has a head, and no end yet
    _status = 400  # why the parser was stopped
    _refusal: bytes | None = None  # the last answer; from then on nothing is parsed
    cycle: Cycle
    _between = True  # nothing of a request is in the parser
    _begun = 0  # requests of this connection that the parser has seen
    _known: _Head | None = None
    _is_last = False  # the server ends: what is asked first is answered, and nothing after it
    _half_closed = False  # the client sends no more
    _answering: RequestResponseCycle | None = None  # `cycle` is the newest request's, which may have to wait

    def __init__(self, *arguments: Any, limits: ConnectionLimits | None = None, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self._limits = limits if limits is not None else ConnectionLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hear from asyncio: somebody connected, and has as long to ask as between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if not self._limits.opened(self):
            self._refuse(503, "too many connections, and all of them are being answered")

    @property
    def rank(self) -> int:
        """Return how much would be lost with this connection (`connection_limits.Bounded`)."""
        if self._unfinished or self.flow.write_paused:
            return WAITING
        now = self._answering
        return IDLE if now is None or now.response_complete else ANSWERING

    @property
    def unread_bytes(self) -> int:
        """Return how many bytes of answers wait for this client to read."""
        held = self._answering.held_bytes if isinstance(self._answering, Cycle) else 0
        return int(self.transport.get_write_buffer_size()) + held

    def shutdown(self) -> None:
        """Hear from the server that it ends: a client that has just connected has its first request under way, and is answered."""
        if self.cycle is None and not self.transport.is_closing():
            self._is_last = True
            self.loop.call_later(JUST_CONNECTED_SECONDS, self._close_if_nothing_was_asked)
        else:
            super().shutdown()

    def _close_if_nothing_was_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def end(self) -> None:
        """Close it at once, whatever waits in it."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Hear from asyncio: the client does not read as fast as it is answered."""
        super().pause_writing()
        self._limits.stalled(self)

    def resume_writing(self) -> None:
        """Hear from asyncio: the client has read."""
        super().resume_writing()
        self._limits.flowing(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear from asyncio: somebody went, however it was. What is being answered hears of it, also if more was asked since."""
        self._unset_keepalive_if_required()
        self._limits.closed(self)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()  # nobody would begin it
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Hear from asyncio: the client sends no more, as after `nc -N`. What it has asked for is answered, and then it is closed."""
        is_asking = not self._between or self._unfinished or self._refusal is not None
        if is_asking or self._idle:
            return None
        self._half_closed = True
        for cycle in (self._answering, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if isinstance(cycle, Cycle):
                cycle.half_closed = True
                cycle.message_event.set()
        return True

    def data_received(self, data: bytes) -> None:
        """Hear from asyncio: bytes of requests; behind one that is refused, bytes of nothing."""
        known = self._known
        if known is not None and len(data) == known.request_bytes and self._idle and data.startswith(known.data):
            self._unset_keepalive_if_required()
            self._idle_bytes = self._ahead_bytes = 0
            self.expect_100_continue = False
            self.scope = {**known.scope, "headers": list(known.scope["headers"]), "state": self.app_state.copy()}
            self._begin(keep_alive=True)
            self._end_body(data[len(known.data) :])
            return
        if self._refusal is None:
            self._moved = False
            alone, begun = self._idle, self._begun
            try:
                self._parse(data)
                if alone and self._between and self._begun == begun + 1:
                    self._keep_head(data)
            except httptools.HttpParserError:  # also whatever the callbacks below raise
                self._refuse(self._status)
            else:
                self._idle_bytes = 0 if self._moved else self._idle_bytes + len(data)
                if self._idle_bytes > HEAD_BYTES_MAX:
                    self._refuse(431)
        if not self.pipeline and self._refusal is None:
            self._ahead_bytes = 0
            return
        self._ahead_bytes += len(data)  # behind what is being answered: only who reads sees somebody hang up, and who reads all is flooded
        if self._ahead_bytes > AHEAD_BYTES_MAX:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        """Hear from httptools: the first bytes of a request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._between = False
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """Hear from httptools: a piece of what is asked for."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Hear from httptools: a field of the head, or a trailer."""
        self._grow(len(name) + len(value))
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Hear from httptools: the head is whole; the application starts when this turn of the loop is over."""
        self._moved = True
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._status = 503
            raise OverflowError
        self._unset_keepalive_if_required()  # not before: a client that sends a head drop by drop has no more time than one that sends none
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        if url.host is not None:  # A target with a host is what counts, whatever `Host` says (RFC 9112, 3.2.2).
            named = url.host if url.port is None else b"%s:%d" % (url.host, url.port)
            self.headers[:] = [(name, named if name == b"host" else value) for name, value in self.headers]
        version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        self._begin(keep_alive=version != "1.0" and self.parser.should_keep_alive())
        self._unfinished = True

    def on_body(self, body: bytes) -> None:
        """Hear from httptools: a piece of a body."""
        self._moved = True
        if self.cycle.response_complete:
            return
        if self.cycle.add(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Hear from httptools: a request is whole."""
        self._moved = True
        if not self.parser.should_upgrade():
            self._between = True
            self._unfinished = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Hear from a cycle that an answer is whole: it is the next request's turn, or the refusal's behind the last."""
        super().on_response_complete()
        if self._refusal is not None:
            self._end_when_answered()
        elif self._half_closed and self._idle:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _idle(self) -> bool:
        """Return whether nothing is being asked or answered here."""
        return self._between and not self.pipeline and self._refusal is None and (self.cycle is None or self.cycle.response_complete)

    def _keep_head(self, data: bytes) -> None:
        """Remember the head of a request that was all of `data`, if the same bytes can only be read alike."""
        declared = [value for name, value in self.headers if name == b"content-length"]
        others = {name for name, _ in self.headers} & {b"transfer-encoding", b"expect", b"upgrade", b"trailer"}
        if len(declared) != 1 or others or not self.cycle.keep_alive or not declared[0].isdigit():
            return
        head_bytes = len(data) - int(declared[0])
        if 0 < head_bytes <= HEAD_BYTES_KEPT and data.find(HEAD_END, 0, head_bytes) == head_bytes - len(HEAD_END):
            scope = cast(HTTPScope, {key: value for key, value in self.scope.items() if key not in ("state", "extensions")})
            self._known = _Head(data[:head_bytes], len(data), scope)

    def _begin(self, *, keep_alive: bool) -> None:
        """Do what uvicorn does when a head is whole, with a cycle of ours."""
        former = self.cycle
        self.cycle = cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive and not self._is_last,
            on_response=self.on_response_complete,
        )
        cycle.limits = self._limits
        self._limits.used(self)
        self.scope["extensions"] = {WHOLE: cycle}  # type: ignore[dict-item]  # ASGI has no word for what is no JSON
        if former is None or former.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _end_body(self, body: bytes) -> None:
        self.cycle.add(body)
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _grow(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._status = 431
            raise OverflowError

    def _parse(self, data: bytes) -> None:
        """Parse it, and a head that offers an upgrade once more as if it had offered none: httptools parses nothing behind such a head."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
                if len(kept) == len(self.headers):  # a CONNECT, which is one without saying so
                    raise httptools.HttpParserError from None
                head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
                for name, value in kept:
                    head += [name, b": ", value, b"\r\n"]
                data = b"".join([*head, b"\r\n", data[upgrade.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            else:
                return

    def _refuse(self, status: int, why: str | None = None) -> None:
        """Take no more, and say why behind the answers to what came before: ahead of one, or in it, it would be taken for that."""
        self._refusal = _refusal(status, why)
        if self._unfinished and self.cycle.response_started:  # its answer has come, or is coming
            self._refusal = b""
        elif self._unfinished:  # this is its answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.pipeline:
                self.pipeline.popleft()
        self._end_when_answered()

    def _end_when_answered(self) -> None:
        now = self._answering
        if self.pipeline or (now is not None and not (now.response_complete or now.disconnected)):
            return
        if self._refusal and not self.transport.is_closing():
            self.transport.write(self._refusal)
        self.transport.close()


def _refusal(status: int, why: str | None) -> bytes:
    sentences = {431: f"the head of the request is larger than {HEAD_BYTES_MAX} bytes", 503: "too many requests at once on one connection"}
    body = b'{"error": "%s"}' % (why or sentences.get(status, "this is no HTTP/1.1 request")).encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[status] + head + body

"""Speak HTTP/1.1 on one connection, parsed in C by httptools, with a bound on all that is not a body. Knows no model.

uvicorn's own protocol on httptools bounds neither a head nor trailers, loses the body of a request that offers an upgrade, as every stock
Java client's does (uvicorn issue 2722), refuses in the middle of an answer, and tells only the newest request that its client hung up. Here
whatever comes without becoming a body is bounded, an offer of an upgrade is passed over, and a refusal comes behind the answers to what was
asked before it. A whole answer leaves in one piece: its reader wakes up once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from node.core.inference.tensors import Buffer
from schemas.limits import KIB

HEAD_BYTES_MAX: Final = 64 * KIB  # A request's line and fields, trailers too; what h11 takes.
AHEAD_BYTES_MAX: Final = 64 * KIB  # Requests that wait: room for many small ones, and large ones need not be here before their turn
PIPELINED_MAX: Final = 64  # requests of one connection that wait for the one before them: each costs more memory than it has bytes
WHOLE: Final = "fleetcast.whole_answer"  # the ASGI extension under which a request finds its `Whole`

Header = tuple[bytes, bytes]
Whole = Callable[[int, Sequence[Header], Sequence[Buffer]], Awaitable[None]]  # status, headers, and the body in pieces


class Connection(HttpToolsProtocol):
    """Parse requests and start the application for each."""

    _head_bytes = 0  # This request's fields so far.
    _idle_bytes = 0  # that came since anything came of them
    _ahead_bytes = 0  # that came while one request was being answered and another waited
    _moved = False
    _unfinished = False  # the newest request has a head, and no end yet
    _status = 400  # why the parser was stopped
    _refusal: bytes | None = None  # the last answer; from then on nothing is parsed
    _answering: RequestResponseCycle | None = None  # `cycle` is the newest request's, which may have to wait

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hear from asyncio: somebody connected, and has as long to ask as between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear from asyncio: somebody went, however it was. What is being answered hears of it, also if more was asked since."""
        self._unset_keepalive_if_required()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()  # nobody would begin it
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hear from asyncio: bytes of requests; behind one that is refused, bytes of nothing."""
        if self._refusal is None:
            self._moved = False
            try:
                self._parse(data)
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

    def on_url(self, url: bytes) -> None:
        """Hear from httptools: a piece of what is asked for."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Hear from httptools: a field of the head, or a trailer."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hear from httptools: the head is whole; the application starts when this turn of the loop is over."""
        self._moved = True
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._status = 503
            raise OverflowError
        self._unset_keepalive_if_required()  # not before: a client that sends a head drop by drop has no more time than one that sends none
        super().on_headers_complete()
        self._unfinished = True
        self.scope["extensions"] = {WHOLE: _whole(self.cycle)}  # type: ignore[dict-item]  # ASGI has no word for what is no JSON

    def on_body(self, body: bytes) -> None:
        """Hear from httptools: a piece of a body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Hear from httptools: a request is whole."""
        self._moved = True
        if not self.parser.should_upgrade():
            self._unfinished = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Hear from a cycle that an answer is whole: it is the next request's turn, or the refusal's behind the last."""
        super().on_response_complete()
        if self._refusal is not None:
            self._end_when_answered()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

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

    def _refuse(self, status: int) -> None:
        """Take no more, and say why behind the answers to what came before: ahead of one, or in it, it would be taken for that."""
        self._refusal = _refusal(status)
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


def _refusal(status: int) -> bytes:
    sentences = {431: f"the head of the request is larger than {HEAD_BYTES_MAX} bytes", 503: "too many requests at once on one connection"}
    body = b'{"error": "%s"}' % sentences.get(status, "this is no HTTP/1.1 request").encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[status] + head + body


def _whole(cycle: RequestResponseCycle) -> Whole:
    """Return what `cycle.send` does with a head and a body that are known, at once."""

    async def answer(status: int, headers: Sequence[Header], body: Sequence[Buffer]) -> None:
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        pieces: list[Buffer] = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        pieces += body
        cycle.transport.write(b"".join(pieces))  # not writelines: on Python 3.12.0 to .8 and 3.13.0, .1 it never says stop (CVE-2024-12254)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    return answer

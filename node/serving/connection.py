"""One connection's HTTP/1.1, parsed in C by httptools, with a bound on all that is not a body. Knows no model.

uvicorn's own protocol on httptools bounds neither a head nor trailers, and loses the body of a request that offers an upgrade, as every
stock Java client's does (uvicorn issue 2722). Here whatever comes without becoming a body is bounded, and a connection that offers an
upgrade is handed to uvicorn's protocol on h11, which bounds heads by itself. A whole answer leaves in one piece: its reader wakes up once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httptools
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from node.core.tensors import Buffer
from schemas.limits import KIB

HEAD_BYTES_MAX: Final = 64 * KIB  # of a request's line and fields, trailers too; what h11 takes
PIPELINED_MAX: Final = 64  # requests of one connection that wait for the one before them: each costs more memory than it has bytes
WHOLE: Final = "fleetcast.whole_answer"  # the ASGI extension under which a request finds its `Whole`

Header = tuple[bytes, bytes]
Whole = Callable[[int, Sequence[Header], Sequence[Buffer]], Awaitable[None]]  # status, headers, and the body in pieces


class Connection(HttpToolsProtocol):
    """Parses requests and starts the application for each."""

    _head_bytes = 0  # of the fields of this request
    _idle_bytes = 0  # that came since anything came of them
    _moved = False
    _refusal: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio: somebody connected, and has as long to ask as between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: somebody went, however it was."""
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of requests."""
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._hand_over(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:  # also whatever the callbacks below raise
            self._refuse(self._refusal or 400)
            return
        self._idle_bytes = 0 if self._moved else self._idle_bytes + len(data)
        if self._idle_bytes > HEAD_BYTES_MAX:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """httptools: the first bytes of a request."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of what is asked for."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a field of the head, or a trailer."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """httptools: the head is whole; the application starts when this turn of the loop is over."""
        self._moved = True
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._refusal = 503
            raise OverflowError
        self._unset_keepalive_if_required()  # not before: whoever sends a head drop by drop has no more time than whoever sends none
        super().on_headers_complete()
        self.scope["extensions"] = {WHOLE: _whole(self.cycle)}  # type: ignore[dict-item]  # ASGI has no word for what is no JSON

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of a body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """httptools: a request is whole."""
        self._moved = True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _grow(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refusal = 431
            raise OverflowError

    def _hand_over(self, rest: bytes) -> None:
        """Go on with h11, from the head of the request that offers an upgrade: httptools parses nothing behind it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(400)  # another request is still being answered, and h11 does not know of it
            return
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        successor = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        successor.connection_made(self.transport)
        self.transport.set_protocol(successor)
        successor.data_received(b"".join([*head, b"\r\n", rest]))

    def _refuse(self, status: int) -> None:
        said = {431: f"the head of the request is larger than {HEAD_BYTES_MAX} bytes", 503: "too many requests at once on one connection"}
        body = b'{"error": "%s"}' % said.get(status, "this is no HTTP/1.1 request").encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def _whole(cycle: RequestResponseCycle) -> Whole:
    """What `cycle.send` does with a head and a body that are known, at once."""

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

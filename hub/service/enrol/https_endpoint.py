"""Serves the HTTPS endpoint of the registration office: bounds, time limits and statuses, in a thread of its own. Decides nothing.

Any client that reaches it may send anything: connections are counted before their handshake, bodies are bounded before they are read, a
connection ends when it takes too long whatever it does, a token that keeps failing has to wait, requests from an address that keeps failing
take turns, and what goes wrong is a sentence or our own bug, never a traceback on the wire.
"""

import asyncio
import contextlib
import errno
import queue
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from hub.core.enrol.throttle import Throttle
from hub.core.floods.connection_limit import origin_of
from hub.service.bounded_server import bounded_config
from hub.service.enrol.bounded_listener import Listener, connections_max
from hub.service.enrol.enrolment_api import Office
from schemas import codec
from schemas.document import Document
from schemas.enrolment import (
    AUTHORITY_PATH,
    ENROL_PATH,
    RENEW_PATH,
    TIME_PATH,
    EnrolmentRefused,
    EnrolmentRequest,
    Hello,
    SealedRenewal,
)
from schemas.errors import Code, FleetcastError, Refused
from schemas.limits import KIB, TEXT_MAX
from schemas.names import sha256

log = structlog.get_logger()
D = TypeVar("D", bound=Document)

MSGPACK = "application/msgpack"
REQUEST_SECONDS_MAX = 60.0  # a request is under 16 KiB: 7 s over 20 kbit/s, with as much again for its delay
CONNECTION_SECONDS_MAX = 300.0  # an answer is 10 to 100 KB: under a minute over 20 kbit/s
CONNECTIONS_MAX = 256  # open at once, counted as they are accepted
ADDRESS_CONNECTIONS_MAX = 64  # connections from one address, behind which a whole site may be
HANDSHAKE_SECONDS_MAX = 10.0  # three round trips and 4 KB of certificates: 2 s over 20 kbit/s, with 2 s of delay each way
CROWDED_SECONDS = 60.0  # between two reports that connections had to go
HEADERS_BYTES_MAX = 16 * KIB
AT_ONCE_MAX = 4  # requests that are worked on: each is a signature or two, and a transaction
REFUSED_MAX = 1000  # refusals that wait for the hub's loop, which reports a few of each kind
STOP_SECONDS_MAX = 5
BACKLOG = 512
_STATUSES = {
    Code.SCHEMA_TOO_LARGE: 413,
    Code.SCHEMA_MALFORMED: 400,
    Code.SCHEMA_UNSUPPORTED: 400,
    Code.DISK_FULL: 503,
    Code.DATABASE_DAMAGED: 503,
}


class _Connection(H11Protocol):
    """Bound uvicorn's connection, which waits for ever for a request that drips in."""

    _limits: tuple[asyncio.TimerHandle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limits = (
            self.loop.call_later(REQUEST_SECONDS_MAX, self._end_if_silent),
            self.loop.call_later(CONNECTION_SECONDS_MAX, transport.abort),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        for limit in self._limits:
            limit.cancel()
        super().connection_lost(exc)

    def _end_if_silent(self) -> None:
        if self.cycle is None:  # not one request's headers are here
            self.transport.abort()


class _Loop(asyncio.SelectorEventLoop):
    """Shorten asyncio's loop, which otherwise waits a minute for a handshake; uvicorn has no setting for it."""

    async def create_server(self, *args: Any, **named: Any) -> asyncio.Server:
        return await super().create_server(*args, ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX, **named)


class Endpoint:
    """Listen for devices. Refusals are put into `refused`, for the hub's loop to report."""

    def __init__(self, office: Office, *, listen: str, certificate: Path, key: Path, monotonic: Callable[[], float]) -> None:
        self.refused: queue.SimpleQueue[tuple[str, Refused]] = queue.SimpleQueue()
        self._office, self._monotonic = office, monotonic
        self._certificate, self._key = certificate, key
        self._listen = listen
        self._addresses, self._tokens = Throttle(), Throttle()
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self._last_place = asyncio.Semaphore(1)  # for all addresses that keep failing, so that they cost the others a fourth at the most
        self._server: uvicorn.Server | None = None
        self._context: ssl.SSLContext | None = None
        self._thread: threading.Thread | None = None
        self._crowded_at = float("-inf")
        self.port = 0

    def start(self) -> None:
        """Listen; connections are taken from the moment this returns.

        Raises:
            Refused: PORT_IN_USE, or SETTINGS_INVALID when the address is none of this machine's.
        """
        listener = _bind(self._listen, self._ended)
        self.port = int(listener.getsockname()[1])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.reload()
        config = bounded_config(
            self._application(),
            connection=_Connection,
            headers_bytes_max=HEADERS_BYTES_MAX,
            keep_alive_seconds=10,
            stop_seconds_max=STOP_SECONDS_MAX,
            tls=self._context,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(self._server, listener), name="enrolment", daemon=True)
        self._thread.start()
        log.info("enrolment.started", listen=self._listen, port=self.port)

    def reload(self) -> None:
        """Take the certificate that stands on disk, from the next connection on."""
        if self._context is not None:
            self._context.load_cert_chain(self._certificate, self._key)

    def stop(self) -> None:
        """Answer what has begun, and end."""
        if self._thread is None or self._server is None:
            return
        self._server.should_exit = True
        self._thread.join(2 * STOP_SECONDS_MAX)
        self._thread = None

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(server.serve(sockets=[listener]))  # outside the main thread it leaves the signals to the hub

    def _ended(self, address: str) -> None:
        """Log that a connection had to go for one from this address."""
        now = self._monotonic()
        if now - self._crowded_at >= CROWDED_SECONDS:
            self._crowded_at = now
            self.refused.put((address, Refused(Code.ENROLMENT_CROWDED, f"too many connections are open, the newest is from {address}")))

    # Requests

    def _application(self) -> Starlette:
        office = self._office

        async def authority(request: Request) -> Response:
            return await self._answer(request, office.certificate)

        async def time(request: Request) -> Response:
            return await self._answered(request, Hello, office.time)

        async def enrol(request: Request) -> Response:
            return await self._answered(request, EnrolmentRequest, office.enrol)

        async def renew(request: Request) -> Response:
            return await self._answered(request, SealedRenewal, office.renew)

        post = {TIME_PATH: time, ENROL_PATH: enrol, RENEW_PATH: renew}
        routes = [Route(AUTHORITY_PATH, authority, methods=["GET"])]
        return Starlette(routes=routes + [Route(path, handler, methods=["POST"]) for path, handler in post.items()])

    async def _answered(self, request: Request, kind: type[D], answer: Callable[[D], Document]) -> Response:
        async def read() -> tuple[str, Callable[[], Document]]:
            document = codec.decode(kind, await _body(request, kind.bytes_max))
            return _token(document), lambda: answer(document)

        return await self._answer(request, read=read)

    async def _answer(
        self,
        request: Request,
        do: Callable[[], Document] | None = None,
        *,
        read: Callable[[], Awaitable[tuple[str, Callable[[], Document]]]] | None = None,
    ) -> Response:
        address = request.client.host if request.client else ""
        token = ""
        try:
            work = do
            if read is not None:
                token, work = await read()
            assert work is not None  # noqa: S101  # one of both is given
            now = self._monotonic()
            wait = self._tokens.wait_seconds(f"{origin_of(address)} {token}", now) if token else 0.0
            if wait > 0:
                return Response(status_code=429, headers={"retry-after": str(int(wait) + 1), "connection": "close"})
            places = self._last_place if self._addresses.wait_seconds(origin_of(address), now) > 0 else self._places
            async with places:
                return Response(await run_in_threadpool(lambda: codec.encode(work())), media_type=MSGPACK)
        except Refused as refusal:
            return self._refuse(address, token, refusal)
        except (TimeoutError, ClientDisconnect):
            self._failed(address, token)
            return Response(status_code=408, headers={"connection": "close"})
        except FleetcastError as error:
            log.error("enrolment.failed", reason=str(error))
            return Response(status_code=503, headers={"retry-after": "10"})
        except Exception:
            log.exception("enrolment.crashed", path=request.url.path)
            return Response(status_code=500)

    def _failed(self, address: str, token: str) -> None:
        origin, now = origin_of(address), self._monotonic()
        self._addresses.failed(origin, now)
        if token:
            self._tokens.failed(f"{origin} {token}", now)

    def _refuse(self, address: str, token: str, refusal: Refused) -> Response:
        self._failed(address, token)
        if self.refused.qsize() < REFUSED_MAX:
            self.refused.put((address, refusal))
        body = codec.encode(EnrolmentRefused(code=str(refusal.code), reason=refusal.reason[:TEXT_MAX]))
        # Closed: what is left of a body that was too large is not read.
        headers = {"connection": "close"}
        return Response(body, status_code=_STATUSES.get(refusal.code, 403), media_type=MSGPACK, headers=headers)


def _token(document: Document) -> str:
    """Return what names a token without giving it away; nothing for a renewal, in which anybody may name any node."""
    return sha256(document.secret).hex() if isinstance(document, EnrolmentRequest) else ""


async def _body(request: Request, bytes_max: int) -> bytes:
    """Read a request's body, never more of it in memory than is allowed.

    Raises:
        Refused: it is larger.
        TimeoutError: it takes too long.
    """
    found = bytearray()
    async with asyncio.timeout(REQUEST_SECONDS_MAX):
        async for part in request.stream():
            found += part
            if len(found) > bytes_max:
                raise Refused(Code.SCHEMA_TOO_LARGE, f"a body of more than {bytes_max} bytes, which are allowed at {request.url.path}")
    return bytes(found)


def _bind(listen: str, ended: Callable[[str], None]) -> Listener:
    host, _, port = listen.rpartition(":")
    listener: Listener | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(
            family,
            kind,
            proto,
            connections_max=lambda: connections_max(CONNECTIONS_MAX),
            address_max=lambda: ADDRESS_CONNECTIONS_MAX,
            ended=ended,
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.close()
        code = Code.PORT_IN_USE if error.errno == errno.EADDRINUSE else Code.SETTINGS_INVALID
        raise Refused(code, f"enrolment cannot listen on {listen}: {error.strerror or error}") from None
    return listener

"""Serve `GET /metrics` in a thread of its own. A scraper that sends nothing, reads nothing or comes too often costs a bounded little.

It answers from the last figures that the loop gathered, and never waits for the loop: a hub that hangs still says since when.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Callable

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hub.service.bounded_server import HalfClosing, bounded_config
from hub.service.enrol.bounded_listener import Listener
from schemas.errors import Code, Refused
from schemas.limits import KIB

log = structlog.get_logger()

CONNECTIONS_MAX = 16  # Open at once; a newer one takes the place of an older one.
CONNECTION_SECONDS_MAX = 30.0  # Whatever a scraper does: Prometheus itself gives up after 10 s.
HEADERS_BYTES_MAX = 8 * KIB
BACKLOG = 16
STOP_SECONDS_MAX = 1


class _Connection(HalfClosing):
    """End each connection after a while, also one that reads its answer a byte at a time."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit = self.loop.call_later(CONNECTION_SECONDS_MAX, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)


class MetricsEndpoint:
    """Listen for scrapers. `answer` takes the Accept header, and returns the body and its content type."""

    def __init__(self, host: str, port: int, answer: Callable[[str], tuple[bytes, str]]) -> None:
        self._host, self._wanted, self._answer = host, port, answer
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    def start(self) -> None:
        """Listen; connections are taken from the moment this returns.

        Raises:
            Refused: PORT_IN_USE, or SETTINGS_INVALID when the address is none of this machine's.
        """
        listener = _bind(self._host, self._wanted)
        self.port = int(listener.getsockname()[1])
        config = bounded_config(
            Starlette(routes=[Route("/metrics", self._metrics)]),
            connection=_Connection,
            headers_bytes_max=HEADERS_BYTES_MAX,
            keep_alive_seconds=1,
            stop_seconds_max=STOP_SECONDS_MAX,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(server, listener), name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics.started", host=self._host, port=self.port)

    def stop(self) -> None:
        """Listen no more."""
        if self._thread is not None and self._server is not None:
            self._server.should_exit = True
            self._thread.join(2 * STOP_SECONDS_MAX)
            self._thread = None

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(server.serve(sockets=[listener]))

    async def _metrics(self, request: Request) -> Response:
        """Answer GET /metrics. A web page that has its own name lead here is refused, as on a node."""
        if not _is_ours(request.headers.get("host", "")):
            reason = "ask by IP address, as localhost, or by this machine's name: the request names another host"
            return PlainTextResponse(f"{reason}\n", status_code=403, headers={"connection": "close"})
        body, content_type = self._answer(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "connection": "close"})


def _is_ours(host: str) -> bool:
    """Return whether a Host header names this machine, and not a name that somebody else has lead to it."""
    name = host[: host.rindex("]") + 1].strip("[]") if "]" in host else host.rpartition(":")[0] or host
    if name.lower() in {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bind(host: str, port: int) -> Listener:
    listener: Listener | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = Listener(
            family, kind, proto, connections_max=lambda: CONNECTIONS_MAX, address_max=lambda: CONNECTIONS_MAX, ended=lambda address: None
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.close()
        if error.errno == errno.EADDRINUSE:
            mend = f"another program listens on port {port} of {host}: choose another metrics_port in fleet.toml"
            raise Refused(Code.PORT_IN_USE, f"the hub cannot show its metrics: {mend}") from None
        reason = f"metrics_host {host!r} with metrics_port {port}: {error.strerror or error}"
        raise Refused(Code.SETTINGS_INVALID, reason) from None
    return listener

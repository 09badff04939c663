"""Serve the API in a thread of the hub's process, with a loop of its own: it shares only the database and the fleet's folder with the hub.

Nothing of it is imported before somebody connects, so that a hub whose API nobody uses pays for a socket and a thread that sleeps.
"""

import asyncio
import contextlib
import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import structlog

from fleetcast import durable
from hub.operations.opened_fleet import OpenedFleet
from hub.service.enrol.bounded_listener import Listener, connections_max
from schemas.errors import Code, Refused
from schemas.limits import KIB

if TYPE_CHECKING:
    import uvicorn

log = structlog.get_logger()

EXTRA: Final = "fleetcast[web]"
PORT_NAME: Final = "web/port"
CONNECTIONS_MAX: Final = 1440  # Room for 1,000 pages that are followed, 256 event streams, and requests beside them.
REQUEST_SECONDS_MAX: Final = 60.0  # Until the headers of a first request are here.
HEADERS_BYTES_MAX: Final = 16 * KIB
WRITE_SECONDS_MAX: Final = 30.0  # How long a client may leave what it was sent.
STOP_SECONDS_MAX: Final = 5
BACKLOG: Final = 512


class Server:
    """Listen, and serve the API from the first connection on."""

    def __init__(self, fleet: OpenedFleet, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fleet, self._monotonic = fleet, monotonic
        self._listener: Listener | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake: tuple[socket.socket, socket.socket] | None = None

    def start(self) -> str | None:
        """Listen, and return the API's address; None where it is disabled, or what it needs is not installed.

        Raises:
            Refused: PORT_IN_USE, SETTINGS_INVALID, or the certificate cannot be read.
        """
        settings = self._fleet.settings
        if not settings.web_listen:
            return None
        if find_spec("fastapi") is None or find_spec("jinja2") is None:
            reason = f"API and console need FastAPI and Jinja2, which the extra {EXTRA} brings; an empty web_listen turns it off"
            log.warning("api.not_installed", reason=reason)
            return None
        context = _context(settings.web_tls_certificate, settings.web_tls_key)
        host, _, port = settings.web_listen.rpartition(":")
        self._listener = self._bound(host, int(port) or self._kept_port())
        port_now = int(self._listener.getsockname()[1])
        if not int(port):
            (self._fleet.directory / PORT_NAME).parent.mkdir(exist_ok=True)
            durable.write(self._fleet.directory / PORT_NAME, f"{port_now}\n".encode(), synced=False)
        self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(self._listener, context, host), name="api", daemon=True)
        self._thread.start()
        url = f"{'https' if context is not None else 'http'}://{host or '127.0.0.1'}:{port_now}"
        log.info("api.started", url=url)
        return url

    @property
    def fleet(self) -> OpenedFleet:
        """Return the fleet that it serves, with a connection to the database of its own."""
        return self._fleet

    def stop(self) -> None:
        """Answer what has begun, and end."""
        if self._thread is None or self._wake is None:
            return
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        self._wake[1].send(b"\0")
        self._thread.join(2 * STOP_SECONDS_MAX)
        for one in self._wake:
            one.close()
        self._thread = None
        self._fleet.store.close()

    def _kept_port(self) -> int:
        """Return the port that was picked before; 0 where none was, or another program has it now."""
        try:
            port = int((self._fleet.directory / PORT_NAME).read_text())
        except (OSError, ValueError):
            return 0
        return port if 0 < port < 65536 else 0

    def _bound(self, host: str, port: int) -> Listener:
        picks = self._fleet.settings.web_listen.endswith(":0")
        try:
            return _bind(host, port)
        except OSError as error:
            if picks and port and error.errno == errno.EADDRINUSE:
                return self._bound(host, 0)
            code = Code.PORT_IN_USE if error.errno == errno.EADDRINUSE else Code.SETTINGS_INVALID
            reason = f"the API cannot listen on {self._fleet.settings.web_listen}: {error.strerror or error}"
            raise Refused(code, f"{reason}; `web_listen` in fleet.toml says where") from None

    def _run(self, listener: Listener, context: ssl.SSLContext | None, host: str) -> None:
        try:
            assert self._wake is not None  # noqa: S101  # it is made before the thread
            select.select([listener, self._wake[0]], [], [])
            if not self._stopping.is_set():
                self._serve(listener, context, host)
        except Exception:
            log.exception("api.crashed")
        finally:
            with contextlib.suppress(OSError):
                listener.close()

    def _serve(self, listener: Listener, context: ssl.SSLContext | None, host: str) -> None:
        import uvicorn  # noqa: PLC0415  # with FastAPI it takes a second, which nobody pays who does not use it

        from hub.service.bounded_server import bounded_config  # noqa: PLC0415
        from hub.web.application import application  # noqa: PLC0415
        from hub.web.connection import Connection  # noqa: PLC0415
        from hub.web.guard import LOOPBACK_NAMES, Door  # noqa: PLC0415

        own = {host.strip("[]").lower()} if host.strip("[]") not in {"", "0.0.0.0", "::"} else set()  # noqa: S104  # compared, not bound
        names = own | {name.lower() for name in self._fleet.settings.web_hosts} | LOOPBACK_NAMES
        self._server = uvicorn.Server(
            bounded_config(
                application(Door(self._fleet, frozenset(names), self._monotonic)),
                connection=Connection,
                headers_bytes_max=HEADERS_BYTES_MAX,
                keep_alive_seconds=10,
                stop_seconds_max=STOP_SECONDS_MAX,
                tls=context,
                runs_lifespan=True,
            )
        )
        if self._stopping.is_set():
            return
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._server.serve(sockets=[listener]))  # outside the main thread it leaves the signals to the hub


def _bind(host: str, port: int) -> Listener:
    found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    family, kind, proto, _, address = found
    # Behind a proxy, and on loopback, all connections are from one address.
    most = partial(connections_max, CONNECTIONS_MAX)
    listener = Listener(family, kind, proto, connections_max=most, address_max=most, ended=_crowded)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _crowded(address: str) -> None:
    log.warning("api.crowded", address=address)


def _context(certificate: str, key: str) -> ssl.SSLContext | None:
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Refused(Code.KEY_UNREADABLE, f"web_tls_certificate {certificate} and its key: {error.strerror or error}") from None
    return context

"""Configure uvicorn for an endpoint of the hub: the metrics, enrolment and the API, each with bounds of its own, and all else alike."""

import ssl
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

LISTENS: Final = "fleetcast.listens"  # In the state of a request: its answer goes on until its client hangs up.
KEEP: Final = "fleetcast.keep"  # What keeps its connection when others need room.
HALF_CLOSED: Final = "fleetcast.half_closed"  # Its client has closed its sending side.


class HalfClosing(H11Protocol):
    """Answer a client that closes its sending side behind a whole request, as `nc -N` does, and then close the connection.

    uvicorn lets asyncio close a connection at the end of what the client sends, whatever is being answered. A client that closes
    the connection altogether looks the same, so an answer that goes on until its client leaves ends here. Over TLS asyncio ends it anyway.
    """

    _half_closed = False

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Hear from asyncio that the client sends no more; True keeps the connection open."""
        cycle = self.cycle
        is_whole = cycle is not None and not cycle.response_complete and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)
        if not is_whole or self.transport.get_extra_info("sslcontext") is not None or self.scope["state"].get(LISTENS):
            return None
        self._half_closed = True
        self.scope["state"][HALF_CLOSED] = True
        return True

    def on_response_complete(self) -> None:
        """Begin what was asked behind it, or close the connection of a client that asks no more."""
        super().on_response_complete()
        if self._half_closed and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def bounded_config(
    application: Any,
    *,
    connection: type[H11Protocol],
    headers_bytes_max: int,
    keep_alive_seconds: int,
    stop_seconds_max: int,
    tls: ssl.SSLContext | None = None,
    runs_lifespan: bool = False,
) -> uvicorn.Config:
    """Return the configuration: HTTP/1.1 alone, headers bounded, no log of its own, no name of the server, no word of a proxy believed."""
    context: dict[str, Any] = {"ssl_context_factory": lambda config, default: tls} if tls is not None else {}
    return uvicorn.Config(
        application,
        http=connection,
        lifespan="on" if runs_lifespan else "off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=headers_bytes_max,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=stop_seconds_max,
        **context,
    )

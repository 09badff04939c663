"""Configure uvicorn for an endpoint of the hub: the metrics, enrolment and the API, each with bounds of its own, and all else alike."""

import ssl
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


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

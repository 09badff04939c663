"""Choose where the agent listens: by its settings, or on the socket that a service manager holds for it."""

import os

from node.serving.server import Listen
from node.settings import NodeSettings


def listen_of(settings: NodeSettings) -> Listen:
    """Return where local programs ask."""
    return Listen(
        host=settings.host,
        port=settings.port if settings.tcp else None,
        uds=settings.unix_socket,
        fd=_inherited_socket(),
        grpc_port=settings.grpc_port,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        counts_to_all=settings.remote_metrics == "all",
    )


def _inherited_socket() -> int | None:
    """Return the listening socket that a service manager holds for us, by systemd's protocol: requests then wait while we restart."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not os.environ.get("LISTEN_FDS"):
        return None
    return 3  # SD_LISTEN_FDS_START

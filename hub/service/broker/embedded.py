"""Runs the embedded broker for the service: on a port that stays the same, started again when it dies."""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import structlog

from fleetcast import durable
from hub.service.alerts.event_log import Notes
from hub.service.broker.rumqttd import HOST, EmbeddedBroker
from schemas.errors import Refused, Unreachable

log = structlog.get_logger()

PORT_NAME = "port"
RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 0.2, 10.0


class OwnBroker:
    """Run the broker as a child process, and watch it."""

    def __init__(self, directory: Path, *, port: int, notes: Notes, monotonic: Callable[[], float]) -> None:
        self._notes, self._monotonic = notes, monotonic
        self._broker = EmbeddedBroker(port or _kept_port(directory), directory)
        self._restart_at = 0.0
        self._seconds = RESTART_SECONDS_MIN
        self._died = False

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._broker.url

    @property
    def pid(self) -> int | None:
        """Return its process."""
        return self._broker.pid

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            Refused: its port is taken.
            Unreachable: it does not answer.
        """
        self._broker.start()
        self._broker.wait_ready()
        log.info("broker.started", url=self.url, pid=self.pid)

    def revive(self) -> bool:
        """Start it again if it has died; True when it was."""
        if not self._died:
            code = self._broker.poll()
            if code is None:
                return False
            log.error("broker.died", exit_code=code, url=self.url)
            self._died, self._seconds = True, RESTART_SECONDS_MIN
        now = self._monotonic()
        if now < self._restart_at:
            return False
        self._restart_at = now + self._seconds
        self._seconds = min(RESTART_SECONDS_MAX, 2 * self._seconds)
        try:
            self.start()
        except (Refused, Unreachable) as error:
            log.error("broker.start_failed", reason=str(error))
            return False
        self._died = False
        text = f"the embedded broker died and was started again at {self.url}, with nothing in its memory"
        self._notes.event("broker.restarted", text, url=self.url, pid=self.pid)
        return True

    def stop(self) -> None:
        """End it."""
        self._broker.stop()


def _kept_port(directory: Path) -> int:
    """Return the port of the last time, so that nodes find the hub again; else a free one, kept for the next time."""
    path = directory / PORT_NAME
    with contextlib.suppress(OSError, ValueError):
        port = int(path.read_text())
        if 0 < port < 65536:
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    directory.mkdir(parents=True, exist_ok=True)
    durable.write(path, f"{port}\n".encode())
    return port

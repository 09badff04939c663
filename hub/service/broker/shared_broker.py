"""Leaves a session that a hub of another fleet uses, too: on a broker without certificates both may call themselves `hub`.

What waits there for the other hub is not acknowledged, so that it gets all of it at its next connection. Where nothing but its client id
tells a client's name, this hub goes on under an id with its fleet's name, and keeps to it: nobody has to do anything. What waited for it in
the old session is lost with that: states are retained, and nodes are asked for receipts and windows again, as after any lost session.
Decision 37 says why not all hubs do so.
"""

from collections.abc import Callable
from pathlib import Path

import structlog

from fleetcast import durable
from fleetcast.mqtt_connection import BrokerUrl
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import HubLink
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code

log = structlog.get_logger()

MARKER = "client-id-has-fleet"  # File in the fleet's folder: its processes use ids with the fleet's name.
AGAIN_SECONDS = 6 * 3600.0  # Between two alerts about what lasts.


def client_id_of(directory: Path, settings: HubSettings) -> str:
    """Return the name by which the broker knows this process."""
    has_fleet = not settings.tls_ca and (settings.client_id_has_fleet or (directory / MARKER).exists())
    return with_fleet(settings) if has_fleet else settings.client_id


def with_fleet(settings: HubSettings) -> str:
    """Return the id that no client of another fleet has."""
    return f"{settings.fleet}.{settings.client_id}"


class SharedBroker:
    """Handle what comes for another fleet. Called by the loop's thread alone; `now` is monotonic."""

    def __init__(self, directory: Path, settings: HubSettings, *, link: HubLink, notes: Notes, wall: Callable[[], float]) -> None:
        self._directory, self._settings, self._link, self._notes, self._wall = directory, settings, link, notes, wall
        self.client_id = client_id_of(directory, settings)  # The present one.
        self._alerted_at = float("-inf")

    def met(self, other: str, *, now: float) -> bool:
        """Leave the connection, by which a message of this fleet came, and return whether the next one is under another name."""
        before, fleet = self.client_id, self._settings.fleet
        url = self._settings.broker_url  # Empty: the embedded broker, which knows nobody by a certificate.
        moves = (not url or BrokerUrl.parse(url).is_anonymous) and before != with_fleet(self._settings)
        what = f"the hub of fleet {fleet!r} was given messages of fleet {other!r}: the broker takes hubs of both for one client, {before!r}"
        if moves:
            self._link.leave_session()
            self.client_id = with_fleet(self._settings)
            self._link.rename(self.client_id)
            durable.write(self._directory / MARKER, f"{other}\n".encode())
            mend = f"this one connects as {self.client_id!r} from now on, and has acknowledged nothing of {other!r}"
        else:
            self._link.close()
            mend = f"it acknowledges nothing of {other!r} and pauses; give each fleet a broker of its own"
        if moves or now - self._alerted_at >= AGAIN_SECONDS:
            self._alerted_at = now
            log.error("fleet.met", reason=f"{what}; {mend}")
            self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.BROKER_SHARED), text=f"{what}; {mend}"))
        return moves

"""Reports that another client takes the hub's connection, also one that does not say who it is: a hub of an earlier version."""

from fleetcast.mqtt_connection import Disconnected
from hub.service.alerts.event_log import Notes
from schemas.analytics_messages import Alert
from schemas.errors import Code

AGAIN_SECONDS = 6 * 3600.0  # Between two alerts.


class TakenOver:
    """Alert that a second hub seems to run, once in a long while: not every broker says who ended the connection."""

    def __init__(self, notes: Notes) -> None:
        self._notes, self._reported_at = notes, float("-inf")

    def report(self, event: Disconnected, *, client_id: str, now: float, at: int) -> None:
        """Report it; `now` is monotonic."""
        if now - self._reported_at < AGAIN_SECONDS:
            return
        self._reported_at = now
        why = (
            f"another client has connected as {client_id!r}" if event.taken_over else "connections to the broker end soon after they begin"
        )
        other = "" if "." in client_id else ", or the hub of another fleet uses this broker and the same client id"
        text = f"{why}: a second hub of this fleet seems to run, perhaps on the host that the fleet has left{other} ({event.reason})"
        self._notes.alert(Alert(kind="refused", at=at, code=str(Code.HUB_DUPLICATE), text=text))

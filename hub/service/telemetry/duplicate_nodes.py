"""Notices two devices that use one node's name and key, alerts once by name, and keeps it for `fleetcast nodes`."""

from collections.abc import Callable

from hub.core.rollouts.duplicates import OVER_SECONDS, Speakers, spoke
from hub.database.device_lives import DeviceLives, Duplicate
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import StateArrived
from hub.service.rollouts.listening import ListeningClock
from schemas.analytics_messages import Alert
from schemas.errors import Code


class DuplicateNodes:
    """Track which names two devices use."""

    def __init__(self, lives: DeviceLives, notes: Notes, *, clock: Callable[[], float], listening: ListeningClock) -> None:
        self._lives, self._notes, self._clock, self._listening = lives, notes, clock, listening
        self._speakers: dict[str, Speakers] = {}
        self._signs = {row.node: (row.since, listening.seconds) for row in lives.duplicates()}  # since when, and the last sign

    def follow(self, event: StateArrived) -> None:
        """Take in a state that counts; a Will is the broker's, and older nodes do not name their process."""
        state, process = event.state, event.message.process
        if not process or state.status == "lost":
            return
        self._speakers[state.node], shows_two = spoke(self._speakers.get(state.node, Speakers()), process, state.session)
        if shows_two:
            self.sign(state.node)

    def sign(self, node: str) -> None:
        """Take in a sign of two devices: alert at the first of an episode."""
        now = int(self._clock())
        since, _ = self._signs.get(node, (now, 0.0))
        if node not in self._signs:
            text = f"two devices use the name and key of node {node}, and end each other's connections: was its folder or its card copied?"
            self._notes.alert(Alert(kind="refused", at=now, node=node, code=str(Code.NODE_DUPLICATE), text=text))
        self._signs[node] = since, self._listening.seconds
        self._lives.put_duplicate(Duplicate(node, since, now))

    def forget(self, node: str) -> None:
        """Forget a name that nobody has any more."""
        self._signs.pop(node, None)
        self._speakers.pop(node, None)

    def tick(self) -> None:
        """End episodes of which there was no sign for long."""
        for node in [one for one, (_, last) in self._signs.items() if self._listening.seconds - last > OVER_SECONDS]:
            del self._signs[node]
            self._lives.drop_duplicate(node)

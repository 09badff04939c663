"""Asks nodes once more for receipts that never came: a broker can lose what it has acknowledged, and a hub its database.

A node keeps what it has sent for a broker that forgot. It does not see that the broker had nobody to give it to, that the hub was put
back to an older copy, or that it did not know the node's key yet. The hub sees it: the node's state, which is retained, says more than
its receipts have proved.
"""

from collections.abc import Callable, Mapping

import structlog

from hub.core.rollouts.fleet import Node, lacks_receipts
from hub.service.rollouts.listening import ListeningClock
from schemas.errors import Unreachable

log = structlog.get_logger()

LOOK_SECONDS = 30.0  # A receipt comes a moment after the state that it proves.
AGAIN_SECONDS_MAX = 86_400.0  # Between two requests to one node; it begins with two looks, and doubles: older nodes do not answer.
AT_ONCE_MAX = 100  # Requests of one look, so that a fleet whose hub has lost its database does not answer all at once.


class ReceiptRequests:
    """Track of which nodes receipts are missing."""

    def __init__(
        self, nodes: Mapping[str, Node], *, ask: Callable[[str], None], listening: ListeningClock, monotonic: Callable[[], float]
    ) -> None:
        self._nodes, self._ask, self._listening, self._monotonic = nodes, ask, listening, monotonic
        self._looked_at = monotonic()
        self._due: dict[str, tuple[float, float]] = {}  # When each is asked, and the pause before that.

    def tick(self) -> None:
        """Ask each node whose receipts are missing for some time."""
        now = self._monotonic()
        if now - self._looked_at < LOOK_SECONDS or not self._listening.runs:
            return
        self._looked_at = now
        lacking = [name for name, node in self._nodes.items() if node.status == "online" and lacks_receipts(node)]
        self._due = {name: self._due.get(name, (now + LOOK_SECONDS, LOOK_SECONDS)) for name in lacking}
        try:
            for name in [name for name, (at, _) in self._due.items() if at <= now][:AT_ONCE_MAX]:
                self._ask(name)
                pause = min(2 * self._due[name][1], AGAIN_SECONDS_MAX)
                self._due[name] = now + pause, pause
                log.info("receipts.asked_again", node=name, again_seconds=pause)
        except Unreachable as error:
            log.warning("receipts.not_asked", reason=str(error))

"""Alerts of roles whose new key has not signed yet, and says when it has."""

from collections.abc import Callable
from typing import Final

from hub.service.alerts.event_log import Notes
from hub.signing.tuf_repository import Repository
from hub.signing.unsigned_roles import Unsigned, unsigned_in_words
from schemas.analytics_messages import Alert
from schemas.errors import Code

PATIENCE_SECONDS: Final = 30.0  # A command that changes keys takes a moment from the first step to the last.
LOOK_SECONDS: Final = 10.0


class UnsignedAlerts:
    """Raise one alert for each set of such roles."""

    def __init__(self, repository: Repository, notes: Notes, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._repository, self._notes, self._wall, self._monotonic = repository, notes, wall, monotonic
        self._found: Unsigned | None = None
        self._generation = -1
        self._since: float | None = None
        self._reported: tuple[str, ...] = ()
        self._looked_at = float("-inf")

    def tick(self) -> None:
        """Look now and then."""
        now = self._monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        generation = self._repository.generation()  # Read before: what is signed while we look is seen at the next look.
        if self._found is None or generation != self._generation:
            self._found, self._generation = self._repository.unsigned(self._found), generation
        found = self._found
        if not found.roles:
            if self._reported:
                self._notes.event("key", f"the new keys of {', '.join(self._reported)} have signed")
            self._since, self._reported = None, ()
            return
        self._since = now if self._since is None else self._since
        if found.roles == self._reported or now - self._since < PATIENCE_SECONDS:
            return
        self._reported = found.roles
        for text in unsigned_in_words(found.roles, len(self._repository.models())):
            self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.KEY_NOT_AUTHORISED), text=text))

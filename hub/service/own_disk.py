"""Handle trouble with the hub's own disk: a full one is waited for, a damaged database ends the hub, and people hear of both."""

from collections.abc import Callable
from typing import Final

import structlog

from fleetcast import disk_room
from hub.service.alerts.event_log import Notes
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused

log = structlog.get_logger()

TROUBLE_SECONDS = 600.0  # between two alerts about what stays broken
MENDED_SECONDS = 15.0  # without meeting damage again: then it is mended
LOGGED_SECONDS = 10.0  # between two lines of the log about it: each turn meets it again
OWN_DISK: Final = frozenset({Code.DISK_FULL, Code.DATABASE_DAMAGED})  # Refusals that say nothing of a message: it is not acknowledged.


class OwnDisk:
    """Report what is wrong with one hub's disk. Called by the loop's thread alone."""

    def __init__(
        self, notes: Notes, *, publish: Callable[[Alert], None], wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        """Send an alert by `publish` that cannot be kept, because the disk takes nothing."""
        self._notes, self._publish, self._wall, self._monotonic = notes, publish, wall, monotonic
        self._full_told_at = self._damage_told_at = float("-inf")
        self._damaged_at = float("-inf")
        self._is_unrecorded = False
        self._logged, self._logged_at = "", float("-inf")

    def refused(self, refusal: Refused) -> None:
        """Take in what ended a turn.

        Raises:
            Refused: DATABASE_DAMAGED.
        """
        if refusal.code is Code.DATABASE_DAMAGED:
            raise refusal
        now = self._monotonic()
        if refusal.reason != self._logged or now - self._logged_at >= LOGGED_SECONDS:
            self._logged, self._logged_at = refusal.reason, now
            log.error(str(refusal.code), code=str(refusal.code), reason=refusal.reason)
        if refusal.code is Code.DISK_FULL:
            self._is_unrecorded = True
            if now - self._full_told_at >= TROUBLE_SECONDS:
                self._full_told_at = now
                self._publish(self._alert(refusal))

    def failed(self, error: OSError) -> bool:
        """Take in an error of the disk that ended a turn, and return whether it says that there is no room."""
        if error.errno not in disk_room.TAKES_NOTHING:
            return False
        what = f"no room on the disk for {error.filename or 'what was to be written'}: {error.strerror}"
        self.refused(Refused(Code.DISK_FULL, f"{what}; make room there, or mount it for writing"))
        return True

    def worked(self) -> None:
        """Take in that a turn went well, and keep that the disk was full before, and what was raised meanwhile."""
        if self._monotonic() - self._damaged_at >= MENDED_SECONDS:
            self._notes.troubles.end(str(Code.METADATA_DAMAGED))
        self._notes.keep_late()
        if not self._is_unrecorded:
            return
        text = "the hub's disk was full, or could not be written, and is so no more"
        self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.DISK_FULL), text=text))
        self._notes.event(str(Code.DISK_FULL), text)
        self._is_unrecorded = False

    def work_refused(self, refusal: Refused) -> None:
        """Take in what one part refused, which must not keep the others from their turn.

        Raises:
            Refused: what the whole turn cannot go on with.
        """
        if refusal.code in OWN_DISK:
            raise refusal
        if refusal.code is Code.METADATA_DAMAGED:  # It is met again at every turn until somebody mends it.
            now = self._damaged_at = self._monotonic()
            self._notes.troubles.begin(str(refusal.code), refusal.reason)
            if now - self._damage_told_at < TROUBLE_SECONDS:
                return
            self._damage_told_at = now
            self._notes.alert(self._alert(refusal))
        log.error("work.refused", code=str(refusal.code), reason=refusal.reason)

    def _alert(self, refusal: Refused) -> Alert:
        return Alert(kind="refused", at=int(self._wall()), code=str(refusal.code), text=f"the hub: {refusal.reason}")

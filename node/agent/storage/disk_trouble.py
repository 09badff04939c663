"""Handle a disk that takes nothing, or has damaged the store: go on serving, try again, and report it."""

from collections.abc import Callable

import structlog

from fleetcast.mqtt_connection import Message
from node.agent.events import Event
from node.agent.reports.agent_status import StatusWriter
from node.agent.reports.standing_findings import StandingFindings
from node.broker.mqtt import DocumentEvent
from node.core.trust.clock import NEVER, MonotonicClock
from node.storage.store import NodeStore
from node.storage.store_file import trouble_of
from schemas.errors import Code, Refused

log = structlog.get_logger()

AGAIN_SECONDS = 5.0  # between two tries on a full disk
OVER_SECONDS = 30.0  # without a write that failed, until the disk counts as well again
LOGGED_SECONDS = 60.0  # between two lines about it in the log
DEFERRED_MAX = 256  # events that wait for room; more are dropped, and come again with the next connection


class DiskTrouble:
    """Handle one agent's trouble with its disk. Called by the loop's thread alone."""

    def __init__(
        self,
        store: NodeStore,
        status_writer: StatusWriter,
        findings: StandingFindings,
        monotonic: MonotonicClock,
        *,
        refused: Callable[[Refused, str], None],
        acknowledge: Callable[[Message], None],
    ) -> None:
        """Report by `refused` that the store was damaged when it was opened."""
        self._acknowledge = acknowledge
        self._store, self._status_writer, self._findings, self._monotonic = store, status_writer, findings, monotonic
        self.damage: Refused | None = None  # the store turned out damaged: the agent ends, and its next start goes on
        self._met = self._is_found = False
        self._tried_at = self._met_at = self._logged_at = NEVER
        self._deferred: list[Event] = []
        status_writer.read_only = store.stuck
        if store.stuck:
            log.error("disk.full", reason=store.stuck, effect="it serves what is here, and keeps nothing")
        self._find(store.stuck)
        if store.damage:
            text = f"the node's database was damaged, and is set aside: {store.damage}; what was served is taken up from the disk"
            refused(Refused(Code.STORE_DAMAGED, text), "")

    def explains(self, error: BaseException) -> bool:
        """Return whether the disk is to blame for an error, and not we."""
        match trouble_of(error):
            case "damaged":
                log.error("store.damaged", reason=str(error))
                self.damage = Refused(Code.STORE_DAMAGED, f"{error}; it is set aside, and the next start goes on with what else is here")
            case "stuck":
                self._met, self._met_at = True, self._monotonic()
                self._status_writer.trouble(str(error))
                self._find(str(error))
                if self._met_at - self._logged_at >= LOGGED_SECONDS:
                    self._logged_at = self._met_at
                    log.error("disk.full", reason=str(error))
            case None:
                return False
        return True

    def defers(self, event: Event) -> bool:
        """Return whether an event is kept for later, because it has just met a full disk: its effect is not durable, so it is not
        acknowledged.
        """
        met, self._met = self._met, False
        if not met:
            return False
        self._drop_older(event)
        if len(self._deferred) >= DEFERRED_MAX:
            return False
        self._deferred.append(event)
        return True

    def handled(self, event: Event) -> None:
        """Take in that a message had its effect: an older one of its topic that waits for room would undo it."""
        self._drop_older(event)

    def _drop_older(self, event: Event) -> None:
        if not isinstance(event, DocumentEvent):
            return
        for older in [one for one in self._deferred if isinstance(one, DocumentEvent) and one.message.topic == event.message.topic]:
            self._deferred.remove(older)
            self._acknowledge(older.message)

    def again(self) -> list[Event]:
        """Return events that met a full disk some time ago."""
        self._met = False
        if not self._deferred or self._monotonic() - self._met_at < AGAIN_SECONDS:
            return []
        found, self._deferred = self._deferred, []
        return found

    def tick(self) -> None:
        """Forget trouble that was not met again for some time."""
        if self._is_found and not self._store.stuck and self._monotonic() - self._met_at >= OVER_SECONDS:
            self._find("")

    def _find(self, reason: str) -> None:
        """Report to the hub, in this node's state, that its disk takes nothing; "" where it does."""
        self._is_found = bool(reason)
        mend = "make room there, or mount it for writing"
        text = f"the disk takes nothing: {reason}; this node serves what is on it, and takes nothing new: {mend}"
        self._findings.put("site", "disk", [Refused(Code.DISK_FULL, text)] if reason else ())

    def write_down(self) -> None:
        """Put a store that is in memory back on the disk, which may have room again."""
        if self._monotonic() - self._tried_at < AGAIN_SECONDS:
            return
        self._tried_at = self._monotonic()
        self._store.write_down()
        self._status_writer.read_only = ""
        self._find("")
        log.info("store.written_down")

    def write_down_at_last(self, checkpoint: Callable[[], None], open_windows: Callable[[], int]) -> None:
        """Write what is counted before the end, or log that it is lost."""
        try:
            if self._store.stuck:
                self._store.write_down()
            checkpoint()
        except Exception as error:
            if not self.explains(error):
                raise
            log.error("telemetry.lost", windows=open_windows(), reason=str(error))

    def close(self) -> None:
        """Release the store; a damaged one is set aside."""
        if self.damage is None:
            self._store.close()
        else:
            self._store.set_aside()

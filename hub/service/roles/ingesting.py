"""The role `ingest`: take in what nodes report. Several processes divide the nodes by their shards."""

from collections.abc import Callable, Iterable

from fleetcast.mqtt_connection import Connected, Message
from hub.core.roles.shards import Shard
from hub.service.broker.mqtt import HubEvent, ReceiptArrived, StateArrived, WindowArrived
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.roles.shared_parts import Common, Handle, Role, Work
from hub.service.telemetry.ingest import Ingest
from hub.service.telemetry.window_requests import LostWindows
from schemas.errors import Refused

OPEN_SECONDS = 60.0  # Between two looks at which intervals another process has tested.


class Ingesting(Role):
    """Take in states, receipts and windows."""

    kinds = ("state", "receipt", "telemetry")

    def __init__(
        self, common: Common, enrolling: Enrolling, *, shard: Shard, set_cohorts: Callable[[], Iterable[str]], tests_itself: bool
    ) -> None:
        self._common, self._shard, self._tests_itself = common, shard, tests_itself
        settings = common.settings
        self.ingest = Ingest(
            store=common.store,
            notes=common.notes,
            roll=enrolling.roll,
            look=enrolling.follow,
            releases=common.releases,
            silent_seconds=settings.silent_seconds,
            topic_of=common.link.topics.receipt,
            window_rows_max=settings.window_rows_max,
            window_age_days_max=settings.window_age_days_max,
            set_cohorts=set_cohorts,
            random_bytes=common.rng.randbytes,
            clock=common.wall,
            listening=common.listening,
            is_mine=shard.has,
        )
        self.nodes = self.ingest.nodes
        self.shared = ("telemetry",) if shard.count > 1 else ()
        self._shares = False
        self._opened_at = common.monotonic()
        self._lost_windows = LostWindows(
            common.store.database,
            process=settings.process_name,
            ask=common.link.ask_for_windows,
            listening=common.listening,
            random_bytes=common.rng.randbytes,
            monotonic=common.monotonic,
        )

    def begin(self) -> None:
        """Take up which nodes an earlier process still asked for windows."""
        self._lost_windows.begin()

    def connected(self, event: Connected) -> None:
        """Take in whether the broker divides windows among those who take them in, and whether it has lost any."""
        self._shares = event.shared_available and bool(self.shared)
        self._lost_windows.connected(session_present=event.session_present)

    def is_foreign(self, message: Message) -> bool:
        """Return whether a message is for another process of this role."""
        if self._shard.count == 1:
            return False
        try:
            address = self._common.link.topics.parse(message.topic)
        except Refused:
            return False
        match address.kind:
            case "state" | "receipt":
                return not self._shard.has(address.levels[0])
            case "telemetry":
                return not self._shares and not self._shard.has("/".join(address.levels))
            case _:
                return False

    def take(self, events: list[HubEvent], handle: Handle) -> None:
        """Take each kind in one transaction."""
        if states := [event for event in events if isinstance(event, StateArrived)]:
            handle.many(states, self.ingest.states)
        if windows := [event for event in events if isinstance(event, WindowArrived)]:
            handle.many(windows, self.ingest.windows)
        if receipts := [event for event in events if isinstance(event, ReceiptArrived)]:
            handle.many(receipts, self.ingest.receipts)

    def tick(self, work: Work, *, online: bool) -> None:
        """Report who is silent, and keep when nodes were heard."""
        work(self.ingest.tick)
        while online and self.ingest.to_clear:
            # The states of forgotten nodes go off the broker, or a hub that loses its database would know them again.
            self._common.link.clear_state(self.ingest.to_clear.pop())
        now = self._common.monotonic()
        if not self._tests_itself and now - self._opened_at >= OPEN_SECONDS:
            self._opened_at = now
            work(self.ingest.follow_tests)
        work(lambda: self._lost_windows.tick(online=online))

    def leave(self) -> None:
        """Keep when nodes were heard."""
        self.ingest.save()
        self._lost_windows.leave()

"""Serves wants: from a node's ranges to payloads, coalesced, published as fast as the broker takes them."""

from collections.abc import Callable

import structlog

from fleetcast.block_server import BlockServer, Clear, Send
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.publish.readable import Readable
from hub.publish.shared_blocks import Elsewhere
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import HubLink, WantArrived
from hub.service.delivery.block_fetcher import BlockFetcher, fetcher_of
from hub.service.delivery.block_pace import BlockPace
from hub.service.rollouts.release_lookup import Releases
from hub.service.rollouts.rollout_traces import RolloutTraces
from hub.settings import HubSettings
from schemas.block_request import Want
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import HEADER_BYTES, PACKET_BYTES_MAX
from schemas.manifest import Payload

log = structlog.get_logger()

IN_FLIGHT_MAX = 48  # publishes that the broker has not taken yet; their payloads are in memory


class Wants:
    """Serve blocks: connect the block server with the disk and the broker."""

    def __init__(
        self,
        server: BlockServer,
        *,
        store: Store,
        blocks: Readable,
        releases: Releases,
        link: HubLink,
        clock: Callable[[], float],
    ) -> None:
        self.fetcher: BlockFetcher | None = None  # Brings blocks from an object store, where there is one.
        self._server, self._store, self._blocks, self._releases, self._link, self._clock = server, store, blocks, releases, link, clock
        self._in_flight: set[int] = set()
        self.traces = RolloutTraces()  # Others where a collector is set.
        self.pace = BlockPace(None)  # Another where the settings name a rate.
        self._packet_bytes_max = PACKET_BYTES_MAX
        self.taken = self.sent = self.sent_bytes = 0  # Wants, blocks and their bytes, since the start.
        server.restored((row.digest, row.bytes, row.expires_at) for row in store.retained())

    def keep_to(
        self,
        settings: HubSettings,
        blocks: BlockStore,
        notes: Notes,
        *,
        monotonic: Callable[[], float],
        arrived: Callable[[], object],
    ) -> None:
        """Keep to the rate of these settings, and fetch what is in their object store; `arrived` is called when something has come."""
        self.pace = BlockPace(settings.block_bytes_per_second_max)
        self.fetcher = fetcher_of(blocks, settings, notes, self._clock, monotonic, arrived=arrived)

    def start(self) -> None:
        """Start what fetches from the object store."""
        if self.fetcher is not None:
            self.fetcher.start()

    def stop(self) -> None:
        """End it."""
        if self.fetcher is not None:
            self.fetcher.stop()

    def report(self) -> None:
        """Alert of an object store that is away."""
        if self.fetcher is not None:
            self.fetcher.report()

    def wanted(self, event: WantArrived) -> None:
        """Queue the blocks that a node wants. Nothing is made durable: a want that is lost is sent again.

        Raises:
            Refused: there is no such release, variant or block, or they are too many.
        """
        self._wanted(event.node, event.want, began=self._clock())

    def _wanted(self, node: str, want: Want, *, began: float) -> None:
        try:
            blocks = self._releases.wanted(want)
        except Elsewhere as part:
            if self.fetcher is not None:
                self.fetcher.park(part.digest, node, want)
            return
        payloads = [want.payload_of(block) for block in blocks]
        largest = max(payload.bytes for payload in payloads)
        if largest + HEADER_BYTES > self._packet_bytes_max:
            what = f"a block of release {want.release.hex()[:12]} has {largest} bytes, and the broker takes packets"
            raise Refused(
                Code.PACKET_TOO_SMALL,
                f"{what} of {self._packet_bytes_max}: publish it anew with --block-bytes {self._packet_bytes_max - HEADER_BYTES}",
            )
        self._serve(payloads, again=want.again)
        self.taken += 1
        self.traces.wanted(node, want, payloads, began=began)

    def _serve(self, payloads: list[Payload], *, again: bool) -> None:
        """Queue payloads that are here, and have the others fetched first."""
        absent = self.fetcher.absent(payloads) if self.fetcher is not None else []
        for payload in absent:
            if self.fetcher is not None:
                self.fetcher.ask(payload, again=again)
        here = [payload for payload in payloads if payload not in absent] if absent else payloads
        self._server.wanted(here, again=again, now=self._clock())

    def _take_fetched(self) -> None:
        """Queue what has come from the object store since the last turn."""
        payloads, wants = self.fetcher.take() if self.fetcher is not None else ([], [])
        for payload, again in payloads:
            self._server.wanted([payload], again=again, now=self._clock())
        for node, want in wants:
            try:
                self._wanted(node, want, began=self._clock())
            except Refused as refusal:
                log.warning("want.refused", node=node, code=str(refusal.code), reason=refusal.reason)

    def published(self, mid: int) -> None:
        """Note that the broker has taken a publish."""
        self._in_flight.discard(mid)

    def connected(self, *, session_present: bool, retain_available: bool, packet_bytes_max: int) -> None:
        """Begin with a new connection; a broker that has lost our session has lost what it retained as well."""
        self._server.retain_available = retain_available
        self._packet_bytes_max = packet_bytes_max
        self._in_flight.clear()
        if not session_present:
            self._store.forget_retained()
            self._server.forgot()

    @property
    def waiting(self) -> int:
        """Return how many blocks wait to be published."""
        return self._server.waiting

    @property
    def due_seconds(self) -> float | None:
        """Return how long until there is something to publish; None when nothing waits or there is no room."""
        due = self._server.next_due
        if due is None or len(self._in_flight) >= IN_FLIGHT_MAX:
            return None
        now = self._clock()
        return max(0.0, due - now, self.pace.wait_seconds(now))

    def tick(self) -> None:
        """Publish what is due. What the broker is to retain is noted first, so that after a crash it can still be cleared."""
        self._take_fetched()
        now = self._clock()
        commands = self._server.due(now, room=self.pace.room(now, IN_FLIGHT_MAX - len(self._in_flight)))
        if not commands:
            return
        payloads = self._read([command for command in commands if isinstance(command, Send)])
        self._store.note_sends(
            [
                (one.digest, len(payloads[one.digest]), int(now) + one.expiry_seconds if one.retain else None)
                for one in commands
                if isinstance(one, Send) and one.digest in payloads
            ],
            [command.digest for command in commands if isinstance(command, Clear)],
        )
        published: dict[bytes, int] = {}
        for command in commands:
            try:
                match command:
                    case Clear(digest):
                        self._link.clear_block(digest)
                    case Send(digest, retain, expiry_seconds) if digest in payloads:
                        mid = self._link.publish_block(digest, payloads[digest], retain=retain, expiry_seconds=expiry_seconds)
                        self._in_flight.add(mid)
                        self.pace.spent(len(payloads[digest]))
                        self.sent += 1
                        self.sent_bytes += len(payloads[digest])
                        published[digest] = len(payloads[digest])
            except Unreachable as error:
                log.warning("block.publish_failed", digest=command.digest.hex()[:16], reason=str(error))  # a node that wants it asks again
        self.traces.published(published, began=now)

    def _read(self, sends: list[Send]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for send in sends:
            try:
                found[send.digest] = self._blocks.read(send.digest)
            except Elsewhere:  # It has left the folder since it was asked for, or the disk has damaged it.
                if self.fetcher is not None:
                    self.fetcher.prefetch(send.digest)  # a node that waits for it asks again
            except Refused as refusal:
                log.error("block.read_failed", digest=send.digest.hex(), code=str(refusal.code), reason=refusal.reason)
        return found

"""Run the relay's one loop: wants from the site, blocks from up the road; a block is on disk before the site gets it, and then
acknowledged.
"""

import queue
import threading
from collections import OrderedDict
from random import Random

import structlog

from fleetcast.backoff import Backoff, Reconnection
from fleetcast.block_server import BlockServer, Clear, Send
from fleetcast.mqtt_connection import CONNACK_SECONDS, Connected, Disconnected, LinkEvent, Message, Published, Subscribed
from node.core.delivery.relay import Act, AskUp, Relaying, Source
from node.core.delivery.token_bucket import TokenBucket
from node.core.delivery.transfer import Subscribe, Unsubscribe
from node.core.trust.clock import MonotonicClock, MonotonicSeconds
from node.host.service_manager import Notify
from node.relay.cache import Cache
from node.relay.connections import BlockArrived, RelayLink, Side, SideEvent, WantArrived
from node.relay.library import Lacking, Library
from node.relay.models_read import ModelsRead
from node.relay.relay_settings import RelaySettings
from schemas.block_request import Want
from schemas.bundle import ModelBundle, TrustBundle
from schemas.deployment_index import DeploymentIndex
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import BLOCK_BYTES_MAX
from schemas.names import sha256

log = structlog.get_logger()

TURN_SECONDS = 0.1
BATCH_EVENTS = 64
RETRY = Backoff(0.5, 60.0)
IN_FLIGHT_MAX = 48  # publishes that the site's broker has not taken yet
PASSING_MAX = 64  # payloads kept in memory as well: what has just come is what is served next, also where the disk is full
PENDING_WANTS_MAX = 256  # that wait for a block list; who waited for longer asks again
TOTALS_SECONDS = 60.0


class Relay:
    """Run one site's relay."""

    def __init__(self, settings: RelaySettings, *, monotonic: MonotonicClock, rng: Random) -> None:
        self._settings, self._monotonic, self._rng, self._notify = settings, monotonic, rng, Notify()
        self._inbox: queue.Queue[SideEvent] = queue.Queue()
        self._links: dict[Side, RelayLink] = {
            "upstream": RelayLink("upstream", settings.upstream, fleet=settings.fleet, name=settings.id, inbox=self._inbox),
            "site": RelayLink("site", settings.site, fleet=settings.fleet, name=settings.id, inbox=self._inbox),
        }
        self.cache = Cache(settings.data / "blocks", bytes_max=settings.disk_bytes_max)
        self._library = Library(self._read)
        server = BlockServer(
            cache_bytes_max=settings.cache_bytes_max,
            expiry_seconds=settings.cache_expiry_seconds,
            linger_seconds=settings.linger_seconds,
            again_seconds=settings.again_seconds,
        )
        self._core = Relaying(server, self._holds, settings.window_bytes, settings.filters_per_subscribe, rng)
        rate = settings.rate_bytes_per_second_max
        self._rate = TokenBucket(rate, max(BLOCK_BYTES_MAX, int(rate))) if rate else None
        self._passing: OrderedDict[bytes, bytes] = OrderedDict()
        self._pending: list[Want] = []
        self._models = ModelsRead(self._links["upstream"])
        self._granting: dict[int, tuple[Source, tuple[bytes, ...]]] = {}
        self._publishing: set[int] = set()
        self._online: dict[Side, bool] = {"upstream": False, "site": False}
        # A session that a broker kept is an earlier process's memory: what that one acknowledged, this one would never hear.
        self._owns_session: dict[Side, bool] = {"upstream": False, "site": False}
        self._again: dict[Side, Reconnection] = {"upstream": Reconnection(RETRY), "site": Reconnection(RETRY)}
        self._totals = {"fetched": 0, "fetched_bytes": 0, "served": 0, "served_bytes": 0, "refused": 0}
        self._logged_totals, self._logged_at = dict(self._totals), monotonic()

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        self._notify.ready()
        try:
            while not stop.is_set():
                self._turn()
                self._notify.turned(self._monotonic())
        finally:
            self._notify.stopping()
            for side, link in self._links.items():
                if self._online[side]:
                    link.close()
            log.info("relay.counted", held=len(self.cache), held_bytes=self.cache.bytes, **self._totals)

    def _turn(self) -> None:
        for side in self._links:
            if not self._online[side] and float(self._monotonic()) >= self._again[side].due_at:
                self._connect(side)
        for heard in self._take_events():
            try:
                self._handle(heard.side, heard.event)
            except Unreachable as error:
                log.warning("broker.unreachable", side=heard.side, reason=str(error))
            except Exception:  # one message, or one bug of ours, must not end the site's service: it is logged loudly instead
                log.exception("bug.survived")
                if isinstance(heard.event, Message):
                    self._links[heard.side].ack(heard.event)
        self._tick()

    def _take_events(self) -> list[SideEvent]:
        found: list[SideEvent] = []
        try:
            found.append(self._inbox.get(timeout=TURN_SECONDS))
            while len(found) < BATCH_EVENTS:
                found.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return found

    def _connect(self, side: Side) -> None:
        self._again[side].attempted(float(self._monotonic()), self._rng.random())
        try:
            self._links[side].open(clean=not self._owns_session[side])
            self._again[side].answering(float(self._monotonic()), CONNACK_SECONDS)
        except Unreachable as error:
            log.warning("broker.unreachable", side=side, reason=str(error))

    def _handle(self, side: Side, event: LinkEvent) -> None:
        match event:
            case Connected():
                self._connected(side, event)
            case Disconnected(reason, taken_over):
                wait = self._again[side].ended(float(self._monotonic()), self._rng.random(), taken_over=taken_over)
                log.warning("broker.disconnected", side=side, reason=reason, again_seconds=round(wait, 1))
                self._online[side] = False
                if side == "upstream":
                    self._core.disconnected()
            case Subscribed(mid, refused):
                if refused:
                    log.error("subscribe.denied", side=side, filters=refused)
                if side == "upstream":
                    self._models.granted(mid, self._monotonic())
                if side == "upstream" and mid in self._granting:
                    source, digests = self._granting.pop(mid)
                    self._run(self._core.granted(source, digests, now=self._monotonic()))
            case Published(mid):
                self._publishing.discard(mid) if side == "site" else None
            case Message():
                self._message(side, event)

    def _connected(self, side: Side, event: Connected) -> None:
        log.info("broker.connected", side=side, session_present=event.session_present)
        self._online[side] = self._owns_session[side] = True
        self._again[side].accepted(float(self._monotonic()))
        link = self._links[side]
        if side == "site":
            self._publishing.clear()
            self._core.server.retain_available = event.retain_available
            if not event.session_present:
                self._core.server.forgot()
            link.subscribe_wants()
            return
        self._granting.clear()
        self._models.connected(session_present=event.session_present)
        self._run(self._core.connected(session_present=event.session_present, now=self._monotonic()))

    # Messages

    def _message(self, side: Side, message: Message) -> None:
        link = self._links[side]
        try:
            parsed = link.parse(message)
            match parsed:
                case WantArrived() if side == "site":
                    self._wanted(parsed.want)
                case BlockArrived(digest) if side == "upstream":
                    self._block(digest, message.payload)
                case TrustBundle() if side == "upstream":
                    self._models.take_bundle(parsed)
                case DeploymentIndex() if side == "upstream":
                    self._models.take_index(parsed)
                case ModelBundle() if side == "upstream":
                    self._library.add(parsed)
                    self._think_again()
        except Refused as refusal:
            self._totals["refused"] += 1
            log.warning("message.refused", side=side, topic=message.topic, code=str(refusal.code), reason=refusal.reason)
        link.ack(message)

    def _wanted(self, want: Want) -> None:
        now = self._monotonic()
        try:
            found = self._library.pieces(want)
        except Refused as refusal:
            if refusal.code is Code.RELEASE_UNKNOWN and len(self._pending) < PENDING_WANTS_MAX:
                self._pending.append(want)  # its manifest may be on the way
            if refusal.code is Code.RELEASE_UNKNOWN:
                self._models.lacks_a_release(now)
            raise
        if isinstance(found, Lacking):
            if len(self._pending) < PENDING_WANTS_MAX:
                self._pending.append(want)
            self._run(self._core.wanted(found.source, found.pieces, again=False, now=now))
            return
        source, pieces = found
        self._run(self._core.wanted(source, pieces, again=want.again, now=now))

    def _think_again(self) -> None:
        """Take in that a block list or a manifest came: wants that waited for it may be clear now."""
        pending, self._pending = self._pending, []
        for want in pending:
            try:
                self._wanted(want)
            except Refused as refusal:
                log.debug("want.deferred", code=str(refusal.code))

    def _block(self, digest: bytes, payload: bytes) -> None:
        now = self._monotonic()
        piece = self._core.piece(digest)
        if self._rate is not None:
            self._rate.spend(len(payload), now)
        found = sha256(payload)
        if found != digest or (piece is not None and len(payload) != piece.payload.bytes):
            self._run(self._core.rejected(digest, now=now))
            raise mismatch(Code.BLOCK_DIGEST, "payload", expected=digest.hex(), actual=found.hex())
        self._passing[digest] = payload
        while len(self._passing) > PASSING_MAX:
            self._passing.popitem(last=False)
        try:
            self.cache.put(digest, payload)
        except Refused as refusal:  # it passes through; for a node that comes later it is fetched again
            log.warning("payload.not_cached", code=str(refusal.code), reason=refusal.reason)
        self._totals["fetched"] += 1
        self._totals["fetched_bytes"] += len(payload)
        if piece is None:  # wanted by this relay before it was started anew
            return
        self._run(self._core.took(piece.payload, now=now))
        if self._pending:
            self._think_again()

    # What is due

    def _tick(self) -> None:
        now = self._monotonic()
        # Never more than half the disk: what comes must not push out what has not been served yet.
        allowed = min(self._settings.window_bytes, max(BLOCK_BYTES_MAX, self._settings.disk_bytes_max // 2))
        if self._rate is not None:
            allowed = min(allowed, max(0, int(self._rate.level(now))))
        self._run(self._core.tick(allowed_bytes=allowed, now=now))
        if self._online["upstream"]:
            self._models.tick(now)
        if self._online["site"]:
            self._serve(now)
        if now - self._logged_at >= TOTALS_SECONDS:
            self._logged_at = now
            if self._logged_totals != self._totals:
                self._logged_totals = dict(self._totals)
                log.info("relay.counted", held=len(self.cache), held_bytes=self.cache.bytes, **self._totals)

    def _serve(self, now: MonotonicSeconds) -> None:
        link = self._links["site"]
        for command in self._core.server.due(float(now), room=IN_FLIGHT_MAX - len(self._publishing)):
            match command:
                case Clear(digest):
                    link.clear_block(digest)
                case Send(digest, retain, expiry_seconds):
                    payload = self._read(digest)
                    if payload is None:
                        continue  # evicted or damaged since; a node that wants it asks again, and it is fetched again
                    self._publishing.add(link.publish_block(digest, payload, retain=retain, expiry_seconds=expiry_seconds))
                    self._totals["served"] += 1
                    self._totals["served_bytes"] += len(payload)

    def _run(self, acts: list[Act]) -> None:
        link = self._links["upstream"]
        for act in acts:
            match act:
                case Subscribe(digests, only_if_new):
                    mid = link.subscribe_blocks(digests, only_if_new=only_if_new)
                    source = self._core.coming.get(digests[0])
                    if mid is not None and source is not None:
                        self._granting[mid] = (source, digests)
                case Unsubscribe(digests):
                    link.unsubscribe_blocks(digests)
                case AskUp(source, ask):
                    try:
                        link.want(ask.want(source.release, source.variant, index=source.index))
                    except Unreachable as error:
                        log.warning("want.not_sent", reason=str(error))  # the quiet time asks again

    def _holds(self, digest: bytes) -> bool:
        return digest in self._passing or digest in self.cache

    def _read(self, digest: bytes) -> bytes | None:
        return self._passing.get(digest) or self.cache.read(digest)

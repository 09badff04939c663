"""Sign what the node has to report, keep it until the broker has taken it, and send it again to a broker that forgot."""

from collections.abc import Callable
from random import Random
from typing import Literal

import structlog

from fleetcast.backoff import Backoff
from node.broker.mqtt import NodeLink
from node.core.activation.lifecycle import Target
from node.core.telemetry.sent_again import ANSWER_SECONDS, may_be_lost
from node.core.trust.clock import NEVER, MonotonicClock, MonotonicSeconds, WallClock
from node.enrol.identity import Identity
from node.storage.outbox import REQUEST_ANSWERED
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Refused, Unreachable
from schemas.limits import TEXT_MAX
from schemas.names import is_name
from schemas.receipt import Evidence, Receipt
from schemas.window_request import WindowRequest

log = structlog.get_logger()

OUTBOX_IN_FLIGHT = 32
UNREAD = Backoff(5.0, 600.0)  # Pauses after a message that the broker has no reader for: a hub may be away for days, and bytes cost.
REFUSAL_SECONDS = 60.0  # the same refusal is reported at most once in this time: a hostile broker must not spend our bytes


class Reporter:
    """Send receipts, refusals, and the outbox that windows share with them."""

    def __init__(
        self,
        *,
        node: str,
        store: NodeStore,
        link: NodeLink,
        identity: Callable[[], Identity],  # it may change: a device can ask for a new key
        wall: WallClock,
        monotonic: MonotonicClock,
        rng: Random,
        windows: bool,  # else they are not sent, and wait
    ) -> None:
        self._node, self._store, self._link, self._identity = node, store, link, identity
        self._wall, self._monotonic, self._rng, self.windows = wall, monotonic, rng, windows
        self._sending: dict[int, int] = {}  # publish id to outbox id
        self._unread: Backoff | None = None  # The next pause, while the broker has no reader.
        self._unread_until = NEVER
        self._put_off: dict[int, tuple[MonotonicSeconds, Backoff]] = {}  # By outbox id: when it is sent again, and the pause after that.
        self._refusals: dict[tuple[str, str], MonotonicSeconds] = {}
        self._sent_before, self._began_at = store.newest_sent_at(), monotonic()  # Where the clock of sending begins.
        self._connected_at, self._answered_at = self._sending_clock(), NEVER
        self.on_refusal: Callable[[str], None] = lambda sentence: None  # hears of every refusal

    def report(
        self,
        outcome: Literal["serving", "refused", "rolled_back"],
        *,
        code: str = "",
        reason: str = "",
        model: str | None = None,
        target: Target | None = None,
        rollout: str = "",
        since: int | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Sign a receipt and put it in the outbox."""
        receipt = Receipt(
            node=self._node,
            sequence=self._store.next("receipt"),
            at=int(self._wall()),
            outcome=outcome,
            model=model or None,
            version=target.version if target else None,
            digest=target.digest if target else None,
            since=since,
            code=code,
            reason=reason[:TEXT_MAX],
            evidence=evidence,
        )
        self._store.enqueue("receipt", self._link.topics.receipt(self._node), codec.encode(self._identity().seal(receipt)))
        log.info("receipt.signed", outcome=outcome, model=model, rollout=rollout, code=code, version=receipt.version)

    def refusal(self, refusal: Refused, model: str) -> None:
        """Report a message or a file that was refused; nothing else changes."""
        log.warning("message.refused", code=refusal.code, model=model, reason=refusal.reason)
        self.on_refusal(str(refusal))
        model = model if is_name(model) else ""  # A newer hub's names may be others; the reason has it.
        key, now = (str(refusal.code), model), self._monotonic()
        if now - self._refusals.get(key, NEVER) >= REFUSAL_SECONDS:
            self._refusals[key] = now
            try:
                self.report("refused", code=refusal.code, reason=refusal.reason, model=model)
            except Refused as full:  # a full disk, which may be what is reported
                del self._refusals[key]
                log.warning("receipt.not_kept", code=full.code, reason=full.reason)

    def connected(self, *, session_present: bool) -> None:
        """Take in that the broker is there; one that forgot is sent the kept messages again, and their readers count them once."""
        self._sending.clear()
        self._unread, self._unread_until = None, NEVER
        self._put_off.clear()
        self._connected_at = self._sending_clock()
        if not session_present:
            self._store.resend(windows=self.windows)

    def send_windows_again(self, request: WindowRequest) -> None:
        """Have windows sent again that a broker took and may have lost, as the hub asks: once for each request, and not too often."""
        now = self._monotonic()
        if not self.windows or now - self._answered_at < ANSWER_SECONDS or self._store.fact(REQUEST_ANSWERED) == request.number:
            return
        kept = self._store.sent_windows()
        found = may_be_lost(kept, request, now=self._sending_clock(), connected_at=self._connected_at)
        self._store.send_windows_again(found, request=request.number)
        self._answered_at = now
        log.info("windows.sent_again", windows=len(found), kept=len(kept), since_seconds=request.since_seconds)

    def _sending_clock(self) -> float:
        return self._sent_before + (self._monotonic() - self._began_at)

    def published(self, mid: int, *, is_unread: bool = False, refused: str = "") -> None:
        """Take in that the broker has taken a message; one that it refused or that nobody has subscribed to waits on, and is sent again.

        A broker that was restarted knows no subscription of the hub until the hub is back, and nodes may be back before it.
        """
        if mid not in self._sending:
            return
        number = self._sending.pop(mid)
        if refused:
            self._put_off_one(number, refused)
            return
        if not is_unread:
            self._unread = None
            self._put_off.pop(number, None)
            self._store.mark_sent([number], at=self._sending_clock())
            return
        now = self._monotonic()
        if now < self._unread_until:
            return  # It was on its way already when the first came back.
        pause = (self._unread or UNREAD).wait_seconds(self._rng.random())
        log.warning("outbox.unread", again_seconds=round(pause), reason="the broker knows no reader: the hub has not subscribed yet")
        self._unread, self._unread_until = (self._unread or UNREAD).doubled(), now + pause

    def _put_off_one(self, number: int, reason: str) -> None:
        """Send a message later that the broker refuses: its access list or its quota may be mended; others are not kept from it."""
        _, pause = self._put_off.get(number, (NEVER, UNREAD))
        seconds = pause.wait_seconds(self._rng.random())
        self._put_off[number] = self._monotonic() + seconds, pause.doubled()
        log.warning("outbox.refused", again_seconds=round(seconds), reason=f"the broker refuses it: {reason}; see its access list")

    def send(self, *, windows: bool = True) -> None:
        """Send what waits, a bounded number at a time; without `windows` only other messages.

        While the broker has no reader, a single message finds out whether one is there by now.
        """
        in_flight_max = OUTBOX_IN_FLIGHT if self._unread is None else 1
        if self._monotonic() < self._unread_until or len(self._sending) >= in_flight_max:
            return
        flying = set(self._sending.values())
        later = {number for number, (at, _) in self._put_off.items() if at > self._monotonic()}
        outbox = self._store.waiting(in_flight_max + len(later), windows=self.windows and windows)
        outbox = [one for one in outbox if one.id not in later]
        fresh = [one.id for one in outbox if one.kind == "window" and one.id not in flying]
        if fresh:
            try:
                self._store.mark_tried(fresh)
            except Refused as full:  # a window that is not known to have been given away could become part of another one
                log.warning("window.not_sent", code=full.code, reason=full.reason)
                outbox = [one for one in outbox if one.id not in fresh]
        for waiting in outbox:
            if waiting.id not in flying and len(self._sending) < in_flight_max:
                try:
                    self._sending[self._link.publish(waiting.topic, waiting.payload)] = waiting.id
                except Unreachable:
                    return

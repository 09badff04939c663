"""Keep the device enrolled: renew the certificate at half of its life, and find the way back after months offline.

The exchange with the hub runs in a thread of its own, for it may take minutes; what it brought is kept and reported in the agent's loop.
Models keep serving whatever comes of it. A device that was never enrolled has nothing to do here.
"""

import threading
from collections.abc import Callable
from random import Random

import structlog

from node.agent.enrol import enrolment_flow
from node.agent.enrol.enrolment_flow import Membership, Renewed
from node.core.enrol.renewal import Outcome, Reason, Renewal
from node.core.trust.clock import MonotonicClock, SignedClock, WallClock, is_known, trusted_now
from node.enrol.enrolment_files import KEY_NAME
from node.enrol.identity import Identity
from node.settings import NodeSettings
from node.storage.store import NodeStore
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.errors import Code, Refused, Unreachable

log = structlog.get_logger()


class Renewing:
    """Renew one device's certificate."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        store: NodeStore,
        clock: SignedClock,
        wall: WallClock,
        monotonic: MonotonicClock,
        rng: Random,
        moved: Callable[[str], None],
        take_trust: Callable[[TrustBundle], None],
    ) -> None:
        """Take the machine's own clock as `wall`, which `clock` puts right."""
        self._settings, self._store, self._clock = settings, store, clock
        self._wall, self._monotonic, self._rng = wall, monotonic, rng
        self._moved, self._take_trust = moved, take_trust
        self._member = self._settled()
        self._own = Identity.load_or_create(settings.data / KEY_NAME)  # The key of a device that was never enrolled.
        self._renewal = self._next()
        self._online_at = monotonic()
        self._files_at = self._changed_at()
        self._thread: threading.Thread | None = None
        self._signed_at: int | None = None
        self._brought: Renewed | Refused | Unreachable | Exception | None = None

    @property
    def hub(self) -> str:
        """Return where to renew: the settings' word, else that of the enrolment; empty for a device that was not enrolled."""
        return self._settings.hub or (self._member.kept.hub if self._member is not None else "")

    @property
    def identity(self) -> Identity:
        """Return the device's present key."""
        return self._member.identity if self._member is not None else self._own

    def tick(self, *, online: bool) -> None:
        """Take what a finished exchange brought, or begin one when it is time."""
        now = self._monotonic()
        if online:
            self._online_at = now
        if self._member is None:
            return
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self._finish()
        self._look_at_files()
        believed, floor = int(self._clock.now(wall=self._wall(), monotonic=now)), self._store.fact("clock_floor")
        reason = self._renewal.due(
            now=trusted_now(believed, floor),
            clock_known=is_known(believed, floor),
            offline_seconds=now - self._online_at,
            monotonic=now,
        )
        if reason is not None:
            self._begin(self._member, reason)

    # The exchange

    def _begin(self, member: Membership, reason: Reason) -> None:
        log.info("enrolment.renewal_started", reason=reason, hub=self.hub, expires=member.certified.ends)
        self._brought = self._signed_at = None
        self._thread = threading.Thread(target=self._exchange, args=(member,), name="renewal", daemon=True)
        self._thread.start()

    def _exchange(self, member: Membership) -> None:
        """Run in the thread: nothing here touches the store or the enrolment's files, but for a next key that is made."""
        try:
            self._brought = enrolment_flow.renew(
                self._settings.data, member, hub=self.hub, new_key=self._settings.new_key_on_renewal, on_signed_time=self._take_signed_time
            )
        except Exception as error:
            self._brought = error

    def _take_signed_time(self, at: int) -> None:
        self._signed_at = at

    def _finish(self) -> None:
        brought = self._brought
        outcome: Outcome = "unreachable"
        if self._signed_at is not None:
            self._take_time(self._signed_at)
        match brought:
            case Renewed():
                outcome = "renewed" if self._keep(brought) else "unreachable"
            case Unreachable():
                log.warning("enrolment.unreachable", reason=str(brought))
            case Refused():
                outcome = "refused" if brought.code in {Code.ENROLMENT_REVOKED, Code.ENROLMENT_REQUEST} else "unreachable"
                log.error("enrolment.refused", code=str(brought.code), reason=brought.reason)
            case _:
                log.error("bug.survived", doing="renewal", exc_info=brought)
        self._tried(outcome)

    def _tried(self, outcome: Outcome) -> None:
        renewal = self._next() if outcome == "renewed" else self._renewal
        self._renewal = renewal.tried(outcome, monotonic=self._monotonic(), chance=self._rng.random())

    def _take_time(self, at: int) -> None:
        """Take in that the hub's issuer has signed what time it is: never before that again, and no clock that is wrong is believed."""
        self._store.raise_fact("clock_floor", at)
        if self._clock.correct(at, wall=self._wall(), monotonic=self._monotonic()):
            log.warning("clock.corrected", wall=int(self._wall()), signed=at)

    def _keep(self, brought: Renewed) -> bool:
        before = self._member
        try:
            self._member = enrolment_flow.keep(self._settings.data, brought)
        except Refused as refusal:
            log.error("enrolment.not_kept", code=str(refusal.code), reason=refusal.reason)
            return False
        self._files_at = self._changed_at()
        log.info("enrolment.renewed", expires=self._member.certified.ends, node=brought.answer.node)
        if before is not None and brought.answer.broker != before.answer.broker and self._settings.broker == before.answer.broker:
            try:
                self._moved(brought.answer.broker)
                log.warning("broker.moved", broker=brought.answer.broker)
            except Refused as refusal:
                log.error("broker.not_moved", reason=refusal.reason)
        self._take_trust(codec.decode(TrustBundle, brought.answer.trust))
        return True

    # The certificate and the key

    def _next(self) -> Renewal:
        if self._member is None:
            return Renewal(0, 0, 0.0)
        # From when it was given: a certificate is dated back a little, for clocks that lag.
        return Renewal(self._member.kept.at, self._member.certified.ends, self._rng.random())

    def _look_at_files(self) -> None:
        """Take in that a command at this device has perhaps enrolled or renewed it."""
        found = self._changed_at()
        if found != self._files_at:
            self._files_at = found
            self._member = self._settled() or self._member
            self._renewal = self._next()

    def _settled(self) -> Membership | None:
        try:
            return enrolment_flow.settle(self._settings.data)
        except Refused as refusal:  # what is on the device keeps serving
            log.error("enrolment.not_read", code=str(refusal.code), reason=refusal.reason)
            return None

    def _changed_at(self) -> tuple[int, ...]:
        paths = (self._settings.data / KEY_NAME, self._settings.data / "enrolment" / "kept")
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)

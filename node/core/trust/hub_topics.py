"""Decide when the topic of hubs before deployments is read, and when roles are fetched. Reads no clock and knows no broker."""

from node.core.trust.clock import NEVER, MonotonicSeconds

QUIET_SECONDS = 2.0  # A broker gives what it retains right after it has granted a subscription.
UNPROVEN_SECONDS = 30.0  # Time for what came there to be accepted: the roles that prove it may have to be fetched first.
LAG_SECONDS = 4_200  # A hub with deployments says its timestamp alone at least every hour; one of before never does.
LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 1_800.0, 21_600.0  # Between two looks at the old topic while the hub says nothing.
DAY_SECONDS = 86_400.0
ROUTINE = "routine"
TRIES_MAX = 6  # Fetches for one reason, which a broker may have made up.


class OldTopic:
    """Decide whether `trust` is read, which has every rollout of the fleet: only from a hub that says no timestamp alone.

    Both topics have signed timestamps, and a hub with deployments says the one alone at least hourly. So a timestamp on `trust` that is
    more than an hour newer comes from a hub of before, whatever is still retained beside it.
    """

    def __init__(self) -> None:
        self._granted_at: MonotonicSeconds | None = None
        self._is_heard = self._is_looking = False
        self._alone_signed: int | None = None  # When the newest timestamp that came alone was signed, as far as this process has heard.
        self._bundle_signed: int | None = None
        self._advanced_at, self._look_at, self._pause = NEVER, NEVER, LOOK_SECONDS_MIN

    def granted(self, now: MonotonicSeconds) -> None:
        """Take in that the broker has granted the subscription to the timestamp."""
        self._granted_at = now

    def heard(self) -> None:
        """Take in that something came on the timestamp's topic; nobody has verified it yet."""
        self._is_heard = True

    @property
    def is_alone_accepted(self) -> bool:
        """Return whether this process has accepted a timestamp that came alone."""
        return self._alone_signed is not None

    def accepted_alone(self, signed: int, now: MonotonicSeconds) -> None:
        """Take in a verified timestamp that came without rollouts, and when it was signed."""
        if self._alone_signed is None or signed > self._alone_signed:
            self._alone_signed, self._advanced_at = signed, now

    def arrived(self, signed: int | None, now: MonotonicSeconds) -> None:
        """Take in a bundle on the old topic, and when its timestamp was signed; None when it was refused."""
        if signed is not None:
            self._bundle_signed = max(signed, self._bundle_signed or 0)
        if self._is_looking and not self._is_of_before():
            self._is_looking = False
            self._look_at, self._pause = now + self._pause, min(LOOK_SECONDS_MAX, self._pause * 2)

    def is_read(self, now: MonotonicSeconds, wall: int) -> bool:
        """Return whether the old topic is to be read now."""
        if self._alone_signed is None:
            wait = UNPROVEN_SECONDS if self._is_heard else QUIET_SECONDS
            return self._granted_at is not None and now - self._granted_at >= wait
        if self._is_of_before():
            return True
        if now - self._advanced_at < LAG_SECONDS and wall - self._alone_signed < LAG_SECONDS:
            self._is_looking, self._look_at, self._pause = False, NEVER, LOOK_SECONDS_MIN
        elif now >= self._look_at:
            self._is_looking = True  # The hub is away, or was replaced by one of before.
        return self._is_looking

    def _is_of_before(self) -> bool:
        if self._bundle_signed is None:
            return False
        return self._alone_signed is None or self._bundle_signed > self._alone_signed + LAG_SECONDS


class RolesFetch:
    """Decide when `trust/roles` is fetched: what names a reason is mostly not signed, so each reason is worth few fetches."""

    def __init__(self) -> None:
        self.reason: str | None = None  # Reason of the fetch that is under way.
        self._tries: dict[str, int] = {}
        self._ended_at = NEVER

    def begins(self, reason: str | None, *, routine: bool, now: MonotonicSeconds) -> bool:
        """Return whether a fetch begins now: for a reason, or as the routine allows once a day."""
        if self.reason is not None:
            return False
        if reason is None or self._tries.get(reason, 0) >= TRIES_MAX:
            if not routine or now - self._ended_at < DAY_SECONDS:
                return False
            reason = ROUTINE
            self._tries.pop(ROUTINE, None)
        self.reason = reason
        return True

    def goes_on(self) -> bool:
        """Count a try that brought nothing new; False when this reason has had all of its tries."""
        if self.reason is None:
            return False
        self._tries[self.reason] = self._tries.get(self.reason, 0) + 1
        return self._tries[self.reason] < TRIES_MAX

    def ended(self, now: MonotonicSeconds, *, is_new: bool) -> None:
        """Take in that the fetch is over; roles that are new may settle other reasons, which then count anew."""
        self.reason, self._ended_at = None, now
        if is_new:
            self._tries.clear()

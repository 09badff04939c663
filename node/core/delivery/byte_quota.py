"""Decide what a transfer may cost: by what the road costs, by the day, by the hour, by the rollout. Knows no clock and no road.

A budget is a hard stop. What is asked for counts as spent until it has come, so that what is on its way cannot overrun it; only what a
broker sends twice can, by at most a window. Payload bytes are counted: topics and acknowledgements add less than 1.5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Self

from pydantic import AfterValidator

from schemas.document import Fact
from schemas.errors import Code
from schemas.quantities import Count
from schemas.rollout import Carriage
from schemas.windows import windows_text

MINUTES_PER_DAY = 24 * 60
BUDGET_CODES = frozenset({Code.BUDGET_DAY, Code.BUDGET_HOURS, Code.BUDGET_ROLLOUT, Code.BUDGET_FULL, Code.WINDOW_CLOSED})


def _span(text: str) -> str:
    begin, dash, end = text.partition("-")
    for part in (begin, end):
        hour, colon, minute = part.partition(":")
        whole = hour.isdecimal() and minute.isdecimal()
        if not (dash and colon and whole and int(minute) < 60 and int(hour) * 60 + int(minute) <= MINUTES_PER_DAY):
            raise ValueError(f"hours {text!r} must look like 22:00-06:00")
    return text


class Policy(Fact):
    """Limit what one class of link is used for. A field that is left out limits nothing.

    Without its table a metered or roaming link fetches no release whole in place of a delta.
    """

    bytes_day_max: Count | None = None  # Greatest number of bytes of releases in a local day. 0 allows none.
    # Hours of local time (`time_zone`) in which releases may be fetched, such as 22:00-06:00. Empty means always.
    hours: Annotated[str, AfterValidator(lambda text: _span(text) if text else text)] = ""
    full_download: bool = True  # Fetch a release whole when it is offered as a delta and its parent is not on disk.

    @classmethod
    def default(cls, link: str) -> Self:
        """Return the policy where the site sets none: a road that costs money takes no whole release in place of a delta."""
        return cls(full_download=link == "free")

    def open_at(self, local: datetime) -> bool:
        """Return whether the road may be used at this moment, which carries its time zone.

        Hours that a clock shows twice are open twice. Hours that a clock set forward passes over are open as long after that, on that day:
        with 02:15-02:45, where 02:00 is followed by 03:00, from 03:15 to 03:45.
        """
        if not self.hours:
            return True
        begin, end = (_minute(part) for part in self.hours.split("-"))
        minute = local.hour * 60 + local.minute
        if begin <= minute < end if begin < end else minute >= begin or minute < end:
            return True
        if begin >= end:
            return False  # No clock is set forward by a night.
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0, tzinfo=None)
        first, last = midnight + timedelta(minutes=begin), midnight + timedelta(minutes=end - 1)
        if not (_is_skipped(first, local.tzinfo) and _is_skipped(last, local.tzinfo)):
            return False
        opens = first.replace(tzinfo=local.tzinfo).timestamp()  # By the rules of before the clock was set.
        return opens <= local.timestamp() < opens + 60 * (end - begin)


@dataclass(frozen=True, slots=True)
class TransferUsage:
    """Describe what a transfer has cost and will cost, in payload bytes. `instead_bytes` come as a whole because a delta's parent is not
    here.
    """

    received_bytes: int  # This release's so far, wasted ones included.
    in_flight_bytes: int  # asked for
    missing_bytes: int  # not yet asked for
    instead_bytes: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """Describe how many more bytes may be asked for; with none, why."""

    bytes: int
    code: Code | None = None
    reason: str = ""


UNLIMITED = 2**62


def allowance(
    policy: Policy,
    carriage: Carriage | None,
    use: TransferUsage,
    *,
    next_bytes: int,
    link: str,
    today_bytes: int,
    local: datetime,
    is_window_open: bool = True,
) -> Allowance:
    """Return what may be asked for now, at least `next_bytes` or nothing.

    `today_bytes` came today over this class of road, for all releases. `is_window_open`: the rollout lets its nodes fetch now.
    `local` is now, in the site's time zone.
    """
    whole = policy.full_download if carriage is None or carriage.full_download is None else carriage.full_download
    if use.instead_bytes and not whole:
        text = f"{use.instead_bytes} bytes are offered as a delta whose parent is not here, and a {link} link takes no whole ones instead"
        return Allowance(0, Code.BUDGET_FULL, text)
    if not policy.open_at(local):
        return Allowance(0, Code.BUDGET_HOURS, f"a {link} link is used from {policy.hours} only")
    if not is_window_open:
        when = windows_text(carriage.fetch) if carriage is not None and carriage.fetch is not None else "at other times"
        return Allowance(0, Code.WINDOW_CLOSED, f"the rollout lets its nodes fetch {when}")
    cap = carriage.bytes_max if carriage is not None else None
    if cap is not None and use.received_bytes + use.in_flight_bytes + use.missing_bytes > cap:
        need = use.in_flight_bytes + use.missing_bytes
        text = f"{need} bytes are missing and {use.received_bytes} have come, the rollout allows a node {cap}"
        return Allowance(0, Code.BUDGET_ROLLOUT, text)
    left = UNLIMITED if policy.bytes_day_max is None else policy.bytes_day_max - today_bytes
    if left < next_bytes:
        text = f"{today_bytes} of {policy.bytes_day_max} bytes are spent today on a {link} link, the next block has {next_bytes}"
        return Allowance(0, Code.BUDGET_DAY, text)
    return Allowance(left)


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold one transfer among those of a node."""

    priority: int  # the higher goes first
    missing_bytes: int  # to be asked for
    in_flight_bytes: int
    allowed_bytes: int  # by its budget


def shares(claims: Sequence[Claim], window_bytes: int) -> list[int]:
    """Return how many bytes each may have in flight: the highest priority takes the window, among equals the one with least to go.

    What is in flight already counts against the window, whichever asked for it. None waits for one that its budget stops.
    """
    room = window_bytes - sum(claim.in_flight_bytes for claim in claims)
    found = [claim.in_flight_bytes for claim in claims]
    for at in sorted(range(len(claims)), key=lambda at: (-claims[at].priority, claims[at].missing_bytes, at)):
        claim = claims[at]
        more = max(0, min(room, claim.allowed_bytes, claim.missing_bytes))
        found[at] += more
        room -= more
    return found


def _is_skipped(naive: datetime, zone: tzinfo | None) -> bool:
    """Return whether a clock of this zone never shows this time, because it is set forward over it."""
    moment = naive.replace(tzinfo=zone)
    return moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != naive


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return (int(hour) * 60 + int(minute)) % MINUTES_PER_DAY

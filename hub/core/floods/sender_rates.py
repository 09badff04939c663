"""Decides how many messages of one sender are taken in a minute. Knows no topic, and reads no clock.

A sender that was quiet may send BURST_MINUTES' worth at once: a node that comes back has reports of days.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

BURST_MINUTES = 10
SENDERS_MAX = 16_384  # The one that was quiet for longest is forgotten first, and is a new one when it comes again.


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float


class SenderRates:
    """Count what each sender of a lane has sent. A lane without a rate, or with a rate of 0, is not limited."""

    def __init__(self, per_minute: Mapping[str, int]) -> None:
        self._per_minute = {lane: rate for lane, rate in per_minute.items() if rate > 0}
        self._senders: OrderedDict[tuple[str, str], _Allowance] = OrderedDict()

    def admit(self, lane: str, sender: str, now: float) -> bool:
        """Return whether one more message is taken in."""
        rate = self._per_minute.get(lane)
        if rate is None:
            return True
        burst, key = float(rate * BURST_MINUTES), (lane, sender)
        mine = self._senders.get(key)
        if mine is None:
            mine = self._senders[key] = _Allowance(burst, now)
            if len(self._senders) > SENDERS_MAX:
                self._senders.popitem(last=False)
        else:
            mine.left = min(burst, mine.left + max(0.0, now - mine.at) * rate / 60)
            mine.at = now
            self._senders.move_to_end(key)
        if mine.left < 1:
            return False
        mine.left -= 1
        return True

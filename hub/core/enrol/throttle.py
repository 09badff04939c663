"""Counts who has failed too often of late: an address, or a token at an address. Reads no clock, and holds a bounded number of them.

A token that keeps failing is refused for a while. An address that keeps failing is not: a whole site may be behind it, and one device with
a bad token must not keep the others out. Its requests take turns instead (hub/service/enrol/https_endpoint.py).
"""

from collections import OrderedDict, deque

ADDRESSES_MAX = 4096  # the one that failed longest ago goes: a flood from everywhere costs a megabyte and keeps nobody out


class Throttle:
    """Allow at most `failures_max` failures of one origin in `seconds`; successes cost nothing, for a site's devices share an address."""

    def __init__(self, *, failures_max: int = 20, seconds: float = 60.0) -> None:
        self._failures_max, self._seconds = failures_max, seconds
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_seconds(self, address: str, now: float) -> float:
        """Return how long this address has to wait before it is heard again; 0 when not at all."""
        times = self._failed.get(address)
        if times is None:
            return 0.0
        while times and now - times[0] >= self._seconds:
            times.popleft()
        if not times:
            del self._failed[address]
            return 0.0
        return self._seconds - (now - times[0]) if len(times) >= self._failures_max else 0.0

    def failed(self, address: str, now: float) -> None:
        """Count one more failure."""
        self._failed.setdefault(address, deque(maxlen=self._failures_max)).append(now)
        self._failed.move_to_end(address)
        if len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)

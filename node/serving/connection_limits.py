"""Bound the connections of the local endpoint, and the answers that wait in them until clients read. Knows no HTTP.

A connection is a descriptor, and the agent needs descriptors for workers, databases and the broker. So there is a bound below the process's
limit, and the connection that was idle for longest makes room. What clients do not read has one bound for all of them, because each
connection's own bound times the number of connections is more memory than a device has.
"""

import asyncio
import resource
from collections import OrderedDict
from typing import Final, Protocol

import structlog

from fleetcast.memory_trim import LARGE_BYTES
from node.serving.memory_trimmer import MemoryTrimmer
from schemas.limits import MIB

log = structlog.get_logger(__name__)

CONNECTIONS_MAX: Final = 512
CONNECTIONS_MIN: Final = 16  # also where the limit of descriptors is absurdly low
DESCRIPTORS_RESERVED: Final = 384  # for everything else in the agent, and for connections that were accepted and not counted yet
ACCEPTED_AT_ONCE: Final = 16  # in one turn of the loop: asyncio accepts as many as its backlog says before any of them is counted
UNREAD_BYTES_MAX: Final = 64 * MIB  # that wait to be written, in all connections together; one answer may be larger, alone
STALLED_SECONDS_MAX: Final = 30.0  # without one byte read, while an answer waits
LOOK_SECONDS: Final = 5.0
LOG_SECONDS_MIN: Final = 60.0  # between two lines of one kind: a flood writes no log
IDLE, WAITING, ANSWERING = 0, 1, 2  # Nothing is asked; the client makes us wait, as a writer or as a reader; we make the client wait.


class Bounded(Protocol):
    """Describe what the bounds ask of one connection."""

    @property
    def rank(self) -> int:
        """Return IDLE, WAITING or ANSWERING: how much would be lost with it."""

    @property
    def unread_bytes(self) -> int:
        """Return how many bytes wait for the client to read."""

    def end(self) -> None:
        """Close it at once, whatever waits in it."""


class ConnectionLimits:
    """Keep the bounds of one server. Every method is called on its loop's thread."""

    def __init__(self, *, connections_max: int | None = None, unread_bytes_max: int | None = None) -> None:
        self.connections_max = connections_max if connections_max is not None else connections_that_fit()
        self._unread_bytes_max = unread_bytes_max if unread_bytes_max is not None else UNREAD_BYTES_MAX
        self._used: OrderedDict[Bounded, None] = OrderedDict()  # The one that was used last is last.
        self._stalled: OrderedDict[Bounded, tuple[int, float]] = OrderedDict()  # What waited when it last became less, and when that was.
        self._trimmer = MemoryTrimmer()
        self._look: asyncio.TimerHandle | None = None
        self._logged: dict[str, float] = {}

    def opened(self, new: Bounded) -> bool:
        """Take note of a connection, and end another one where there are too many. Returns whether the new one may stay."""
        self._used[new] = None
        if len(self._used) <= self.connections_max:
            return True
        oldest = min((one for one in self._used if one is not new), key=lambda one: one.rank, default=None)  # The first of the lowest rank.
        stays = oldest is not None and oldest.rank < ANSWERING
        self._log("connections.bounded", connections=len(self._used), closed="oldest" if stays else "new")
        if stays and oldest is not None:
            self._end(oldest)
        else:
            self._used.pop(new, None)
        return stays

    def used(self, one: Bounded) -> None:
        """Take note that a request begins there."""
        if one in self._used:
            self._used.move_to_end(one)

    def closed(self, one: Bounded) -> None:
        """Forget a connection, however it ended."""
        self._used.pop(one, None)
        if self._stalled.pop(one, None) is not None:
            self._trimmer.noticed(LARGE_BYTES)

    def stalled(self, one: Bounded) -> None:
        """Take note that its client does not read as fast as it is answered, and end the ones that wait longest where it is too much."""
        loop = asyncio.get_running_loop()
        if one not in self._stalled:
            self._stalled[one] = (one.unread_bytes, loop.time())
        if self._look is None:
            self._look = loop.call_later(LOOK_SECONDS, self._look_again)
        self.check()

    def flowing(self, one: Bounded) -> None:
        """Take note that its client has read."""
        if self._stalled.pop(one, None) is not None:
            self._trimmer.noticed(LARGE_BYTES)

    def check(self) -> None:
        """End connections whose clients do not read, the one that has waited longest first, until what is left is within the bound."""
        unread = {one: one.unread_bytes for one in self._stalled}
        total = sum(unread.values())
        for one, size in unread.items():
            if total <= self._unread_bytes_max or len(self._stalled) == 1:
                return
            self._log("answers.unread", unread_bytes=total, closed="oldest")
            total -= size
            self._end(one)

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._look = None
        for one, (size, since) in list(self._stalled.items()):
            unread = one.unread_bytes
            if unread < size:
                self._stalled[one] = (unread, loop.time())
            elif loop.time() - since >= STALLED_SECONDS_MAX:
                self._log("answers.unread", unread_bytes=unread, closed="stalled")
                self._end(one)
            elif unread > size:
                self._stalled[one] = (unread, since)
        if self._stalled:
            self._look = loop.call_later(LOOK_SECONDS, self._look_again)

    def _end(self, one: Bounded) -> None:
        self.closed(one)
        one.end()

    def _log(self, event: str, **fields: object) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged.get(event, -LOG_SECONDS_MIN) >= LOG_SECONDS_MIN:
            self._logged[event] = now
            log.warning(event, **fields)


def connections_that_fit() -> int:
    """Return how many connections this process may hold, by its limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, soft - DESCRIPTORS_RESERVED))

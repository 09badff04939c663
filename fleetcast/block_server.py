"""Decide when to publish a block: once for all nodes that request it within a while, and again for late ones.

Knows no broker, node or disk.

A node subscribes to a block's exact topic before it sends its request. So a block that the broker retains when the request arrives reaches
the
node without another publish, and so does one that is still on its way there to be retained. A block that is not retained reaches only
nodes whose request came before it was sent: so it waits a moment, and one publish serves them; the next serves later ones. What a node
requests `again` is sent, unless it was sent a moment ago and is still on its way. No node depends on retained blocks, and if they fail
many nodes at once, that costs one publish.

Times are seconds of any one clock. Blocks over the budget, or expired, are cleared: mosquitto keeps an expired block in its memory
until somebody subscribes to it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.manifest import Payload

EXPIRY_MARGIN_SECONDS = 5.0  # A retained block that is about to expire may be gone before it is read.
AGAIN_SECONDS = 3.0  # A node that asks again has waited longer than this and is subscribed: what was sent since then still reaches it.
WAITING_MAX = 65_536  # Number of blocks that wait to be sent; beyond it, a node that wants more has to ask again.


@dataclass(frozen=True, slots=True)
class Send:
    """Publish this payload; with `retain`, the broker keeps it for that many seconds."""

    digest: bytes
    retain: bool
    expiry_seconds: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Remove this payload from the broker's memory: publish an empty one, retained."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class _Waiting:
    bytes: int
    due: float


@dataclass(frozen=True, slots=True)
class _Retained:
    bytes: int
    expires_at: float


class BlockServer:
    """Hold the blocks that wait to be published, in the order of their first request, and those that the broker retains, oldest first."""

    def __init__(
        self,
        *,
        cache_bytes_max: int,
        expiry_seconds: int,
        linger_seconds: float,
        again_seconds: float = AGAIN_SECONDS,
        retain_available: bool = True,
    ) -> None:
        self.retain_available = retain_available  # The broker reports this when it connects.
        self._cache_bytes_max, self._expiry_seconds, self._linger_seconds = cache_bytes_max, expiry_seconds, linger_seconds
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._retained: OrderedDict[bytes, _Retained] = OrderedDict()
        self._retained_bytes = 0
        self._again_seconds = again_seconds

    def wanted(self, payloads: Sequence[Payload], *, again: bool, now: float) -> None:
        """Note blocks that a node requests; it is subscribed to them already."""
        for payload in payloads:
            retained = self._retained.get(payload.digest)
            if retained is not None and not again and retained.expires_at - now > EXPIRY_MARGIN_SECONDS:
                continue  # The broker delivers it to the node without us.
            if retained is not None and again and now - (retained.expires_at - self._expiry_seconds) < self._again_seconds:
                continue
            if len(self._waiting) < WAITING_MAX:
                linger = 0.0 if self._may_retain(payload.bytes) else self._linger_seconds  # A retained block need not wait for latecomers.
                self._waiting.setdefault(payload.digest, _Waiting(payload.bytes, now + linger))

    def due(self, now: float, *, room: int) -> list[Send | Clear]:
        """Return what to publish now, in this order: at most `room` blocks, the longest waiting first, and the blocks to clear for them."""
        commands: list[Send | Clear] = []
        while self._waiting and room > 0:
            digest, waiting = next(iter(self._waiting.items()))
            if waiting.due > now:
                break
            del self._waiting[digest]
            retain = self._may_retain(waiting.bytes)
            if retain:
                self._drop(digest)
                commands.extend(Clear(oldest) for oldest in self._make_room(waiting.bytes))
                self._keep(digest, _Retained(waiting.bytes, now + self._expiry_seconds))
            commands.append(Send(digest, retain, self._expiry_seconds))
            room -= 1
        commands.extend(Clear(digest) for digest in self._expired(now))
        return commands

    def forgot(self) -> None:
        """Note that the broker retains nothing any more. Nodes that still want a block ask again; waiting blocks are still sent."""
        self._retained.clear()
        self._retained_bytes = 0

    def restored(self, rows: Iterable[tuple[bytes, int, float]]) -> None:
        """Restore after a restart of the hub what it had retained, as (digest, bytes, expires_at)."""
        for digest, size_bytes, expires_at in sorted(rows, key=lambda row: row[2]):
            self._keep(digest, _Retained(size_bytes, expires_at))

    @property
    def waiting(self) -> int:
        """Return how many blocks wait to be published."""
        return len(self._waiting)

    @property
    def next_due(self) -> float | None:
        """Return when the next publish is due; None when nothing waits."""
        return next(iter(self._waiting.values())).due if self._waiting else None

    def _may_retain(self, size_bytes: int) -> bool:
        return self.retain_available and size_bytes <= self._cache_bytes_max

    def _make_room(self, size_bytes: int) -> list[bytes]:
        """Release the oldest blocks until this many bytes fit into the budget."""
        dropped: list[bytes] = []
        while self._retained_bytes + size_bytes > self._cache_bytes_max:
            dropped.append(next(iter(self._retained)))
            self._drop(dropped[-1])
        return dropped

    def _expired(self, now: float) -> list[bytes]:
        dropped: list[bytes] = []
        while self._retained and next(iter(self._retained.values())).expires_at <= now:
            dropped.append(next(iter(self._retained)))
            self._drop(dropped[-1])
        return dropped

    def _keep(self, digest: bytes, retained: _Retained) -> None:
        self._retained[digest] = retained
        self._retained_bytes += retained.bytes

    def _drop(self, digest: bytes) -> None:
        retained = self._retained.pop(digest, None)
        if retained is not None:
            self._retained_bytes -= retained.bytes

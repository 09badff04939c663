"""When to publish a block: once for all who want it within a while, and again for whoever missed it. Knows no broker, node or disk.

A node subscribes to a block's exact topic before it sends its want. So a block that the broker retains when the want arrives reaches the
node without another publish, and so does one that is still on its way there to be retained. A block that is not retained reaches only
those whose want came before it was sent: so it lingers a moment, and they are served by one publish, later ones by the next. What a node
wants `again` is sent, unless it was a moment ago and is still on its way: nothing rests on the broker, and many nodes that it failed at
once cost one publish.

Times are seconds of any one clock. What is over the budget, or has expired, is cleared: mosquitto keeps an expired block in its memory
until somebody subscribes to it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.manifest import Payload

EXPIRY_MARGIN_SECONDS = 5.0  # a retained block that is about to expire may be gone before it is read
AGAIN_SECONDS = 3.0  # who asks again has waited longer than that, and is subscribed: what was sent since then still reaches it
WAITING_MAX = 65_536  # blocks that wait to be sent; past that, whoever wants more has to ask again


@dataclass(frozen=True, slots=True)
class Send:
    """Publish this payload; with `retain`, the broker is to keep it for so many seconds."""

    digest: bytes
    retain: bool
    expiry_seconds: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Take this payload out of the broker's memory: publish nothing, retained."""

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
    """What waits to be published, in the order in which it was first wanted, and what the broker retains, oldest first."""

    def __init__(
        self,
        *,
        cache_bytes_max: int,
        expiry_seconds: int,
        linger_seconds: float,
        again_seconds: float = AGAIN_SECONDS,
        retain_available: bool = True,
    ) -> None:
        self.retain_available = retain_available  # set when the broker says so
        self._cache_bytes_max, self._expiry_seconds, self._linger_seconds = cache_bytes_max, expiry_seconds, linger_seconds
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._retained: OrderedDict[bytes, _Retained] = OrderedDict()
        self._retained_bytes = 0
        self._again_seconds = again_seconds

    def wanted(self, payloads: Sequence[Payload], *, again: bool, now: float) -> None:
        """A node wants these; it is subscribed to them already."""
        for payload in payloads:
            held = self._retained.get(payload.digest)
            if held is not None and not again and held.expires_at - now > EXPIRY_MARGIN_SECONDS:
                continue  # the broker gives it to the node by itself
            if held is not None and again and now - (held.expires_at - self._expiry_seconds) < self._again_seconds:
                continue
            if len(self._waiting) < WAITING_MAX:
                linger = 0.0 if self._may_retain(payload.bytes) else self._linger_seconds  # what is retained need not wait for latecomers
                self._waiting.setdefault(payload.digest, _Waiting(payload.bytes, now + linger))

    def due(self, now: float, *, room: int) -> list[Send | Clear]:
        """What to publish now, in this order: at most `room` blocks, the longest waiting first, and whatever is to be cleared for them."""
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
        """The broker has lost its memory: nothing is retained. Whoever still wants something says so again; what waits is still sent."""
        self._retained.clear()
        self._retained_bytes = 0

    def restored(self, rows: Iterable[tuple[bytes, int, float]]) -> None:
        """After a restart of the hub: what it had retained, as (digest, bytes, expires_at)."""
        for digest, size_bytes, expires_at in sorted(rows, key=lambda row: row[2]):
            self._keep(digest, _Retained(size_bytes, expires_at))

    @property
    def next_due(self) -> float | None:
        """When the next publish is due; None when nothing waits."""
        return next(iter(self._waiting.values())).due if self._waiting else None

    def _may_retain(self, size_bytes: int) -> bool:
        return self.retain_available and size_bytes <= self._cache_bytes_max

    def _make_room(self, size_bytes: int) -> list[bytes]:
        """Let go of the oldest until so many bytes fit into the budget."""
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

    def _keep(self, digest: bytes, held: _Retained) -> None:
        self._retained[digest] = held
        self._retained_bytes += held.bytes

    def _drop(self, digest: bytes) -> None:
        held = self._retained.pop(digest, None)
        if held is not None:
            self._retained_bytes -= held.bytes

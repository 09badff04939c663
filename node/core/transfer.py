"""Which blocks to subscribe to, ask for and wait for, so that a transfer ends whatever the link does. Knows no broker, disk or clock.

The topic is the address and the subscription is the want-list: the node subscribes to the exact topics of a small window of payloads, asks
for them once the broker has granted that, and opens the window further as payloads arrive. Nothing rests on the broker delivering: what has
not come after a quiet time is asked for again. The window bounds memory, because a payload that nobody subscribed to does not come.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Block, EncodingName, Payload, cheapest
from schemas.want import Range, ranges_of

QUIET_SECONDS_MIN = 5.0  # nothing arrived for so long: ask again; doubles up to the maximum
QUIET_SECONDS_MAX = 300.0
WINDOW_BYTES_MIN = BLOCK_BYTES_MAX  # one full block
WINDOW_BYTES_START = 512 * 1024  # doubles while half of it arrives within GROW_SECONDS, halves when nothing arrives
GROW_SECONDS = 1.0
RANGES_PER_WANT = 128  # under the schema's bound, so that a fragmented window still is one small message


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block's bytes stand: file number in the variant's list, and offset."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A payload to fetch, and every place its block fills."""

    number: int  # in the numbering of `schemas.want.Want`
    payload: Payload
    block: Block
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for these exact topics; `granted` follows."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """These have arrived."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a want."""

    ranges: tuple[Range, ...]
    again: bool


@dataclass(frozen=True, slots=True)
class Complete:
    """Every piece has arrived."""


Command = Subscribe | Unsubscribe | Ask | Complete


def pieces(files: Sequence[Sequence[Block]], encodings: tuple[EncodingName, ...]) -> tuple[Piece, ...]:
    """What has to be fetched for files given as block lists: one piece a distinct payload, in order of first use."""
    found: dict[bytes, tuple[int, Payload, Block, list[Place]]] = {}
    number = 0
    for file, blocks in enumerate(files):
        offset = 0
        for block in blocks:
            payload = cheapest(block, encodings)
            found.setdefault(payload.digest, (number, payload, block, []))[3].append(Place(file, offset))
            offset += block.bytes
            number += 1
    return tuple(Piece(first, payload, block, tuple(places)) for first, payload, block, places in found.values())


@dataclass(slots=True)
class Transfer:
    """The state of one transfer. Every method returns the commands to carry out, in order."""

    missing: deque[Piece]
    window_bytes: int
    filters_per_subscribe: int
    rng: Random
    online: bool = False
    asked: dict[bytes, Piece] = field(default_factory=dict)
    ungranted: set[bytes] = field(default_factory=set)  # subscribed to, not yet confirmed
    arrived: list[bytes] = field(default_factory=list)  # still subscribed to
    in_flight_bytes: int = 0
    quiet_since: float = 0.0
    quiet_seconds: float = QUIET_SECONDS_MIN
    window: int = WINDOW_BYTES_START  # the present one, at most `window_bytes`
    filled_at: float = 0.0
    complete: bool = False

    @classmethod
    def start(
        cls, wanted: Iterable[Piece], *, window_bytes: int, filters_per_subscribe: int, rng: Random, now: float, online: bool
    ) -> tuple["Transfer", list[Command]]:
        """Begin with the pieces that are not on disk."""
        transfer = cls(deque(wanted), window_bytes, filters_per_subscribe, rng, online)
        transfer.quiet_since = now
        transfer.window = min(window_bytes, WINDOW_BYTES_START)
        return transfer, transfer._fill(now)

    def piece(self, digest: bytes) -> Piece | None:
        """The piece that a payload topic belongs to, while it is awaited."""
        return self.asked.get(digest)

    def connected(self, *, session_present: bool, now: float) -> list[Command]:
        """A connection is up; a broker that forgot our session has to be told everything again."""
        self.online = True
        self.quiet_since, self.quiet_seconds = now, QUIET_SECONDS_MIN
        if session_present and not self.ungranted:
            return self._fill(now)
        self.arrived.clear()
        self.ungranted = set(self.asked)
        return self._subscribe(list(self.asked)) + self._fill(now)

    def disconnected(self) -> list[Command]:
        """The road is closed: nothing to do until `connected`."""
        self.online = False
        return []

    def granted(self, digests: Sequence[bytes], *, now: float) -> list[Command]:
        """The broker confirmed these subscriptions: only now can a want not miss its answer."""
        fresh = [self.asked[digest] for digest in digests if digest in self.ungranted and digest in self.asked]
        self.ungranted.difference_update(digests)
        self.quiet_since = now
        return _ask(fresh, again=False)

    def took(self, digest: bytes, *, now: float) -> list[Command]:
        """A piece is verified and on disk; one that was not awaited changes nothing."""
        piece = self.asked.pop(digest, None)
        if piece is None:
            return []
        self.ungranted.discard(digest)
        self.in_flight_bytes -= piece.payload.bytes
        self.arrived.append(digest)
        self.quiet_since, self.quiet_seconds = now, QUIET_SECONDS_MIN
        commands: list[Command] = []
        if self.in_flight_bytes <= self.window // 2:  # in halves, so that wants and subscriptions stay few
            if now - self.filled_at < GROW_SECONDS:
                self.window = min(self.window_bytes, self.window * 2)
            commands = self._fill(now)
        if not self.asked and not self.missing:
            self.complete = True
            return [*self._leave(), *commands, Complete()]
        if len(self.arrived) >= 2 * self.filters_per_subscribe:
            commands = [*commands, *self._leave()]
        return commands

    def rejected(self, digest: bytes, *, now: float) -> list[Command]:
        """A payload came damaged: ask for it again at once; the quiet time then bounds how often."""
        piece = self.asked.get(digest)
        if piece is None or digest in self.ungranted:
            return []
        self.quiet_since = now
        return _ask([piece], again=True)

    def tick(self, now: float) -> list[Command]:
        """Ask again for what has been quiet for too long."""
        if not self.online or self.complete:
            return []
        if self.asked and now - self.quiet_since >= self.quiet_seconds:
            self.quiet_since = now
            self.window = min(self.window_bytes, max(WINDOW_BYTES_MIN, self.window // 2))
            self.quiet_seconds = min(QUIET_SECONDS_MAX, self.quiet_seconds * (1.5 + self.rng.random()))
            # Subscriptions are repeated too: a broker may have refused or lost one without saying so.
            return [*self._subscribe(list(self.asked)), *_ask(list(self.asked.values()), again=True)]
        return self._fill(now)

    def cancel(self) -> list[Command]:
        """Leave all topics; what is on disk stays for whoever can use it."""
        self.arrived.extend(self.asked)
        self.asked.clear()
        self.missing.clear()
        self.complete = True
        return self._leave()

    def _fill(self, now: float) -> list[Command]:
        if not self.online:
            return []
        fresh: list[bytes] = []
        while self.missing and (not self.asked or self.in_flight_bytes + self.missing[0].payload.bytes <= self.window):
            piece = self.missing.popleft()
            self.asked[piece.payload.digest] = piece
            self.in_flight_bytes += piece.payload.bytes
            fresh.append(piece.payload.digest)
        if not fresh:
            return []
        self.quiet_since = self.filled_at = now
        self.ungranted.update(fresh)
        return self._subscribe(fresh)

    def _subscribe(self, digests: list[bytes]) -> list[Command]:
        step = self.filters_per_subscribe
        return [Subscribe(tuple(digests[at : at + step])) for at in range(0, len(digests), step)]

    def _leave(self) -> list[Command]:
        digests, self.arrived = self.arrived, []
        step = self.filters_per_subscribe
        return [Unsubscribe(tuple(digests[at : at + step])) for at in range(0, len(digests), step)]


def _ask(wanted: list[Piece], *, again: bool) -> list[Command]:
    ranges = ranges_of(sorted(piece.number for piece in wanted))
    return [Ask(ranges[at : at + RANGES_PER_WANT], again) for at in range(0, len(ranges), RANGES_PER_WANT)]

"""Decide which blocks to subscribe to, ask for and wait for, so that a transfer ends whatever the link does. Knows no broker, disk or
clock.

The topic is the address and the subscription is the want-list: the node subscribes to the exact topics of a small window of payloads, asks
for them once the broker has granted that, and opens the window further as payloads arrive. Nothing rests on the broker delivering: what has
not come after a quiet time is asked for again. The window bounds memory, because a payload that nobody subscribed to does not come.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from node.core.trust.clock import NEVER, MonotonicSeconds
from schemas.block_request import Range, Want, ranges_of
from schemas.encoding import DECODABLE
from schemas.manifest import Block, EncodingName, Payload, cheapest, holds_nothing

# Nothing arrived for a while: is something lost, or only late? What a broker answers stands in line behind the blocks that it sends. So it
# is asked something small first, and only when it has answered, and nothing came before that, is anything asked for again; a road that was
# down for half a minute has nothing sent twice. Doubles up to the maximum.
QUIET_SECONDS_MIN = 5.0
QUIET_SECONDS_MAX = 300.0
QUIET_PER_PACE = 4.0  # longer, where blocks come slowly: on a road that brings one in 15 s, a minute's silence means something
PROBE_SECONDS = 120.0  # a connection that carries nothing has been ended by then; a broker that does not answer is believed no more
PACE_KEPT = 0.9  # Share of the longest wait that each arrival leaves: one slow block is remembered for some twenty
WINDOW_BYTES_MIN = 16 * 1024  # over 20 kbit/s more is a minute of queue; a transfer starts with it, for who knows how slow the road is
WINDOW_PIECES_MIN = 2  # one arriving, one asked for: else a road with long delay stands empty between them
GIVE_UP_SECONDS = 6 * 3600.0  # Time of asking without an answer, while connected; then somebody should look.
GROW_SECONDS = 1.5  # the window doubles while half of it arrives so fast, and halves when nothing arrives
WINDOW_PIECES_MAX = 256  # tiny blocks too: a hub answers at most 1,024 of one want, a broker drops what overfills its queue
RANGES_PER_WANT = 128  # under the schema's bound, so that a fragmented window still is one small message


@dataclass(frozen=True, slots=True)
class Place:
    """Describe where a block's bytes stand: file number in the variant's list, and offset."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Hold a payload to fetch, and every place its block fills."""

    number: int  # in the numbering of `schemas.want.Want`
    payload: Payload
    block: Block
    places: tuple[Place, ...]
    choice: int = 0  # which of the block's payloads, by the count of `schemas.want.Want`


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for these exact topics; `granted` follows. `only_if_new`: what it retains comes only if it did not know."""

    digests: tuple[bytes, ...]
    only_if_new: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Report that these have arrived."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a want."""

    ranges: tuple[Range, ...]
    again: bool
    choice: int

    def want(self, release: bytes, variant: str, *, index: bool = False) -> Want:
        """Return it as a document, for what the numbers count over."""
        return Want(
            release=release, variant=variant, ranges=self.ranges, encodings=DECODABLE, index=index, again=self.again, choice=self.choice
        )


@dataclass(frozen=True, slots=True)
class Complete:
    """Report that every piece has arrived."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Report that what was asked for has not come for very long; it is still waited for."""


Command = Subscribe | Unsubscribe | Ask | GaveUp | Complete


def pieces(
    files: Sequence[Sequence[Block]], encodings: tuple[EncodingName, ...], holds: Callable[[bytes], bool] = holds_nothing
) -> tuple[Piece, ...]:
    """Return what has to be fetched for files given as block lists: one piece a distinct block, in order of first use."""
    found: dict[bytes, tuple[int, Block, list[Place]]] = {}
    number = 0
    for file, blocks in enumerate(files):
        offset = 0
        for block in blocks:
            found.setdefault(block.digest, (number, block, []))[2].append(Place(file, offset))
            offset += block.bytes
            number += 1
    chosen = [(first, cheapest(block, encodings, holds), block, tuple(places)) for first, block, places in found.values()]
    return tuple(Piece(first, payload, block, places, block.choices.index(payload)) for first, payload, block, places in chosen)


@dataclass(slots=True)
class Transfer:
    """Hold the state of one transfer. Every method returns the commands to carry out, in order."""

    missing: deque[Piece]
    window_bytes: int
    filters_per_subscribe: int
    rng: Random
    online: bool = False
    asked: dict[bytes, Piece] = field(default_factory=dict)
    ungranted: set[bytes] = field(default_factory=set)  # subscribed to, not yet confirmed
    arrived: list[bytes] = field(default_factory=list)  # still subscribed to
    in_flight_bytes: int = 0
    missing_bytes: int = 0  # not yet asked for
    quiet_since: MonotonicSeconds = NEVER
    quiet_seconds: float = QUIET_SECONDS_MIN
    pace_seconds: float = 0.0  # the longest wait for an arrival, of late
    asked_again: bool = False  # since the last arrival
    probe: bytes | None = None  # a topic that was subscribed to once more, to see whether the broker answers
    probed_at: MonotonicSeconds = NEVER
    damaged: set[bytes] = field(default_factory=set)  # asked for again at once already
    window: int = WINDOW_BYTES_MIN  # the present one, at most `window_bytes`
    filled_at: MonotonicSeconds = NEVER
    filled_bytes: int = 0  # in flight then: two large blocks are more than a small window
    silent_seconds: float = 0.0  # Time of asking in vain.
    gave_up: bool = False
    allowed: int = 2**62
    pieces_max: int = WINDOW_PIECES_MAX  # Asked for at once; with those that have come and were not left yet, half as many again.
    complete: bool = False

    @classmethod
    def start(
        cls, wanted: Iterable[Piece], *, window_bytes: int, filters_per_subscribe: int, rng: Random, now: MonotonicSeconds, online: bool
    ) -> tuple["Transfer", list[Command]]:
        """Begin with the pieces that are not on disk."""
        transfer = cls(deque(wanted), window_bytes, filters_per_subscribe, rng, online)
        transfer.missing_bytes = sum(piece.payload.bytes for piece in transfer.missing)
        transfer.quiet_since = now
        transfer.window = min(window_bytes, WINDOW_BYTES_MIN)
        return transfer, transfer._fill(now)

    def piece(self, digest: bytes) -> Piece | None:
        """Return the piece that a payload topic belongs to, while it is awaited."""
        return self.asked.get(digest)

    def connected(self, *, session_present: bool, now: MonotonicSeconds) -> list[Command]:
        """Take in that a connection is up; a broker that forgot our session is asked everything again, another what it may have missed."""
        self.online, self.probe = True, None
        self.quiet_since = now
        if not session_present:
            self.arrived.clear()
            self.ungranted = set(self.asked)
        open_ = [digest for digest in self.asked if digest in self.ungranted]
        return self._subscribe(open_, only_if_new=session_present) + self._fill(now)

    def disconnected(self) -> list[Command]:
        """Take in that the road is closed: nothing to do until `connected`."""
        self.online = False
        return []

    def granted(self, digests: Sequence[bytes], *, now: MonotonicSeconds) -> list[Command]:
        """Take in that the broker confirmed these subscriptions: only now can a want not miss its answer."""
        fresh = [self.asked[digest] for digest in digests if digest in self.ungranted and digest in self.asked]
        self.ungranted.difference_update(digests)
        if fresh:
            self.quiet_since, self.probe = now, None
            return _ask(fresh, again=False)
        return self._ask_again(now) if self.probe in digests else []

    def took(self, digest: bytes, *, now: MonotonicSeconds) -> list[Command]:
        """Take in that a piece is verified and on disk; one that was not awaited changes nothing."""
        piece = self.asked.pop(digest, None)
        if piece is None:
            return []
        self.ungranted.discard(digest)
        self.in_flight_bytes -= piece.payload.bytes
        self.arrived.append(digest)
        self._learn_pace(now)
        self.silent_seconds, self.gave_up, self.probe = 0.0, False, None
        commands: list[Command] = []
        full = max(self.window, self.filled_bytes)
        if self.in_flight_bytes <= full // 2 and now - self.filled_at < GROW_SECONDS:
            self.window = min(self.window_bytes, 2 * full)
        if self._has_room:
            commands = self._fill(now)
        if not self.asked and not self.missing:
            self.complete = True
            return [*self._leave(), *commands, Complete()]
        if len(self.arrived) >= min(2 * self.filters_per_subscribe, max(1, self.pieces_max // 2)):
            commands = [*commands, *self._leave()]
        return commands

    def rejected(self, digest: bytes, *, now: MonotonicSeconds) -> list[Command]:
        """Take in that a payload came damaged: ask for it again at once, but once; after that only when all is quiet, or a liar spends our
        bytes.
        """
        piece = self.asked.get(digest)
        if piece is None or digest in self.ungranted or digest in self.damaged:
            return []
        self.damaged.add(digest)
        self.quiet_since, self.asked_again = now, True
        return _ask([piece], again=True)

    def tick(self, now: MonotonicSeconds) -> list[Command]:
        """Ask again for what has been quiet for too long."""
        if not self.online or not self.asked or now - self.quiet_since < self.quiet_seconds:
            return []
        if self.probe is None:
            self.probe, self.probed_at = next(iter(self.asked)), now
            return [Subscribe((self.probe,), only_if_new=True)]
        return self._ask_again(now) if now - self.probed_at >= PROBE_SECONDS else []

    def _ask_again(self, now: MonotonicSeconds) -> list[Command]:
        """Ask again, and repeat subscriptions too: a broker may have refused or lost some, and say that it has the session.

        The first time only for such: whatever a broker retains comes once more with each subscription that it knew.
        """
        commands = self._subscribe(list(self.asked), only_if_new=not self.asked_again)
        self.silent_seconds += now - self.quiet_since
        if self.silent_seconds >= GIVE_UP_SECONDS and not self.gave_up:
            self.gave_up = True
            commands.append(GaveUp())
        self.quiet_since, self.asked_again, self.probe = now, True, None
        self.window = min(self.window_bytes, max(WINDOW_BYTES_MIN, self.window // 2))
        self.quiet_seconds = min(QUIET_SECONDS_MAX, self.quiet_seconds * (1.5 + self.rng.random()))
        return [*commands, *_ask(list(self.asked.values()), again=True)]

    @property
    def stalled(self) -> bool:
        """Return whether what was asked for had to be asked for again, and has not come since."""
        return self.asked_again

    @property
    def _has_room(self) -> bool:
        """Return whether there is room: in halves, so that wants and subscriptions stay few."""
        return self.in_flight_bytes <= max(self.window, self.filled_bytes) // 2 or len(self.asked) < WINDOW_PIECES_MIN

    def add(self, wanted: Iterable[Piece], *, now: MonotonicSeconds) -> list[Command]:
        """Take in that more is wanted of the same list; the additions are not awaited yet."""
        for piece in wanted:
            self.missing.append(piece)
            self.missing_bytes += piece.payload.bytes
        self.complete = False
        return self._fill(now)

    def allow(self, window_bytes_max: int, *, now: MonotonicSeconds) -> list[Command]:
        """Have at most this many bytes in flight from now on; with 0 what was asked for still comes, and nothing more is asked.

        A transfer that has to wait leaves the topics of what has come: each copy that is published for other nodes would cost it bytes.
        """
        self.allowed = window_bytes_max
        commands = self._fill(now) if self._has_room else []
        return commands if self.asked or self.complete or not self.online else [*commands, *self._leave()]

    def cancel(self) -> list[Command]:
        """Leave all topics; what is on disk stays for the next transfer."""
        self.arrived.extend(self.asked)
        self.asked.clear()
        self.missing.clear()
        self.missing_bytes = 0
        self.complete = True
        return self._leave()

    def _fill(self, now: MonotonicSeconds) -> list[Command]:
        if not self.online:
            return []
        fresh: list[bytes] = []
        while self.missing and len(self.asked) < self.pieces_max:
            more = self.in_flight_bytes + self.missing[0].payload.bytes
            if (len(self.asked) >= WINDOW_PIECES_MIN and more > self.window) or more > self.allowed:
                break
            piece = self.missing.popleft()
            self.asked[piece.payload.digest] = piece
            self.in_flight_bytes += piece.payload.bytes
            self.missing_bytes -= piece.payload.bytes
            fresh.append(piece.payload.digest)
        if not fresh:
            return []
        self.quiet_since = self.filled_at = now
        self.filled_bytes = self.in_flight_bytes
        self.ungranted.update(fresh)
        return self._subscribe(fresh)

    def _learn_pace(self, now: MonotonicSeconds) -> None:
        """Learn how long this road may be quiet while nothing is lost. After asking again nobody knows which asking an arrival answers.

        So that teaches nothing, and the longer quiet time stays until something comes unasked (Karn and Partridge 1987; RFC 6298, 5).
        """
        waited, self.quiet_since = now - self.quiet_since, now
        if self.asked_again:
            self.asked_again = False
        elif waited > 0:  # arrivals of one batch say nothing of the pace
            self.pace_seconds = max(waited, PACE_KEPT * self.pace_seconds)
            self.quiet_seconds = min(QUIET_SECONDS_MAX, max(QUIET_SECONDS_MIN, QUIET_PER_PACE * self.pace_seconds))

    def _subscribe(self, digests: list[bytes], *, only_if_new: bool = False) -> list[Command]:
        step = self.filters_per_subscribe
        return [Subscribe(tuple(digests[at : at + step]), only_if_new) for at in range(0, len(digests), step)]

    def _leave(self) -> list[Command]:
        digests, self.arrived = self.arrived, []
        step = self.filters_per_subscribe
        return [Unsubscribe(tuple(digests[at : at + step])) for at in range(0, len(digests), step)]


def _ask(wanted: list[Piece], *, again: bool) -> list[Command]:
    commands: list[Command] = []
    for choice in sorted({piece.choice for piece in wanted}):
        ranges = ranges_of(sorted(piece.number for piece in wanted if piece.choice == choice))
        commands += [Ask(ranges[at : at + RANGES_PER_WANT], again, choice) for at in range(0, len(ranges), RANGES_PER_WANT)]
    return commands

"""Decide what a relay serves, and what it fetches for that. The two cores joined: a block server towards the site, transfers towards the
uplink.

Every payload is fetched once, however many nodes request it and in whichever release, and the owner of the disk keeps it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from fleetcast.block_server import BlockServer
from node.core.delivery.transfer import Ask, Complete, GaveUp, Piece, Subscribe, Transfer, Unsubscribe
from node.core.trust.clock import MonotonicSeconds
from schemas.manifest import Payload

TRANSFERS_MAX = 64  # lists of blocks that are fetched from at once: a site has a few models, and a stranger may name many
NEEDS_MAX = 65_536  # payloads that wait for the uplink; past that, a node has to ask again


@dataclass(frozen=True, slots=True)
class Source:
    """Describe what the numbers of a want count over: the blocks, or the block lists, of one variant of one release."""

    release: bytes
    variant: str
    index: bool


@dataclass(frozen=True, slots=True)
class AskUp:
    """Send a want up the road."""

    source: Source
    ask: Ask


Act = Subscribe | Unsubscribe | AskUp


@dataclass(slots=True)
class Relaying:
    """Hold both sides. `holds` says whether a payload is on disk; every method returns what to do up the road, in order.

    Only `tick` lets more be asked for, since only there the window is divided among all transfers.
    """

    server: BlockServer
    holds: Callable[[bytes], bool]
    window_bytes: int
    filters_per_subscribe: int
    rng: Random
    online: bool = False
    transfers: dict[Source, Transfer] = field(default_factory=dict)
    coming: dict[bytes, Source] = field(default_factory=dict)  # payloads that are fetched, and by which transfer

    def wanted(self, source: Source, pieces: Sequence[Piece], *, again: bool, now: MonotonicSeconds) -> list[Act]:
        """Take in that a node at the site wants these, and is subscribed to them."""
        here = [piece.payload for piece in pieces if self.holds(piece.payload.digest)]
        self.server.wanted(here, again=again, now=float(now))
        known = {payload.digest for payload in here} | self.coming.keys()
        new = {piece.payload.digest: piece for piece in pieces if piece.payload.digest not in known}  # a block may stand in two places
        fresh = list(new.values())[: max(0, NEEDS_MAX - len(self.coming))]
        if not fresh or (source not in self.transfers and len(self.transfers) >= TRANSFERS_MAX):
            return []
        self.coming.update({piece.payload.digest: source for piece in fresh})
        if source not in self.transfers:
            transfer, _ = Transfer.start(
                fresh, window_bytes=self.window_bytes, filters_per_subscribe=self.filters_per_subscribe, rng=self.rng, now=now, online=False
            )
            self.transfers[source] = transfer
            transfer.allow(0, now=now)
            return self._acts(source, transfer.connected(session_present=True, now=now)) if self.online else []
        transfer = self.transfers[source]
        return self._acts(source, [*transfer.allow(0, now=now), *transfer.add(fresh, now=now)])

    def piece(self, digest: bytes) -> Piece | None:
        """Return what a payload from up the road is, while it is awaited."""
        source = self.coming.get(digest)
        return self.transfers[source].piece(digest) if source is not None else None

    def took(self, payload: Payload, *, now: MonotonicSeconds) -> list[Act]:
        """Take in that a payload came, was verified, and is on disk, or in memory where the disk has no room: the site gets it."""
        source = self.coming.pop(payload.digest, None)
        if source is None:
            return []
        self.server.wanted([payload], again=True, now=float(now))
        transfer = self.transfers[source]
        return self._acts(source, [*transfer.allow(0, now=now), *transfer.took(payload.digest, now=now)])

    def rejected(self, digest: bytes, *, now: MonotonicSeconds) -> list[Act]:
        """Take in that a payload came damaged."""
        source = self.coming.get(digest)
        return self._acts(source, self.transfers[source].rejected(digest, now=now)) if source is not None else []

    def connected(self, *, session_present: bool, now: MonotonicSeconds) -> list[Act]:
        """Take in that the uplink is there."""
        self.online = True
        for transfer in self.transfers.values():
            transfer.allow(0, now=now)
        return [
            act
            for source, transfer in list(self.transfers.items())
            for act in self._acts(source, transfer.connected(session_present=session_present, now=now))
        ]

    def disconnected(self) -> None:
        """Take in that the uplink is gone; what is on disk is served."""
        self.online = False
        for transfer in self.transfers.values():
            transfer.disconnected()

    def granted(self, source: Source, digests: Sequence[bytes], *, now: MonotonicSeconds) -> list[Act]:
        """Take in that the broker up the road confirmed a SUBSCRIBE."""
        transfer = self.transfers.get(source)
        return self._acts(source, transfer.granted(digests, now=now)) if transfer is not None else []

    def tick(self, *, allowed_bytes: int, now: MonotonicSeconds) -> list[Act]:
        """Ask again for what has been quiet for too long; no more than `allowed_bytes` are to be on their way in all."""
        acts: list[Act] = []
        room = max(0, allowed_bytes - sum(transfer.in_flight_bytes for transfer in self.transfers.values()))
        for source, transfer in list(self.transfers.items()):
            before = transfer.in_flight_bytes
            acts += self._acts(source, transfer.allow(before + room, now=now))
            room -= max(0, transfer.in_flight_bytes - before)
            if source in self.transfers:
                acts += self._acts(source, transfer.tick(now))
        return acts

    def _acts(self, source: Source, commands: Sequence[object]) -> list[Act]:
        acts: list[Act] = []
        for command in commands:
            match command:
                case Subscribe() | Unsubscribe():
                    acts.append(command)
                case Ask():
                    acts.append(AskUp(source, command))
                case Complete() | GaveUp():
                    acts += self._end(source)
        return acts

    def _end(self, source: Source) -> list[Act]:
        transfer = self.transfers.pop(source, None)
        self.coming = {digest: other for digest, other in self.coming.items() if other != source}
        return [act for act in transfer.cancel() if isinstance(act, Unsubscribe)] if transfer is not None else []

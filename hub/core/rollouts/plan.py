"""Computes what a rollout will cost, before anything is sent: in payload bytes, by node and by site, and how long that takes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.encoding import DECODABLE
from schemas.manifest import Block, cheapest

WIRE_OVERHEAD = 1.015  # the most that topics, wants and acknowledgements add (`make bench`, delivery.wire_overhead)


@dataclass(frozen=True, slots=True)
class Cost:
    """Hold the bytes that one node fetches and those that it has, as payloads; `fetched` holds each payload's size by digest.

    `instead_bytes` come whole because the parent of a delta is not there: whether they may come is for the node's budget to say.
    """

    fetched: Mapping[bytes, int]
    reused_bytes: int
    instead_bytes: int

    @property
    def fetched_bytes(self) -> int:
        """Return all that comes over the road."""
        return sum(self.fetched.values())


def cost(blocks: Sequence[Block], index: Sequence[Block], holds: Callable[[bytes], bool], *, follows: bool) -> Cost:
    """Return what a node fetches that holds such blocks; `follows`: another release of the model is there."""
    fetched: dict[bytes, int] = {}
    reused = instead = 0
    for block in {block.digest: block for block in (*index, *blocks)}.values():
        payload = cheapest(block, DECODABLE, holds)
        if holds(block.digest):
            reused += payload.bytes
            continue
        fetched[payload.digest] = payload.bytes
        if follows and any(one.encoding == "delta" and one.bytes < payload.bytes for one in block.payloads):
            instead += payload.bytes
    return Cost(fetched, reused, instead)


@dataclass(frozen=True, slots=True)
class SiteCost:
    """Hold a site's nodes: what crosses its uplink when each fetches for itself, and when a relay fetches each payload once."""

    nodes: int
    each_bytes: int
    relayed_bytes: int


def by_site(costs: Iterable[tuple[str, Cost]]) -> dict[str, SiteCost]:
    """Return costs as (site, cost), summed."""
    nodes: dict[str, list[Cost]] = {}
    for site, one in costs:
        nodes.setdefault(site, []).append(one)
    found: dict[str, SiteCost] = {}
    for site, group in sorted(nodes.items()):
        union: dict[bytes, int] = {}
        for fetched in {id(one.fetched): one.fetched for one in group}.values():  # nodes alike share one mapping
            union.update(fetched)
        found[site] = SiteCost(len(group), sum(one.fetched_bytes for one in group), sum(union.values()))
    return found


def seconds(size_bytes: int, bits_per_second: float) -> float:
    """Return how long a road of this rate is busy with these payload bytes, overhead included."""
    return size_bytes * WIRE_OVERHEAD * 8 / bits_per_second

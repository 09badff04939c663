"""Say what a release would cost this fleet: who moves, what is fetched over which link, and what speaks against it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from fleetcast.sentence_end import ended
from hub.core.rollouts import commands
from hub.operations import planning
from hub.operations.rollouts import start_of
from hub.web.console.moments import counted
from hub.web.console.page import View
from hub.web.console.pages.node_words import megabytes
from schemas.errors import Refused

PLAN_SECONDS: Final = 5.0
KEPT_MAX: Final = 16
SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Planned:
    """Hold what a rollout would do: how many nodes take the release, what they serve now, and what they fetch."""

    version: str
    deployment: str
    nodes: int
    serves: Mapping[str, int]  # How many of them serve which version now, by their receipts; "" for none.
    bytes_planned: int
    bytes_reused: int
    links: Sequence[Mapping[str, Any]]
    refusals: Mapping[str, int]  # Why a node cannot take it, and how many.
    breaks: Sequence[Mapping[str, Any]]
    moved: Sequence[tuple[str, int]]  # Deployments that nodes leave, and how many.
    notes: Sequence[str]
    drift: str
    none: str  # Why no node would take it, where none would.
    takers: str = ""  # Digest of the names of the nodes that take it.

    @property
    def roaming(self) -> int:
        """Return the bytes that are fetched over roaming links."""
        return sum(int(one["fetches"]) for one in self.links if one["link"] == "roaming")

    @property
    def already(self) -> int:
        """Return how many nodes serve the release."""
        return self.serves.get(self.version, 0)

    @property
    def moves(self) -> int:
        """Return how many nodes would move."""
        return self.nodes - self.already


def planned(view: View, model: str, wish: commands.Start) -> Planned:
    """Return what a rollout would do.

    Raises:
        Refused: there is no such release or deployment.
    """
    found, none = planning.plan(view.fleet, model, wish)
    takes = [row for row in found["nodes"] if not row["refused"]]
    known = view.snapshot.seen.nodes
    serves = Counter(
        node.serving[model].version if (node := known.get(row["node"])) is not None and model in node.serving else "" for row in takes
    )
    return Planned(
        wish.version,
        found["deployment"],
        len(takes),
        serves,
        found["bytes_planned"],
        found["bytes_reused"],
        found["links"],
        Counter(row["refused"] for row in found["nodes"] if row["refused"]),
        found["breaks"],
        [(one["from"] or "no deployment", len(one["nodes"])) for one in found["changes"] if one["from"] != found["deployment"]],
        found["notes"],
        found["drift"]["text"],
        none if not takes else "",
        hashlib.blake2b(json.dumps(sorted(row["node"] for row in takes)).encode(), digest_size=12).hexdigest(),
    )


def planned_of_release(view: View, model: str, version: str) -> Planned | str:
    """Return what a rollout in the default deployment would do, read once for all viewers; or why there is none."""

    def read() -> Planned | str:
        try:
            return planned(view, model, start_of({"version": version}))
        except Refused as refused:
            return refused.reason

    return view.shared.get(("plan", model, version), read, seconds=PLAN_SECONDS, at_most=KEPT_MAX)


def cost(one: Planned) -> str:
    """Return what it costs, as questions say it."""
    return cost_in_words(one.bytes_planned, one.roaming)


def cost_in_words(total_bytes: int, roaming_bytes: int) -> str:
    """Return what nodes fetch, as every question about a rollout says it."""
    if not total_bytes:
        return "0 MB: all hold it"
    return f"about {megabytes(total_bytes)} MB, {megabytes(roaming_bytes)} of it roaming"


def who(one: Planned) -> str:
    """Return which nodes move, and from what."""
    if not one.nodes:
        return one.none
    if not one.moves:
        return f"{'The one node serves' if one.nodes == 1 else f'All {counted(one.nodes)} nodes serve'} {one.version} already"
    before = sorted(((count, version) for version, count in one.serves.items() if version != one.version), reverse=True)
    parts = [f"{counted(count)} from {version or 'none'}" for count, version in before]
    parts = [*parts[:SHOWN], *([f"{counted(sum(count for count, _ in before[SHOWN:]))} from others"] if len(parts) > SHOWN else [])]
    return f"{number_of(one.moves, 'node')} {verb(one.moves, 'move')} to {one.version} ({', '.join(parts)})"


def rows(one: Planned) -> list[dict[str, Any]]:
    """Return a row for each class of link that has nodes."""
    return [
        {"link": row["link"], "nodes": row["nodes"], "megabytes": megabytes(row["fetches"]), "longest": row["longest"]} for row in one.links
    ]


def warnings(one: Planned) -> list[str]:
    """Return what speaks against it: nodes that cannot take it, programs that would not work with it, deployments that lose nodes."""
    found = [ended(f"{number_of(count, 'node')} cannot take it: {reason}") for reason, count in Counter(one.refusals).most_common(SHOWN)]
    for each in one.breaks:
        how = "; ".join(each["differences"][:SHOWN])
        found.append(
            f"Programs that use {each['version']}, which {number_of(each['nodes'], 'node')} served, would not work with it: {how}."
        )
    found += [f"{number_of(count, 'node')} {verb(count, 'leave')} {name} for {one.deployment}." for name, count in one.moved]
    return found

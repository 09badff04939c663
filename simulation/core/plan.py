"""Hold what is to be simulated: groups of nodes, what each has to fetch, and the terms of the rollout. Parsed and checked elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

from hub.core.rollouts.commands import Start
from node.core.delivery.byte_quota import Policy
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from simulation.core.link_classes import Link
from simulation.core.schedule import Schedule

MODEL = "model"
VERSION = "1.0.0"
RELEASE = ReleaseRef(VERSION, sha256(b"the release that is simulated"))


@dataclass(frozen=True, slots=True)
class Fetch:
    """Hold what a node has to fetch: the sizes of its payloads. `instead_bytes` come whole because a delta's parent is not there."""

    payloads: tuple[int, ...]
    instead_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Return the bytes of all payloads."""
        return sum(self.payloads)


@dataclass(frozen=True, slots=True)
class Group:
    """Describe nodes that are alike. `fetch` is None where they serve the release already."""

    name: str
    nodes: int
    link: Link
    labels: Mapping[str, str]
    zone: tzinfo
    schedule: Schedule
    shift_seconds_max: float  # Each node's times of being on are moved by up to this, in either direction.
    report_seconds: int  # What lies between two reports of a node.
    policy: Policy
    fetch: Fetch | None
    serves_nothing: bool
    fails: float  # Share of the nodes on which the release fails.
    mends: float  # Chance that a failed node's next attempt succeeds.


@dataclass(frozen=True, slots=True)
class Plan:
    """Describe a fleet and a rollout. `start` is seconds since 1970."""

    groups: tuple[Group, ...]
    rollout: Start
    start: int
    days_max: float
    activate_seconds: float

    @property
    def nodes(self) -> int:
        """Return how many nodes there are."""
        return sum(group.nodes for group in self.groups)

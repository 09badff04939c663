"""The signed statement of which nodes should run which release. Moves a million nodes with one document."""

import hashlib
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact
from schemas.manifest import Seconds
from schemas.names import Digest, Label, ModelName, Version
from schemas.parameters import Value


class ReleaseRef(NamedTuple):
    """A release, by version for people and by manifest digest for machines."""

    version: Version
    digest: Digest


class Gate(Fact):
    """What must hold before the next stage; ratios are over the nodes of the stage that were heard from."""

    receipts_ratio_min: Annotated[float, Field(ge=0, le=1)] = 0.95
    failures_ratio_max: Annotated[float, Field(ge=0, le=1)] = 0.05
    soak_seconds: Annotated[int, Field(ge=0, le=30 * 24 * 3600)] = 0
    silent_seconds: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 3600  # a node not heard from for so long is silent, not failed
    halt_on_drift: bool = True
    drift_tests_min: Annotated[int, Field(ge=0, le=2**31)] | None = None  # intervals of the release that must have been tested in the stage


class Carriage(Fact):
    """How a rollout's bytes may travel."""

    bytes_max: Annotated[int, Field(ge=0, le=2**53)] | None = None  # of one node, in all; none beyond
    full_download: bool | None = None  # whether a node without the parent of a delta may take the whole; else its own policy says
    priority: Annotated[int, Field(ge=0, le=9)] = 5  # of a node's transfers, the higher goes first


class Rollout(Document):
    """One model's rollout. `serial` only rises: it fences off a hub that came back from the past."""

    schema_name = "rollout"
    bytes_max = limits.ROLLOUT_BYTES_MAX

    model: ModelName
    serial: Annotated[int, Field(ge=1, le=2**53)]
    release: ReleaseRef
    fallback: ReleaseRef | None = None
    state: Literal["running", "halted", "done", "rolled_back"]
    stages: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=1, max_length=limits.STAGES_MAX)]  # percent, rising
    stage: Annotated[int, Field(ge=0, lt=limits.STAGES_MAX)] = 0
    salt: Annotated[bytes, Field(min_length=16, max_length=16)]
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    gate: Gate = Gate()
    carriage: Carriage | None = None
    parameters: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)] | None = None  # of the release, set for all
    fallback_parameters: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)] | None = None  # of what it replaces
    started: Seconds

    @property
    def percent(self) -> int:
        """How much of the selected fleet the present stage reaches."""
        return 100 if self.state == "done" else self.stages[min(self.stage, len(self.stages) - 1)]


def selected(rollout: Rollout, labels: dict[str, str]) -> bool:
    """Whether a node with these labels is addressed at all."""
    return all(labels.get(key) == value for key, value in rollout.labels.items())


def bucket(salt: bytes, node: str) -> float:
    """Where a node stands in the order of a rollout, in [0, 100). Keyed, so that the same nodes are not always first."""
    word = int.from_bytes(hashlib.blake2b(node.encode(), key=salt, digest_size=8).digest(), "big")
    return word / 2**64 * 100


def wanted(rollout: Rollout, *, node: str, labels: dict[str, str]) -> ReleaseRef | None:
    """The release that this node should run; None when the rollout says nothing to it, and it keeps what it has.

    A halted rollout moves nobody: who has the new release keeps it, who has not waits.
    """
    if not selected(rollout, labels) or rollout.state == "halted":
        return None
    if rollout.state == "rolled_back":
        return rollout.fallback
    if bucket(rollout.salt, node) < rollout.percent:
        return rollout.release
    return rollout.fallback


def rollout_path(model: str) -> str:
    """Where TUF lists a model's rollout."""
    return f"rollouts/{model}"

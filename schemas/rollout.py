"""Define the signed statement of which nodes should run which release. One document moves a million nodes."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from schemas import limits
from schemas.document import Document, Fact, Since
from schemas.names import Digest, Label, ModelName, Version
from schemas.parameters import Value
from schemas.quantities import Seconds
from schemas.windows import Windows


class ReleaseRef(NamedTuple):
    """Name a release, by version for people and by manifest digest for machines."""

    version: Version
    digest: Digest


class Gate(Fact):
    """State what must hold before the next stage; ratios are over the nodes of the stage that reported."""

    receipts_ratio_min: Annotated[float, Field(ge=0, le=1)] = 0.95
    failures_ratio_max: Annotated[float, Field(ge=0, le=1)] = 0.05
    soak_seconds: Annotated[int, Field(ge=0, le=30 * 24 * 3600)] = 0
    silent_seconds: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 3600  # A node without a report for this time is silent, not failed.
    halt_on_drift: bool = True
    # Intervals of the release that must have been tested in the stage.
    drift_tests_min: Annotated[int, Field(ge=0, le=2**31)] | None = None
    # Nodes of the stage that must serve the release. Nodes do not need this and what follows: only the hub decides by it.
    nodes_min: Annotated[int | None, Field(ge=1, le=2**31), Since(1)] = None
    # Median of the latency that nodes measured when they activated the release, over that of the release before on the same node.
    latency_ratio_max: Annotated[float | None, Field(gt=0, le=1000), Since(1)] = None
    # Share of the nodes that serve it on which it passed in shadow.
    shadow_ratio_min: Annotated[float | None, Field(ge=0, le=1), Since(1)] = None
    # How often each node that failed tries again by itself, and the pause before each of these attempts.
    retries: Annotated[int | None, Field(ge=1, le=100), Since(1)] = None
    retry_seconds: Annotated[int | None, Field(ge=1, le=30 * 24 * 3600), Since(1)] = None


class Carriage(Fact):
    """Bound how a rollout's bytes may travel."""

    bytes_max: Annotated[int, Field(ge=0, le=2**53)] | None = None  # Total bytes of one node; None for no bound.
    full_download: bool | None = None  # Whether a node without a delta's parent may fetch the whole; None leaves it to the node's policy.
    priority: Annotated[int, Field(ge=0, le=9)] = 5  # Order among a node's transfers; the highest goes first.
    fetch: Annotated[Windows | None, Since(1)] = None  # When blocks may be fetched; nodes of the version before do not know it.


class Fallback(Fact):
    """Name a release that the nodes with these labels have from an earlier rollout, and its parameters."""

    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    release: ReleaseRef
    parameters: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)] | None = None


class Rollout(Document):
    """Describe one model's rollout. `serial` only rises, so a hub restored from a backup cannot replay an old one."""

    schema_name = "rollout"
    schema_minor = 1
    bytes_max = limits.ROLLOUT_BYTES_MAX

    model: ModelName
    serial: Annotated[int, Field(ge=1, le=2**53)]
    release: ReleaseRef
    fallback: ReleaseRef | None = None
    state: Literal["running", "halted", "done", "rolled_back"]
    # Percent, rising.
    stages: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=1, max_length=limits.STAGES_MAX)]
    stage: Annotated[int, Field(ge=0, lt=limits.STAGES_MAX)] = 0
    salt: Annotated[bytes, Field(min_length=16, max_length=16)]
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    gate: Gate = Gate()
    carriage: Carriage | None = None
    # Parameters of the release, set for all.
    parameters: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)] | None = None
    # Parameters of the release that it replaces.
    fallback_parameters: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)] | None = None
    # This replaces `fallback` if nodes have different releases; the first entry whose labels a node has applies.
    fallbacks: Annotated[tuple[Fallback, ...], Field(min_length=1, max_length=limits.FALLBACKS_MAX)] | None = None
    started: Seconds

    @model_validator(mode="after")
    def _has_one_kind_of_fallback(self) -> Self:
        if self.fallbacks is not None and (self.fallback is not None or self.fallback_parameters is not None):
            raise ValueError("fallback and fallbacks exclude each other")
        return self

    @property
    def percent(self) -> int:
        """Return how much of the selected fleet the present stage reaches."""
        return 100 if self.state == "done" else self.stages[min(self.stage, len(self.stages) - 1)]


def has_labels(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a node with `labels` has all that are wanted."""
    return all(labels.get(key) == value for key, value in wanted.items())


def all_fallbacks(rollout: Rollout) -> tuple[Fallback, ...]:
    """Return the releases that nodes keep or go back to, in the order in which they count."""
    if rollout.fallbacks is not None:
        return rollout.fallbacks
    if rollout.fallback is None:
        return ()
    return (Fallback(labels={}, release=rollout.fallback, parameters=rollout.fallback_parameters),)


def bucket(salt: bytes, node: str) -> float:
    """Return a node's position in the order of a rollout, in [0, 100). It is keyed, so that different nodes go first each time."""
    word = int.from_bytes(hashlib.blake2b(node.encode(), key=salt, digest_size=8).digest(), "big")
    return word / 2**64 * 100


def rollout_path(model: str) -> str:
    """Return the path by which TUF lists a model's rollout."""
    return f"rollouts/{model}"

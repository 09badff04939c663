"""Define the signed statement of which nodes run which release of a model, and decide for one node what follows from it.

A deployment says: nodes that this selector matches run this release, on these terms. A rollout is the movement of one deployment from one
release to another. The first deployment that matches a node, by priority and then by name, decides for it; exactly one does.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from schemas import limits
from schemas.document import Document, Fact
from schemas.names import Digest, Id16, Label, ModelName
from schemas.parameters import Value
from schemas.quantities import Seconds
from schemas.rollout import Carriage, Gate, ReleaseRef
from schemas.selectors import NodeFacts, Requirement, Selector, matches, text_of
from schemas.windows import Windows

DEFAULT: Final = "default"  # The deployment that matches everybody and comes last.
PRIORITY_MAX: Final = 1000
WHERE_PRIORITY: Final = 10  # A deployment that a rollout makes for a selector, unless another is given.
NAME_CHARACTERS_MAX: Final = 48
EVERYBODY: Final = 2**64 - 1  # The threshold that addresses every node.

RolloutState = Literal["running", "halted", "done", "rolled_back"]


class Stage(NamedTuple):
    """Describe whom a stage adds: a share of the deployment's nodes, or the nodes that a selector matches. `approve`: somebody must."""

    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    name: Label | None = None
    selector: Selector | None = None
    approve: bool | None = None


class ReleaseParameters(NamedTuple):
    """Hold what is set of one release's parameters."""

    release: Digest
    values: Annotated[dict[Label, Value], Field(max_length=limits.PARAMETERS_MAX)]


class Deployment(Fact):
    """Describe one deployment of a model, and how far its present rollout has come."""

    name: ModelName
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX)] = 0
    selector: Selector = ()
    release: ReleaseRef
    fallback: ReleaseRef | None = None  # The release of the last rollout that was done: a node that serves nothing begins with it.
    state: RolloutState
    rollout: Id16  # Tells one rollout from the next, and keys the order of its nodes.
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=limits.STAGES_MAX)] = (Stage(100),)
    stage: Annotated[int, Field(ge=0, lt=limits.STAGES_MAX)] = 0
    threshold: Annotated[int, Field(ge=0, le=EVERYBODY)] = EVERYBODY  # Nodes whose position is below it are reached.
    gate: Gate | None = None
    carriage: Carriage | None = None
    parameters: Annotated[tuple[ReleaseParameters, ...], Field(max_length=limits.RELEASES_WITH_PARAMETERS_MAX)] | None = None
    attempt: Annotated[int, Field(ge=0, le=1000)] | None = None  # Nodes that failed try again when it rises.
    activate: Windows | None = None  # When a node that serves may switch; a node that serves nothing need not wait.
    deadline: Seconds | None = None  # Nodes that have not begun to serve by then are moved no more.
    started: Seconds

    @model_validator(mode="after")
    def _has_possible_stages(self) -> Self:
        if self.stage >= len(self.stages):
            raise ValueError(f"stage {self.stage} is none of {len(self.stages)}")
        if any((one.percent is None) == (one.selector is None) for one in self.stages):
            raise ValueError("a stage is either a percentage or a selector")
        percents = [one.percent for one in self.stages if one.percent is not None]
        if percents != sorted(set(percents)) or self.stages[-1].percent != 100:
            raise ValueError("stages rise, and end at 100 %")
        if self.name == DEFAULT and self.selector:
            raise ValueError("the default deployment matches everybody")
        return self

    @property
    def reached(self) -> tuple[Stage, ...]:
        """Return the stages that have begun."""
        return self.stages if self.state == "done" else self.stages[: self.stage + 1]

    @property
    def percent(self) -> int:
        """Return the share of its nodes that the present stage reaches by their position."""
        return next((one.percent for one in reversed(self.reached) if one.percent is not None), 0)

    def parameters_of(self, release: bytes) -> dict[str, Value]:
        """Return what is set of a release's parameters."""
        return next((dict(one.values) for one in self.parameters or () if one.release == release), {})


class Deployments(Document):
    """List a model's deployments in the order in which they decide. `serial` only rises, so an old statement cannot be replayed."""

    schema_name = "deployments"
    schema_minor = 1
    bytes_max = limits.DEPLOYMENTS_BYTES_MAX
    decoded_bytes_max = limits.DEPLOYMENTS_DECODED_BYTES_MAX

    model: ModelName
    serial: Annotated[int, Field(ge=1, le=2**53)]
    expires: Seconds
    deployments: Annotated[tuple[Deployment, ...], Field(max_length=limits.DEPLOYMENTS_MAX)]

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if list(self.deployments) != in_order(self.deployments):
            raise ValueError("deployments are not in the order in which they decide")
        if len({one.name for one in self.deployments}) != len(self.deployments):
            raise ValueError("two deployments have one name")
        return self


class Envelope(Document):
    """Carry a document with a signature over it and over what it is for."""

    schema_name = "envelope"
    bytes_max = limits.ENVELOPE_BYTES_MAX

    key: Digest  # The key's id, as TUF has it.
    signature: Annotated[bytes, Field(min_length=1, max_length=limits.SIGNATURE_BYTES_MAX)]
    payload: Annotated[bytes, Field(min_length=1, max_length=limits.DEPLOYMENTS_BYTES_MAX)]


def signed_bytes(purpose: Literal["deployments", "settings", "presence"], payload: bytes) -> bytes:
    """Return what is signed: a signature for one purpose is none for another."""
    return b"fleetcast " + purpose.encode() + b" v1\x00" + payload


def in_order(deployments: Iterable[Deployment]) -> list[Deployment]:
    """Return deployments in the order in which they decide: by priority, the higher first, then by name; the default one last."""
    return sorted(deployments, key=lambda one: (one.name == DEFAULT, -one.priority, one.name))


def deciding(deployments: Sequence[Deployment], node: NodeFacts) -> Deployment | None:
    """Return the deployment that decides for a node: the first that matches it; None when none does."""
    return next((one for one in deployments if matches(one.selector, node)), None)


def position(rollout: bytes, node: str) -> int:
    """Return a node's place in the order of a rollout, below 2^64. It is keyed, so that different nodes go first each time."""
    return int.from_bytes(hashlib.blake2b(node.encode(), key=rollout, digest_size=8).digest(), "big")


def threshold_of(rollout: bytes, percent: int, nodes: Iterable[str]) -> int:
    """Return the threshold below which exactly `ceil(percent / 100 x nodes)` of the known nodes are.

    Nodes that come later fall where their position puts them.
    """
    if percent >= 100:
        return EVERYBODY
    places = sorted(position(rollout, node) for node in nodes)
    count = ceil(percent * len(places) / 100)
    if count == 0:
        return (2**64 * percent) // 100
    return min(places[count - 1] + 1, EVERYBODY)


def is_reached(deployment: Deployment, node: NodeFacts) -> bool:
    """Return whether a stage that has begun names this node; the deployment is the one that decides for it."""
    if deployment.state == "done" or deployment.threshold == EVERYBODY or position(deployment.rollout, node.node) < deployment.threshold:
        return True
    return any(one.selector is not None and matches(one.selector, node) for one in deployment.reached)


class Moved(Fact):
    """Record what a node served before a rollout moved it; it is durable before the move begins."""

    rollout: Id16
    before: ReleaseRef | None = None
    deployment: ModelName | None = None  # The deployment whose rollout it was.


@dataclass(frozen=True, slots=True)
class Run:
    """Wish that the node runs this release; `rollout` tells one wish for it from the next."""

    release: ReleaseRef
    rollout: bytes
    why: Literal["stage", "fallback", "back"]


@dataclass(frozen=True, slots=True)
class Keep:
    """Wish that the node keeps what it serves, and gives up what it has begun."""

    why: Literal["unmatched", "halted", "not_reached", "expired"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Wish that the node serves nothing of the model: its first release of all was taken back."""


Wish = Run | Keep | Stop


def wish(deployment: Deployment | None, node: NodeFacts, *, serving: bytes | None, moved: Moved | None, now: int) -> Wish:
    """Return what the deciding deployment wants of a node. `serving` is the digest of the release that it serves, if any.

    No node moves without a stage that names it. Going back is to the node's own release before this rollout; a node that remembers none
    takes the deployment's fallback.
    """
    if deployment is None:
        return Keep("unmatched")
    if deployment.state == "rolled_back":
        return _back(deployment, serving=serving, moved=moved)
    if deployment.state == "halted" or not is_reached(deployment, node):
        return _from_nothing(deployment, "halted" if deployment.state == "halted" else "not_reached", serving)
    if is_past_deadline(deployment, now) and serving != deployment.release.digest:
        if deployment.state == "running":
            return _from_nothing(deployment, "expired", serving)
        if serving is not None:  # A node that serves nothing takes what the rollout has ended with.
            return Keep("expired")
    return Run(deployment.release, attempt_id(deployment), "stage")


def is_past_deadline(deployment: Deployment, now: int) -> bool:
    """Return whether the rollout moves no more nodes that serve another release: its deadline has passed."""
    return deployment.deadline is not None and now >= deployment.deadline


def attempt_id(deployment: Deployment) -> bytes:
    """Return what tells one attempt of a rollout from the next: a node that failed does not try the same one again."""
    if not deployment.attempt:
        return deployment.rollout
    return hashlib.blake2b(deployment.attempt.to_bytes(8, "big"), key=deployment.rollout, digest_size=16).digest()


def back_id(rollout: bytes) -> bytes:
    """Return what tells going back from a rollout from the rollout itself."""
    return hashlib.blake2b(b"back", key=rollout, digest_size=16).digest()


def rollout_of(deployments: Iterable[Deployment], attempt: bytes) -> bytes:
    """Return the id of the rollout that an attempt, or going back, belongs to: the first attempt's own, where none of these is known."""
    for one in deployments:
        attempts = (attempt_id(one.model_copy(update={"attempt": number})) for number in range(1, (one.attempt or 0) + 1))
        if attempt in (back_id(one.rollout), *attempts):
            return one.rollout
    return attempt


def _from_nothing(deployment: Deployment, why: Literal["halted", "not_reached", "expired"], serving: bytes | None) -> Wish:
    if serving is not None or deployment.fallback is None:
        return Keep(why)
    return Run(deployment.fallback, back_id(deployment.rollout), "fallback")


def _back(deployment: Deployment, *, serving: bytes | None, moved: Moved | None) -> Wish:
    is_moved = moved is not None and moved.rollout == deployment.rollout
    is_from_elsewhere = moved is not None and moved.deployment not in {None, deployment.name}
    if is_from_elsewhere and not is_moved and deployment.fallback is not None:  # It belongs to where it now is.
        return Run(deployment.fallback, back_id(deployment.rollout), "fallback")
    if not is_moved and serving != deployment.release.digest:
        return _from_nothing(deployment, "not_reached", serving)
    before = moved.before if is_moved and moved is not None else None
    target = before or deployment.fallback
    return Run(target, back_id(deployment.rollout), "back") if target is not None else Stop()


def moved_by(deployment: Deployment, found: Wish, *, serving: ReleaseRef | None, moved: Moved | None) -> Moved | None:
    """Return what a node has to remember, durably, before it follows this wish; None when what it remembers still holds."""
    if not isinstance(found, Run) or found.why != "stage":
        return None
    if moved is not None and moved.rollout == deployment.rollout:
        return None
    before = serving if serving is not None and serving != found.release else None
    return Moved(rollout=deployment.rollout, before=before, deployment=deployment.name)


def name_of(selector: tuple[Requirement, ...]) -> str:
    """Return the name of a deployment that is made for a selector and given none: `site=jfk` becomes `site-jfk`."""
    if not selector:
        return DEFAULT
    text = text_of(selector)
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    is_faithful = (
        len(name) <= NAME_CHARACTERS_MAX and name != DEFAULT and text == text.lower() and all(one.operator == "in" for one in selector)
    )
    if is_faithful:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]  # Two selectors must not get one name.
    return f"{name[:NAME_CHARACTERS_MAX].strip('-')}-{digest}".strip("-")

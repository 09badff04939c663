"""Decide in which class a node stands for the deployment that decides for it: one function for gate, commands and console.

Every node stands in exactly one class, so that the classes add up to the nodes that the deployment decides for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from hub.core.rollouts.fleet import Node
from schemas.deployments import Deployment, is_reached
from schemas.errors import Code
from schemas.selectors import NodeFacts
from schemas.state import Slot

ClassName = Literal["serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired"]
CLASSES: Final[tuple[ClassName, ...]] = ("serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired")
BY_NEED: Final[tuple[ClassName, ...]] = ("refused", "rolled_back", "unreachable", "expired", "moving", "waiting", "serving")
_STEPS: Final = {"fetching": "fetching", "staged": "testing", "testing": "testing", "shadow": "compared beside what it serves"}


@dataclass(frozen=True, slots=True)
class NodeClass:
    """Hold the class of one node, the code where there is one, and the sentence that says why."""

    name: ClassName
    sentence: str
    code: str = ""


def facts_of(node: Node) -> NodeFacts:
    """Return what selectors ask of a node that has reported."""
    return NodeFacts(node.name, node.labels, node.state.profile.arch if node.state.profile is not None else "")


def class_of(
    deployment: Deployment, node: Node, *, model: str, heard: bool, silent_seconds: float, failed_from: int, now: int
) -> NodeClass:
    """Return the class of a node that this deployment decides for.

    `heard`: whether it counts as heard from, else it has been silent for `silent_seconds`. A failure from before `failed_from` does not
    count: an operator has seen it, or another attempt has begun.
    """
    version, digest = deployment.release
    serving = node.serving.get(model)
    serves = serving is not None and serving.digest == digest
    failure = node.failures.get((model, digest))
    if deployment.state != "rolled_back" and failure is not None and not serves and failure.received_at >= failed_from:
        what = "refused it" if failure.outcome == "refused" else "went back from it"
        return NodeClass(failure.outcome, f"{what}: {failure.code}", failure.code)
    if not heard:
        return NodeClass("unreachable", f"was not heard for {_duration(silent_seconds)}")
    if deployment.state == "rolled_back":
        return NodeClass("moving", "goes back") if serves else NodeClass("serving", f"serves {_version(node, model)}")
    return NodeClass("serving", f"serves {version}") if serves else _to_move(deployment, node, model=model, now=now)


def _to_move(deployment: Deployment, node: Node, *, model: str, now: int) -> NodeClass:
    if deployment.state == "halted":
        return NodeClass("waiting", "waits: the rollout is halted")
    if not is_reached(deployment, facts_of(node)):
        return NodeClass("waiting", "waits for a later stage")
    if deployment.deadline is not None and now >= deployment.deadline:
        return NodeClass("expired", f"the deadline has passed; it stays on {_version(node, model)}")
    slot = next((one for one in node.state.slots if one.model == model), None)
    return _under_way(slot, deployment.release.digest)


def _under_way(slot: Slot | None, digest: bytes) -> NodeClass:
    if slot is None or slot.target != digest or slot.state not in {*_STEPS, "out_of_budget"}:
        return NodeClass("moving", "was reached, and has not begun yet")
    if slot.code == Code.WINDOW_CLOSED:
        return NodeClass("waiting", "waits for its time of the week", slot.code)
    if slot.state == "out_of_budget":
        return NodeClass("waiting", f"waits for its budget: {slot.code}", slot.code)
    if slot.code:
        return NodeClass("moving", f"is fetching, and is held up: {slot.code}", slot.code)
    if slot.state == "fetching" and slot.bytes_planned:
        return NodeClass("moving", f"is fetching, {min(100, 100 * slot.bytes_received // slot.bytes_planned)} %")
    return NodeClass("moving", f"is {_STEPS[slot.state]}")


def totals(classes: Iterable[NodeClass]) -> dict[ClassName, int]:
    """Return how many nodes stand in each class; they add up to all of them."""
    found = Counter(one.name for one in classes)
    return {name: found[name] for name in CLASSES}


def _version(node: Node, model: str) -> str:
    serving = node.serving.get(model)
    return serving.version if serving is not None else "nothing"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days"

"""Counts the nodes of a deployment: which class each is in, by what it has reported. The one place where that is decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from schemas.deployments import Deployment, deciding, is_reached
from schemas.selectors import NodeFacts

Node = TypeVar("Node", bound=NodeFacts)
# `waiting`: no stage has reached it. Of those that one has: it serves the release, did not take it, has yet to, or is not heard.
NodeClass = Literal["waiting", "serving", "failed", "moving", "unreachable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport(NodeFacts):
    """Describe what is known of a node for one model and one release, by its receipts.

    `failed_at` is when its last failure was received.
    """

    heard: bool
    serving: bool
    failed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Count the nodes that a rollout has reached: addressed = heard + silent; serving and failed are of those heard."""

    addressed: int = 0
    heard: int = 0
    serving: int = 0
    failed: int = 0
    silent: int = 0


def decided(deployments: Sequence[Deployment], nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Return for each deployment, by name, the nodes for which it decides."""
    found: dict[str, list[Node]] = {one.name: [] for one in deployments}
    for node in nodes:
        decides = deciding(deployments, node)
        if decides is not None:
            found[decides.name].append(node)
    return found


def class_of(deployment: Deployment, node: NodeReport, *, judged_from: int) -> NodeClass:
    """Return the class of a node for the deployment that decides for it; failures from before `judged_from` do not count.

    After going back, `serving` means that the node has yet to leave the release, and such a node counts wherever it is.
    """
    if not is_reached(deployment, node) and not (deployment.state == "rolled_back" and node.serving):
        return "waiting"
    if not node.heard:
        return "unreachable"
    if node.serving:
        return "serving"
    return "failed" if node.failed_at is not None and node.failed_at >= judged_from else "moving"


def tally(deployment: Deployment, nodes: Iterable[NodeReport], *, judged_from: int) -> Tally:
    """Count the nodes for which a deployment decides, by class."""
    counts: dict[NodeClass, int] = {"waiting": 0, "serving": 0, "failed": 0, "moving": 0, "unreachable": 0}
    for node in nodes:
        counts[class_of(deployment, node, judged_from=judged_from)] += 1
    heard = counts["serving"] + counts["failed"] + counts["moving"]
    silent = counts["unreachable"]
    return Tally(addressed=heard + silent, heard=heard, serving=counts["serving"], failed=counts["failed"], silent=silent)

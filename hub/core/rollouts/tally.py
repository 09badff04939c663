"""Counts the nodes of a deployment: in which class each is, by what it has reported. The one place where that is decided.

Every node is in exactly one class, so that the classes add up to the nodes for which the deployment decides.
hub/core/rollouts/node_class.py says why, in a sentence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, TypeVar

from schemas.deployments import Deployment, deciding, is_past_deadline, is_reached
from schemas.selectors import NodeFacts

Node = TypeVar("Node", bound=NodeFacts)
Outcome = Literal["refused", "rolled_back"]
ClassName = Literal["serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired"]
CLASSES: Final[tuple[ClassName, ...]] = ("serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired")
BY_NEED: Final[tuple[ClassName, ...]] = ("refused", "rolled_back", "unreachable", "expired", "moving", "waiting", "serving")
SHADOW_PASSED: Final = "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport(NodeFacts):
    """Describe what is known of a node for one model and one release, by its receipts.

    `failed_at` is when its last failure was received. `quiet`: it says nothing for longer than its reports are apart, although it is not
    silent yet. `latency_ratio` compares with the release that the same node served before.
    """

    heard: bool
    serving: bool
    failed_at: int | None = None
    outcome: Outcome = "refused"  # What the failure was, where there was one.
    quiet: bool = False
    latency_ratio: float | None = None
    shadow: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Count the nodes that a rollout has reached: addressed = heard + silent; serving and failed are of those heard.

    `quiet` are those of `serving` that do not say so any more at present. `expired` nodes are not addressed any more.
    """

    addressed: int = 0
    heard: int = 0
    serving: int = 0
    failed: int = 0
    silent: int = 0
    quiet: int = 0
    expired: int = 0
    latency_ratio: float | None = None  # Median over those that serve it and measured a release before it.
    latency_nodes: int = 0
    shadow_passed: int = 0
    shadow_nodes: int = 0


def decided(deployments: Sequence[Deployment], nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Return for each deployment, by name, the nodes for which it decides."""
    found: dict[str, list[Node]] = {one.name: [] for one in deployments}
    for node in nodes:
        decides = deciding(deployments, node)
        if decides is not None:
            found[decides.name].append(node)
    return found


def class_name(
    deployment: Deployment, *, reached: bool, heard: bool, serves: bool, failure: Outcome | None, waits: bool = False, now: int
) -> ClassName:
    """Return the class of a node for the deployment that decides for it.

    `reached`: by a stage. `failure`: what counts of the node's last one. `waits`: it says that it waits for its budget or for its time.
    """
    if deployment.state != "rolled_back" and failure is not None and not serves:
        return failure
    if not heard:
        return "unreachable"
    if deployment.state == "rolled_back":
        return "moving" if serves else "serving"
    if serves:
        return "serving"
    if is_past_deadline(deployment, now):
        return "expired"
    return "waiting" if deployment.state == "halted" or not reached or waits else "moving"


def tally(deployment: Deployment, nodes: Iterable[NodeReport], *, judged_from: int, now: int) -> Tally:
    """Count the nodes for which a deployment decides; failures from before `judged_from` do not count.

    After going back, `serving` counts the nodes that have yet to leave the release, wherever they are.
    """
    heard = serving = failed = silent = quiet = expired = 0
    ratios, shadows = list[float](), list[str]()
    for node in nodes:
        reached = is_reached(deployment, node)
        counts = node.failed_at is not None and node.failed_at >= judged_from
        name = class_name(
            deployment, reached=reached, heard=node.heard, serves=node.serving, failure=node.outcome if counts else None, now=now
        )
        if name == "expired":
            expired += 1
        elif reached or (deployment.state == "rolled_back" and node.serving):
            silent += not node.heard
            if not node.heard:
                continue
            heard += 1
            failed += name in {"refused", "rolled_back"}
            if node.serving:
                serving += 1
                quiet += node.quiet
                ratios += [node.latency_ratio] if node.latency_ratio is not None else []
                shadows += [node.shadow] if node.shadow is not None else []
    return Tally(
        addressed=heard + silent,
        heard=heard,
        serving=serving,
        failed=failed,
        silent=silent,
        quiet=quiet,
        expired=expired,
        latency_ratio=median(ratios) if ratios else None,
        latency_nodes=len(ratios),
        shadow_passed=shadows.count(SHADOW_PASSED),
        shadow_nodes=len(shadows),
    )

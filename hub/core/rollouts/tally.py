"""Counts the nodes of a deployment: in which class each is, by what it has reported. The one place where that is decided.

Every node is in exactly one class, so that the classes add up to the nodes for which the deployment decides.
hub/core/rollouts/node_class.py says why, in a sentence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, TypeVar

from hub.core.rollouts.moves import is_where_it_was
from schemas.deployments import Deployment, deciding, is_past_deadline, is_reached
from schemas.errors import Code
from schemas.selectors import NodeFacts

Node = TypeVar("Node", bound=NodeFacts)
Outcome = Literal["refused", "rolled_back"]
ClassName = Literal["serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired"]
CLASSES: Final[tuple[ClassName, ...]] = ("serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired")
BY_NEED: Final[tuple[ClassName, ...]] = ("refused", "rolled_back", "unreachable", "expired", "moving", "waiting", "serving")
SHADOW_PASSED: Final = "passed"
# Codes of failures that no gate counts: the device's own disk or clock is at fault, and the node tries again by itself. What had truly
# expired would be served by nobody, and so no gate would pass.
DEVICES_OWN: Final = frozenset({Code.DISK_DAMAGED, Code.DISK_FULL, Code.DISK_QUOTA, Code.STORE_DAMAGED, Code.TRUST_EXPIRED})
# Codes that a device may be to blame for as well as the release: a gate counts them, and says so.
DEVICES_PERHAPS: Final = frozenset({Code.RUNTIME_ABSENT, Code.MODEL_TOO_LARGE, Code.WORKER_CRASHED, Code.PROBATION_CUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport(NodeFacts):
    """Describe what is known of a node for one model and one release, by its receipts.

    `failed_at` is when its last failure was received, and `tried` how often it has tried and failed. `quiet`: it says nothing for longer
    than its reports are apart, although it is not silent yet. `latency_ratio` compares with the release that the same node served before.
    """

    heard: bool
    serving: bool
    failed_at: int | None = None
    outcome: Outcome = "refused"  # What the failure was, where there was one.
    code: str = ""
    tried: int = 1
    serves_nothing: bool = False
    quiet: bool = False
    latency_ratio: float | None = None
    shadow: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Count the nodes that a rollout has reached: addressed = heard + silent; serving and failed are of those heard.

    `quiet` are those of `serving` that do not say so any more at present. `expired` nodes are not addressed any more. `trying` are those of
    `failed` that may try again by themselves, the one with most tries left `tries_left` times.
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
    trying: int = 0
    tries_left: int = 0
    perhaps_devices: tuple[str, ...] = ()  # Codes of those of `failed` whose device may be to blame.


def decided(deployments: Sequence[Deployment], nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Return for each deployment, by name, the nodes for which it decides."""
    found: dict[str, list[Node]] = {one.name: [] for one in deployments}
    for node in nodes:
        decides = deciding(deployments, node)
        if decides is not None:
            found[decides.name].append(node)
    return found


def retries_of(deployment: Deployment) -> int:
    """Return how often each node that fails tries again by itself."""
    return (deployment.gate.retries if deployment.gate is not None else None) or 0


def class_name(
    deployment: Deployment,
    *,
    reached: bool,
    heard: bool,
    serves: bool,
    failure: Outcome | None,
    serves_nothing: bool = False,
    waits: bool = False,
    now: int,
) -> ClassName:
    """Return the class of a node for the deployment that decides for it.

    `reached`: by a stage. `failure`: what counts of the node's last one. `waits`: it says that it waits for its budget or for its time.
    """
    if failure is not None and not serves:
        return failure
    if not heard:
        return "unreachable"
    if deployment.state == "rolled_back":
        return _after_going_back(deployment, serves=serves, serves_nothing=serves_nothing)
    if serves:
        return "serving"
    if is_past_deadline(deployment, now):
        return "expired"
    return "waiting" if deployment.state == "halted" or not reached or waits else "moving"


def _after_going_back(deployment: Deployment, *, serves: bool, serves_nothing: bool) -> ClassName:
    """Return the class after going back: a node that serves nothing takes the fallback; without one, only another rollout helps it.

    A node that serves the rollout's release has yet to leave it, but for one whose deployment was to have this release before, too.
    """
    if serves_nothing and deployment.fallback is None:
        return "waiting"
    leaves = serves and not is_where_it_was(deployment)
    return "moving" if leaves or serves_nothing else "serving"


def tally(deployment: Deployment, nodes: Iterable[NodeReport], *, judged_from: int, now: int) -> Tally:
    """Count the nodes for which a deployment decides; failures from before `judged_from` do not count, but for nodes without tries left.

    After going back, `serving` counts the nodes that have yet to leave the release, wherever they are.
    """
    heard = serving = failed = silent = quiet = expired = trying = most_left = 0
    retries = retries_of(deployment)
    ratios, shadows, perhaps = list[float](), list[str](), list[str]()
    for node in nodes:
        reached = is_reached(deployment, node)
        counts = node.failed_at is not None and (node.failed_at >= judged_from or 0 < retries < node.tried)
        name = class_name(
            deployment,
            reached=reached,
            heard=node.heard,
            serves=node.serving,
            serves_nothing=node.serves_nothing,
            failure=node.outcome if counts else None,
            now=now,
        )
        if name == "expired":
            expired += 1
        elif reached or (deployment.state == "rolled_back" and node.serving):
            silent += not node.heard
            if not node.heard:
                continue
            heard += 1
            if name in {"refused", "rolled_back"}:
                failed += 1
                perhaps += [node.code] if node.code in DEVICES_PERHAPS else []
                left = max(0, retries + 1 - node.tried)
                trying, most_left = trying + (left > 0), max(most_left, left)
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
        trying=trying,
        tries_left=most_left,
        perhaps_devices=tuple(sorted(perhaps)),
    )

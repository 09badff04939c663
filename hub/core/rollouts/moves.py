"""Find the nodes that a change of deployments or labels moves to another release: from which one, to which one, and how many."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.deployments import Deployment, deciding, is_reached
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts


@dataclass(frozen=True, slots=True)
class Movement:
    """Count the nodes that go from one release to another."""

    before: ReleaseRef
    after: ReleaseRef
    nodes: int


def movements(
    before: Sequence[Deployment],
    after: Sequence[Deployment],
    nodes: Iterable[tuple[NodeFacts, NodeFacts]],
    *,
    serving: Mapping[str, ReleaseRef],
) -> tuple[Movement, ...]:
    """Return the movements that follow from the change, those of most nodes first.

    `nodes` are what selectors ask of each node before and after. `serving` names what nodes are known to serve; of the others counts what
    the deployment that decides for them has them serve. A node for which nothing changes is not counted, wherever it is on its way to.
    """
    found = Counter[tuple[ReleaseRef, ReleaseRef]]()
    for then, now in nodes:
        decided, decides = deciding(before, then), deciding(after, now)
        target = runs(decides)
        if decides is None or target is None or (decided is not None and _is_same(decided, decides)):
            continue
        has = serving.get(then.node) or _has(decided, then)
        if has is not None and has.digest != target.digest:
            found[has, target] += 1
    return tuple(Movement(*pair, count) for pair, count in sorted(found.items(), key=lambda one: (-one[1], one[0])))


def unmoved(nodes: Iterable[NodeFacts]) -> list[tuple[NodeFacts, NodeFacts]]:
    """Return nodes whose labels do not change, as `movements` takes them."""
    return [(node, node) for node in nodes]


def _is_same(decided: Deployment, decides: Deployment) -> bool:
    """Return whether a node is where it was, with what it was to have."""
    return decided.name == decides.name and runs(decided) == runs(decides)


def runs(deployment: Deployment | None) -> ReleaseRef | None:
    """Return what a deployment's nodes have at the end: of a rollout that is under way, its release, whatever its stage."""
    if deployment is None:
        return None
    return deployment.fallback if deployment.state == "rolled_back" else deployment.release


def is_where_it_was(deployment: Deployment) -> bool:
    """Return whether a deployment's nodes have the same release without its rollout: its fallback is what the rollout is of."""
    return deployment.fallback is not None and deployment.fallback.digest == deployment.release.digest


def _has(deployment: Deployment | None, node: NodeFacts) -> ReleaseRef | None:
    if deployment is None:
        return None
    if deployment.state == "rolled_back" or not is_reached(deployment, node):
        return deployment.fallback
    return deployment.release

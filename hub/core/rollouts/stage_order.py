"""Tell by which stage of a rollout each node is reached, also by those that have not begun."""

from collections.abc import Mapping, Sequence

from schemas.deployments import EVERYBODY, Deployment, position, threshold_of
from schemas.selectors import NodeFacts, matches


def stages_of(deployment: Deployment, nodes: Sequence[NodeFacts]) -> Mapping[str, int]:
    """Return the number of the stage that reaches each node first, from 0 on; `nodes` are those for which the deployment decides."""
    names = [node.node for node in nodes]
    places = {name: position(deployment.rollout, name) for name in names}
    bounds = [_bound(deployment, at, names) for at in range(len(deployment.stages))]
    found = dict[str, int]()
    for node in nodes:
        for at, stage in enumerate(deployment.stages):
            by_place = bounds[at] == EVERYBODY or places[node.node] < bounds[at]
            if by_place or (stage.selector is not None and matches(stage.selector, node)):
                found[node.node] = at
                break
        else:
            found[node.node] = len(deployment.stages) - 1
    return found


def _bound(deployment: Deployment, at: int, names: Sequence[str]) -> int:
    """Return the place below which a stage reaches; 0 where it reaches nodes by a selector alone."""
    percent = deployment.stages[at].percent
    if percent is None:
        return 0
    if at == deployment.stage and deployment.state != "done":
        return deployment.threshold  # As it was signed: nodes that have come since fall where their place puts them.
    return threshold_of(deployment.rollout, percent, names)

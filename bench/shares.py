"""By how many nodes a stage misses its share: the threshold that the hub signs, beside a share by hash alone, as before deployments."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from bench.figures import Figure
from hub.core.rollouts.commands import Start, read_as
from hub.core.rollouts.deployments import Model, begun
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Facts, Progress, step
from hub.core.rollouts.tally import NodeReport
from schemas.deployments import is_reached
from schemas.rollout import ReleaseRef, bucket

NODES = (*range(3, 41), 50, 100, 250, 500, 1000)
STAGES = (1, 5, 10, 25, 33, 50, 75, 99, 100)
RELEASE = ReleaseRef("1.0.0", bytes(32))


def measure() -> list[Figure]:
    """Whole rollouts of many fleets, stage by stage, each with an order of its own."""
    rng = random.Random(0)
    error = by_hash = 0
    for count in NODES:
        nodes = [NodeReport(f"node-{number}", {}, heard=True, serving=False) for number in range(count)]
        wish = read_as(Start, f'{{"version": "1.0.0", "stages": {list(STAGES)}}}')
        progress = begun(Model("m"), wish, RELEASE, nodes=nodes, rollout=rng.randbytes(16), now=0)
        for percent in STAGES:
            share = ceil(percent * count / 100)
            error = max(error, abs(share - sum(is_reached(progress.deployment, node) for node in nodes)))
            by_hash = max(by_hash, abs(share - sum(bucket(progress.deployment.rollout, node.node) < percent for node in nodes)))
            progress = _passed(progress, nodes)
    goal, unit = "0", f"nodes at most, {NODES[0]} to {NODES[-1]:,} nodes, {len(STAGES)} stages"
    return [Figure("rollout.share_error_nodes", error, unit, goal, "share by hash alone", by_hash)]


def _passed(progress: Progress, nodes: Sequence[NodeReport]) -> Progress:
    """The stage's nodes serve the release, and its gate holds."""
    served = [replace(node, serving=is_reached(progress.deployment, node)) for node in nodes]
    return step(progress, Facts(served), now=0, listened=Listened(0.0))[0]

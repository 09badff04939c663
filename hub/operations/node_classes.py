"""Read from the fleet's database in which class each node is, for every deployment that decides for it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub.core.enrol.enrolment import Roll
from hub.core.rollouts import fleet
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.fleet import Node
from hub.core.rollouts.node_class import BY_NEED, NodeClass, class_of
from hub.core.rollouts.node_filter import chosen, nobody
from hub.core.rollouts.rollout import Progress
from hub.database.enrolments import Enrolments
from hub.database.hearing import Hearing
from hub.database.known_nodes import known_nodes
from hub.database.rows import RolloutRow
from hub.database.store import Store
from hub.operations.deployed import model_of
from hub.operations.moments import iso
from hub.operations.opened_fleet import OpenedFleet
from schemas.deployments import deciding
from schemas.rollout import Gate


@dataclass(frozen=True, slots=True)
class NodeLine:
    """Describe one node in the deployment that decides for it."""

    model: str
    deployment: str
    node: Node
    found: NodeClass
    serves: str | None
    since: int | None  # Since when it serves that, or when its failure came.

    def as_row(self) -> dict[str, Any]:
        """Return the line for a table or for a script."""
        return {
            "model": self.model,
            "deployment": self.deployment,
            "node": self.node.name,
            "class": self.found.name,
            "code": self.found.code,
            "sentence": self.found.sentence,
            "serves": self.serves,
            "since": iso(self.since),
            "heard": iso(self.node.last_seen),
        }


class Fleet:
    """Read what is known of all nodes at one moment."""

    def __init__(self, store: Store, *, required: bool) -> None:
        roll = Roll(required=required)
        for standing in Enrolments(store.database).changed_since(0)[1]:
            roll.take(standing)
        self._listened, self._now = Hearing(store.database).listened(), int(time.time())
        self.nodes: Mapping[str, Node] = known_nodes(store, roll, listened=self._listened, now=self._now).nodes

    def lines(self, model: Model, kept: Mapping[str, RolloutRow]) -> list[NodeLine]:
        """Return a line for each node that a deployment of the model decides for, those first that need somebody most.

        `kept`: the working state of its rollouts, by deployment, which says from when on failures count.
        """
        found = []
        for node in self.nodes.values():
            decides = deciding(model.deployments, node.facts)
            if decides is not None:
                progress = model.get(decides.name)
                if progress is not None:
                    found.append(self._line(model.name, progress, node, kept.get(decides.name)))
        return sorted(found, key=lambda line: (BY_NEED.index(line.found.name), line.node.name))

    def _line(self, model: str, progress: Progress, node: Node, kept: RolloutRow | None) -> NodeLine:
        deployment, gate = progress.deployment, progress.deployment.gate or Gate()
        failed_from = kept.judged_from if kept is not None else deployment.started
        found = class_of(
            deployment,
            node,
            model=model,
            heard=fleet.heard(node, listened=self._listened, silent_seconds=gate.silent_seconds),
            silent_seconds=max(0.0, self._listened - node.heard_at),
            failed_from=failed_from,
            tries_from=kept.tries_from if kept is not None else None,
            now=self._now,
        )
        serving, failure = node.serving.get(model), node.failures.get((model, deployment.release.digest))
        since = failure.received_at if found.code and failure is not None else serving.since if serving is not None else None
        return NodeLine(model, deployment.name, node, found, serving.version if serving is not None else None, since)


def all_lines(fleet: OpenedFleet, seen: Fleet) -> list[NodeLine]:
    """Return a line for each node in each deployment that decides for it, of all models."""
    rows, found = fleet.store.rollout_rows(), list[NodeLine]()
    for name in fleet.repository.models():
        found += seen.lines(model_of(fleet.repository, name), {row.deployment: row for row in rows if row.model == name})
    return found


def matching(fleet: OpenedFleet, where: str) -> tuple[set[str], str]:
    """Return the names of the nodes that a selector matches, and the sentence for when there are none.

    Raises:
        Refused: SELECTOR_INVALID.
    """
    seen = Fleet(fleet.store, required=fleet.needs_enrolment)
    classes = {name: line.found.name for name, line in worst(all_lines(fleet, seen)).items()}
    nodes = list(seen.nodes.values())
    found = chosen(nodes, where, facts=lambda node: node.facts, state=lambda node: classes.get(node.name, ""))
    return {node.name for node in found}, nobody(where, [node.facts for node in nodes])


def worst(lines: Sequence[NodeLine]) -> dict[str, NodeLine]:
    """Return for each node the line of the model that needs somebody most: a node with several models counts once."""
    found: dict[str, NodeLine] = {}
    for line in lines:
        known = found.get(line.node.name)
        if known is None or BY_NEED.index(line.found.name) < BY_NEED.index(known.found.name):
            found[line.node.name] = line
    return found

"""Show nodes as the API and Python programs have them: their own reports, with the class that each is in and why."""

from collections.abc import Sequence
from typing import Any

from hub.database.device_lives import DeviceLives
from hub.database.rows import NodeMarks, NodeRow, by_model
from hub.operations.node_classes import NodeLine
from hub.operations.node_findings import findings_by_node
from hub.operations.node_rows import node_row
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.snapshot import Snapshot
from schemas import codec
from schemas.errors import Code, Refused
from schemas.state import State


def line_shown(line: NodeLine) -> dict[str, Any]:
    """Return how far a node has come in a deployment; its class is called `state`, as in selectors."""
    return {("state" if name == "class" else name): value for name, value in line.as_row().items()}


def nodes_shown(fleet: OpenedFleet, seen: Snapshot, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the nodes of these names in their order; those that are gone meanwhile are left out."""
    rows: dict[str, NodeRow] = {row.node: row for row in fleet.store.nodes_named(list(names))}
    states = {name: codec.decode(State, row.state) for name, row in rows.items()}
    marks, serving = DeviceLives(fleet.store.database).marks(), by_model(fleet.store.serving(list(rows)))
    findings = findings_by_node(fleet.directory, states, lambda: fleet.store)
    found = []
    for name in names:
        if name not in rows:
            continue
        line = seen.worst.get(name)
        one = node_row(rows[name], states[name], serving, findings[name], marks.get(name, NodeMarks()))
        why = {"state": line.found.name, "code": line.found.code, "sentence": line.found.sentence} if line is not None else {}
        mine = [line_shown(each) for each in seen.by_node.get(name, ())]
        found.append({"state": None, "code": "", "sentence": "no deployment decides for it", **one, **why, "deployments": mine})
    return found


def node_shown(fleet: OpenedFleet, seen: Snapshot, name: str) -> dict[str, Any]:
    """Return one node.

    Raises:
        Refused: NODE_FORGOTTEN, or NODE_UNKNOWN: it has never reported.
    """
    found = nodes_shown(fleet, seen, [name])
    if found:
        return found[0]
    if DeviceLives(fleet.store.database).marks().get(name, NodeMarks()).is_forgotten:
        raise Refused(Code.NODE_FORGOTTEN, f"node {name!r} was forgotten")
    raise Refused(Code.NODE_UNKNOWN, f"node {name!r} has never reported")

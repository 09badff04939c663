"""Show rollouts and deployments: how far each has come, what its gates say, and in which class its nodes are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hub.core.rollouts import deployments, gates
from hub.core.rollouts import rollout as core
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.moves import runs
from hub.core.rollouts.node_class import totals
from hub.core.rollouts.refusals import findings_of, of_clock, standing_against
from hub.core.rollouts.stages import words_of
from hub.core.rollouts.tally import decided
from hub.database.rows import RolloutRow
from hub.operations.deployed import facts_of, model_of
from hub.operations.moments import iso
from hub.operations.node_classes import Fleet, NodeLine
from hub.operations.opened_fleet import OpenedFleet
from schemas.deployments import Deployment
from schemas.selectors import NodeFacts, matches, text_of
from schemas.state import Finding, State
from schemas.windows import windows_text


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Hold the rollouts of one model or of all, with a line for each node that they decide for, as one moment has them."""

    models: Sequence[Model]
    kept: Mapping[tuple[str, str], RolloutRow]
    lines: Sequence[NodeLine]
    states: Sequence[State]

    @classmethod
    def read(cls, fleet: OpenedFleet, model: str | None = None, seen: Fleet | None = None) -> "Rollouts":
        """Read them; `seen` are nodes that were read already."""
        seen = seen or Fleet(fleet.store, required=fleet.needs_enrolment)
        kept = {(row.model, row.deployment): row for row in fleet.store.rollout_rows()}
        models = [model_of(fleet.repository, name) for name in fleet.repository.models() if model in {None, name}]
        found = [seen.lines(one, {name: row for (of, name), row in kept.items() if of == one.name}) for one in models]
        return cls(models, kept, [line for mine in found for line in mine], [node.state for node in seen.nodes.values()])

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each deployment."""
        found = []
        for present in self.models:
            serve = _serving(present, self.states)
            for one in present.deployments:
                mine = [line for line in self.lines if (line.model, line.deployment) == (present.name, one.name)]
                row = rollout_row(present, one, self.kept.get((present.name, one.name)))
                classes, refused = totals(line.found for line in mine), _refused(mine, one)
                found.append({**row, "classes": classes, "refused": refused, "parameters": _in_force(present.name, one, serve[one.name])})
        return found


def deployment_rows(model: Model, nodes: Sequence[NodeFacts]) -> list[dict[str, Any]]:
    """Return a line for each deployment of a model, in the order in which they decide."""
    by_name = decided(model.deployments, nodes)
    return [
        {
            "model": model.name,
            "deployment": one.name,
            "priority": one.priority,
            "where": text_of(one.selector),
            "release": one.release.version,
            "runs": target.version if (target := runs(one)) is not None else None,
            "fallback": one.fallback.version if one.fallback is not None else None,
            "state": one.state,
            "percent": one.percent,
            "matched": sum(matches(one.selector, node) for node in nodes),
            "decided": len(by_name[one.name]),
        }
        for one in model.deployments
    ]


def rollout_row(model: Model, one: Deployment, kept: RolloutRow | None) -> dict[str, Any]:
    """Return a deployment and how far its rollout has come, as the hub has kept it."""
    is_kept = kept is not None and deployments.is_of(kept.document, one)
    if kept is not None and not is_kept and not deployments.is_of_rollout(kept.document, one):
        kept = None  # The hub has begun another rollout, and has not looked at its nodes yet: the figures are those of the one before.
    has_left = one.state == "rolled_back"  # Its gates were last looked at before it went back, and say that nodes serve what they left.
    fetch = one.carriage.fetch if one.carriage is not None else None
    return {
        "model": model.name,
        "deployment": one.name,
        "where": text_of(one.selector),
        "priority": one.priority,
        "version": one.release.version,
        "digest": one.release.digest.hex(),
        "rollout": one.rollout.hex(),
        "fallback": one.fallback.version if one.fallback else None,
        "state": one.state,
        "stage": f"{one.stage + 1} of {len(one.stages)}",
        "percent": one.percent,
        "stages": [{"stage": words_of(each), "where": text_of(each.selector or ()), "approve": each.approve} for each in one.stages],
        "activate": windows_text(one.activate) if one.activate else None,
        "fetch": windows_text(fetch) if fetch else None,
        "deadline": iso(one.deadline),
        "attempt": one.attempt or 0,
        "serial": model.serial,
        "nodes": kept.addressed if kept else 0,
        "heard": kept.heard if kept else 0,
        "silent": kept.silent if kept else 0,
        "serving": kept.serving if kept else 0,
        "failed": kept.failed if kept else 0,
        "reason": kept.reason if kept else "",
        "gates": [_gate(verdict) for verdict in gates.from_json(kept.gates)] if kept is not None and is_kept and not has_left else [],
    }


def _gate(verdict: gates.Verdict) -> dict[str, Any]:
    fields = asdict(verdict)
    return {"gate": fields.pop("name"), **fields}


def _in_force(model: str, deployment: Deployment, states: Sequence[State]) -> dict[str, dict[str, Any]]:
    """Return for each parameter what is set, and how many nodes that serve the release use whose value."""
    releases = {one.release: one.parameters for one in core.in_force(deployment)}
    found: dict[str, dict[str, Any]] = {}
    for release, said in releases.items():
        found.update({name: {"set": value, **_nobody()} for name, value in said.items()})
        for state in states:
            slots = [slot for slot in state.slots if slot.model == model and slot.serving == release.digest]
            for setting in (setting for slot in slots for setting in slot.parameters or ()):
                entry = found.setdefault(setting.name, {"set": None, **_nobody()})
                entry[setting.source] += 1
                if setting.code is not None:
                    entry["refused"].append({"node": state.node, "code": setting.code})
    return found


def _nobody() -> dict[str, Any]:
    return {"rollout": 0, "site": 0, "release": 0, "refused": []}


def _serving(model: Model, states: Sequence[State]) -> dict[str, list[State]]:
    """Return the reports of the nodes for which each deployment decides, by its name."""
    by_node = {state.node: state for state in states}
    return {name: [by_node[one.node] for one in nodes] for name, nodes in decided(model.deployments, facts_of(states)).items()}


def _refused(lines: Sequence[NodeLine], deployment: Deployment) -> list[dict[str, Any]]:
    """Return the nodes that refuse a document without which they cannot take the release."""
    return [
        {"node": line.node.name, "code": finding.code, "reason": finding.reason}
        for line in lines
        for finding in _standing(findings_of(line.node.state, line.node.refused), line.model, deployment.release.version)
    ]


def _standing(found: tuple[Finding, ...], model: str, version: str) -> list[Finding]:
    clock = of_clock(found)
    return [*standing_against(found, model=model, version=version), *([clock] if clock is not None else [])]

"""Say what a change of nodes' settings will do before it is queued: to how many nodes, and which deployment will then decide for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hub.core.nodes import device_settings as core
from hub.core.nodes.device_settings import Chosen, Move, SetNodeSettings
from hub.core.rollouts.moves import movements
from hub.operations.deployed import serving_of, states_of
from hub.operations.opened_fleet import OpenedFleet
from hub.service.rollouts.release_lookup import check_movements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployments, Envelope
from schemas.device_settings import DeviceSettings
from schemas.earlier_rollouts import as_deployments
from schemas.errors import Code, Refused
from schemas.names import check_name
from schemas.rollout import Rollout
from schemas.selectors import NodeFacts, matches, parse
from schemas.state import State


@dataclass(frozen=True, slots=True)
class Effect:
    """Hold what a command will change, as far as this process can tell: the hub decides by what it knows when it obeys."""

    nodes: Sequence[str]
    known: int
    keep_labels: Sequence[str]  # Nodes whose site accepts no labels from the hub.
    moves: Mapping[str, Sequence[Move]]  # By model.


def effect_of(fleet: OpenedFleet, wish: SetNodeSettings) -> Effect:
    """Return what a command will change.

    Raises:
        Refused: the selector matches no node, or programs would not work with what nodes then get.
    """
    repository, states = fleet.repository, states_of(fleet.store.counted_nodes())
    known = {state.node: state for state in states}
    if wish.node is not None:
        names = [wish.node]
    else:
        selector = parse(wish.where or "")
        names = [name for name, state in sorted(known.items()) if matches(selector, _facts(state, _labels(state)))]
        if not names:
            raise Refused(Code.SELECTOR_INVALID, f"selector {wish.where!r} matches none of {len(known)} known nodes")
    changed: list[str] = []
    facts: dict[str, tuple[NodeFacts, NodeFacts]] = {}
    for name in names:
        before = Chosen.of(document_of(repository, name))
        after = core.merged(before, wish)
        if after == before:
            continue
        changed.append(name)
        if (state := known.get(name)) is not None:
            facts[name] = _facts(state, _labels(state)), _facts(state, core.labels_after(state, before, after))
    keep = [name for name in changed if name in known and (found := known[name].settings) is not None and "labels" in found.ignored]
    statements = _statements(repository) if wish.changes_labels else {}
    if statements and not wish.breaking:
        _check_releases(repository, statements, facts, [known[name] for name in facts])
    moves = {model: core.moves(one.deployments, facts) for model, one in statements.items()}
    return Effect(changed, len(names), keep if wish.labels else [], moves)


def _check_releases(
    repository: Repository,
    statements: Mapping[str, Deployments],
    facts: Mapping[str, tuple[NodeFacts, NodeFacts]],
    states: Sequence[State],
) -> None:
    """Check that no node gets a release that its programs cannot use.

    Raises:
        Refused: RELEASE_BREAKING.
    """
    for model, one in statements.items():
        found = movements(one.deployments, one.deployments, facts.values(), serving=serving_of(states, model))
        check_movements(repository, found, model=model)


def settings_row(fleet: OpenedFleet, node: str) -> dict[str, Any]:
    """Return what the hub sets of a node, and what of it is in force there.

    Raises:
        Refused: nothing is known of it.
    """
    document = document_of(fleet.repository, check_name("node", node))
    row = fleet.store.node(node)
    state = codec.decode(State, row.state) if row is not None else None
    if document is None and state is None:
        raise Refused(Code.NODE_UNKNOWN, f"node {node!r} has never reported, and the hub sets nothing of it")
    return _row(node, document, state)


def _row(node: str, document: DeviceSettings | None, state: State | None) -> dict[str, Any]:
    in_force = state.settings if state is not None else None
    serial, reported = document.serial if document is not None else 0, in_force.serial if in_force is not None else 0
    fields = {"labels", "cohort", "telemetry", "display_name", "budgets"}
    return {
        "node": node,
        "serial": serial,
        "expires": datetime.fromtimestamp(document.expires, UTC).isoformat() if document is not None else None,
        "set": document.model_dump(mode="json", exclude_none=True, include=fields) if document is not None else {},
        "serial_in_force": reported,
        "state": "in force" if serial and reported == serial else "not taken yet" if serial else "nothing is set",
        "ignored": list(in_force.ignored) if in_force is not None else [],
        "labels": dict(state.profile.labels) if state is not None and state.profile is not None else {},
        "cohort": state.cohort if state is not None else None,
        "sends_telemetry": state.telemetry is not None if state is not None else None,
    }


def move_row(model: str, one: Move) -> dict[str, Any]:
    """Return a node for which another deployment will decide, for a script."""
    return {
        "model": model,
        "node": one.node,
        "before": one.before.name if one.before is not None else None,
        "after": one.after.name if one.after is not None else None,
        "release": one.after.release.version if one.after is not None else None,
    }


def effect_row(model: str, one: Move) -> dict[str, Any]:
    """Return the same with the release that decides until now."""
    return {**move_row(model, one), "before_release": one.before.release.version if one.before is not None else None}


def _statements(repository: Repository) -> dict[str, Deployments]:
    found: dict[str, Deployments] = {}
    for model in repository.models():
        if (envelope := repository.deployments(model)) is not None:
            found[model] = codec.decode(Deployments, codec.decode(Envelope, envelope).payload)
        elif (document := repository.rollout(model)) is not None:
            found[model] = as_deployments(codec.decode(Rollout, document), expires=0)
    return found


def document_of(repository: Repository, node: str) -> DeviceSettings | None:
    """Return what the hub has signed for a node."""
    envelope = repository.device_settings(node)
    return codec.decode(DeviceSettings, codec.decode(Envelope, envelope).payload) if envelope is not None else None


def _labels(state: State) -> Mapping[str, str]:
    return state.profile.labels if state.profile is not None else {}


def _facts(state: State, labels: Mapping[str, str]) -> NodeFacts:
    return NodeFacts(state.node, labels, state.profile.arch if state.profile is not None else "")

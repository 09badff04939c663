"""Check what operators ask of rollouts and deployments before it is queued: what the hub would refuse is refused now.

A command may wait until a hub starts, which may be next week.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hub.core.publish.signature_compatibility import Signature, check_started
from hub.core.rollouts import commands, deployments
from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import Command
from hub.core.rollouts.parameters import in_words
from hub.core.rollouts.predecessors import predecessors
from hub.core.rollouts.rollout import Place
from hub.core.rollouts.stages import parse_stages
from hub.core.rollouts.terms import check_shadow
from hub.operations.deployed import check_minimum, check_moves, facts_of, model_of, release_of, states_of, unpassed_checks
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.service.rollouts.release_lookup import signatures
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.parameters import Value
from schemas.windows import parse_windows


@dataclass(frozen=True, slots=True)
class Prepared:
    """Hold a command that the hub will accept, as far as can be told, and what the operator is to know besides."""

    model: str
    command: Command
    deployment: str  # The deployment that it is about; "" where the hub chooses.
    serial: int  # Serial of the signed statement that it was checked against.
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def start_of(fields: Mapping[str, Any]) -> commands.Start:
    """Return the start of a rollout that fields ask for, named as those of `StartRollout` in the API.

    Raises:
        Refused: a stage, a time or another field is not written as it must be.
    """
    stages = parse_stages(fields.get("stages") or "100")
    windows = {name: parse_windows(text) for name in ("activate", "fetch") if (text := fields.get(name)) is not None}
    carriage = {
        "bytes_max": fields.get("node_bytes_max"),
        "full_download": fields.get("full_download"),
        "priority": fields.get("priority", 5),
        **_given({"fetch": windows.get("fetch")}),
    }
    given = {
        "version": fields["version"],
        "stages": [one if isinstance(one, int) else one.model_dump(mode="json") for one in stages],
        "gate": {name: value for name, value in (fields.get("gate") or {}).items() if value is not None},
        "carriage": carriage,
        "parameters": fields.get("parameters") or None,
        **_given({name: fields.get(name) for name in ("deployment", "where", "deadline", "allow_empty", "supersede", "breaking")}),
        **_given({"activate": windows.get("activate"), "approve": fields.get("approve")}),
    }
    return commands.read_as(commands.Start, json.dumps(given))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: a hub of an earlier version refuses fields that it does not know."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value not in ([], {}, ())}


def start(fleet: OpenedFleet, model: str, wish: commands.Start, *, require_check: bool = False) -> Prepared:
    """Check the start of a rollout.

    Raises:
        Refused: there is no such release, its checks speak against it, or the hub would refuse the rollout.
    """
    repository = fleet.repository
    ref, manifest = release_of(repository, model, wish.version)
    present, states = model_of(repository, model), states_of(fleet.store.counted_nodes())
    nodes = facts_of(states)
    allowed, now = manifest.parameters or (), int(time.time())
    progress = deployments.begun(present, wish, ref, nodes=nodes, rollout=bytes(16), now=now, allowed=allowed)
    check_shadow(wish.gate, manifest)
    place = deployments.place_of(present, wish, nodes)
    if not wish.breaking:
        check_started(Signature.of(manifest), signatures(repository, model, predecessors(place)))
    check_moves(repository, present, present.with_rollout(progress), states, breaking=wish.breaking)
    codec.encode(present.with_rollout(progress).statement(expires=0))  # Many long texts do not fit the document.
    check_minimum(repository, model, wish.version)
    warnings = [*unpassed_checks(fleet, ref, manifest, required=require_check), *_left_behind(place.before, wish.parameters or {})]
    notes = list(deployments.stay(present, place, nodes))
    if place.before is None:
        notes += deployments.ties(present, place.name, place.selector, place.priority)
    return Prepared(model, wish, place.name, present.serial, tuple(warnings), tuple(notes))


def _left_behind(before: Deployment | None, parameters: Mapping[str, Value]) -> list[str]:
    """Return a warning of parameters that the previous rollout set: a new rollout begins with the release's own values."""
    before_it = {name: value for one in (core.in_force(before) if before else ()) for name, value in one.parameters.items()}
    left = {name: value for name, value in before_it.items() if name not in parameters}
    said = ", ".join(in_words(*one) for one in left.items())
    return [f"the previous rollout set parameters that this one does not set: {said}"] if left else []


def change(fleet: OpenedFleet, model: str, wish: commands.OfDeployment) -> Prepared:
    """Check a command about the rollout of a deployment; whether its state allows it is for the hub to say.

    Raises:
        Refused: there is no such model or deployment, or it is not clear which deployment is meant.
    """
    check_model(fleet.repository, model)
    present = model_of(fleet.repository, model)
    deployments.chosen(present, wish.deployment, to_go_back=isinstance(wish, commands.Rollback))
    return Prepared(model, wish, wish.deployment or "", present.serial)


def version_in_force(fleet: OpenedFleet, model: str, deployment: str | None, release: str | None) -> str:
    """Return the release whose parameters can be set: the one that is named, or the one that nodes are to serve.

    Raises:
        Refused: nothing is rolled out, or this release is not.
    """
    present = model_of(fleet.repository, model)
    if not present.rollouts and deployment is None:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model}: set values when it starts, with --set")
    progress = deployments.chosen(present, deployment)
    served = [one.release.version for one in core.in_force(progress.deployment)]
    if not served:
        raise Refused(Code.ROLLOUT_INVALID, f"the first release of {model} was taken back: set values when the next one starts, with --set")
    return core.in_force_of(progress, release or served[0]).release.version


def set_parameters(fleet: OpenedFleet, model: str, wish: commands.SetParameters) -> Prepared:
    """Check a change of parameters.

    Raises:
        Refused: the hub would refuse it.
    """
    present = model_of(fleet.repository, model)
    progress = deployments.chosen(present, wish.deployment)
    allowed = release_of(fleet.repository, model, wish.version)[1].parameters or ()
    after = core.set_parameters(progress, wish, allowed=allowed)
    codec.encode(present.with_rollout(after).statement(expires=0))
    return Prepared(model, wish, progress.name, present.serial)


def set_deployment(fleet: OpenedFleet, model: str, wish: commands.SetDeployment) -> Prepared:
    """Check a deployment that is to be made or changed.

    Raises:
        Refused: the hub would refuse it.
    """
    repository = fleet.repository
    check_model(repository, model)
    release, manifest = release_of(repository, model, wish.release) if wish.release is not None else (None, None)
    present, states = model_of(repository, model), states_of(fleet.store.counted_nodes())
    nodes = facts_of(states)
    progress = deployments.pinned(present, wish, release, nodes=nodes, rollout=bytes(16), now=0)
    after = present.with_rollout(progress)
    codec.encode(after.statement(expires=0))
    check_moves(repository, present, after, states, breaking=wish.breaking)
    if release is not None:
        check_minimum(repository, model, release.version)
    warnings = unpassed_checks(fleet, release, manifest) if release is not None and manifest is not None else []
    one = progress.deployment
    hands = deployments.change_of_hands(present, Place(one.name, one.selector, one.priority), nodes)
    notes = [*hands, *deployments.ties(present, one.name, one.selector, one.priority)]
    return Prepared(model, wish, one.name, present.serial, tuple(warnings), tuple(notes))


def remove_deployment(fleet: OpenedFleet, model: str, wish: commands.RemoveDeployment) -> Prepared:
    """Check the removal of a deployment.

    Raises:
        Refused: the hub would refuse it.
    """
    check_model(fleet.repository, model)
    present, states = model_of(fleet.repository, model), states_of(fleet.store.counted_nodes())
    nodes = facts_of(states)
    check_moves(fleet.repository, present, deployments.removed(present, wish, nodes=nodes), states, breaking=wish.breaking)
    notes = deployments.followers(present, wish.name, nodes)
    return Prepared(model, wish, wish.name, present.serial, notes=tuple(notes))

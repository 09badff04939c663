"""Read what is deployed: a model's signed deployments, the nodes that are known, and releases with what their checks found."""

from collections.abc import Iterable, Sequence

from hub.core.publish.check_rules import unchecked
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.moves import movements, unmoved
from hub.core.rollouts.rollout import Progress
from hub.database.rows import NodeRow
from hub.operations.opened_fleet import OpenedFleet
from hub.publish.check_results import Checks
from hub.service.rollouts.release_lookup import check_movements
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256, version_key
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts
from schemas.state import State


def model_of(repository: Repository, name: str) -> Model:
    """Return a model's deployments as they are signed."""
    found = deployment_statements.read(repository, name) if name in repository.models() else None
    if found is None:
        return Model(name)
    signed = found.deployments
    rollouts = tuple(Progress(name, one, stage_entered_at=0, judged_from=0) for one in signed.deployments)
    return Model(name, serial=signed.serial, expires=signed.expires, rollouts=rollouts)


def facts_of(states: Iterable[State]) -> list[NodeFacts]:
    """Return what selectors ask of nodes, by what they have reported."""
    return [NodeFacts(one.node, one.profile.labels, one.profile.arch) if one.profile else NodeFacts(one.node, {}) for one in states]


def check_moves(repository: Repository, before: Model, after: Model, states: Sequence[State], *, breaking: bool) -> None:
    """Check that no known node gets a release that its programs cannot use, unless the operator says so.

    Raises:
        Refused: RELEASE_BREAKING, naming how many nodes it is about.
    """
    if not breaking:
        found = movements(before.deployments, after.deployments, unmoved(facts_of(states)), serving=serving_of(states, after.name))
        check_movements(repository, found, model=after.name)


def serving_of(states: Iterable[State], model: str) -> dict[str, ReleaseRef]:
    """Return which release of a model each node says that it serves."""
    slots = ((state.node, slot) for state in states for slot in state.slots if slot.model == model)
    return {node: ReleaseRef(slot.serving_version, slot.serving) for node, slot in slots if slot.serving and slot.serving_version}


def states_of(rows: Iterable[NodeRow]) -> list[State]:
    """Return what nodes have reported."""
    return [codec.decode(State, row.state) for row in rows]


def release_of(repository: Repository, model: str, version: str) -> tuple[ReleaseRef, Manifest]:
    """Return a release by its name.

    Raises:
        Refused: RELEASE_UNKNOWN.
    """
    document = repository.manifest(model, version)
    return ReleaseRef(version, sha256(document)), codec.decode(Manifest, document)


def check_minimum(repository: Repository, model: str, version: str) -> None:
    """Refuse a release that nodes would not activate.

    Raises:
        Refused: RELEASE_TOO_OLD.
    """
    minimum = repository.minimums().get(model)
    if minimum is not None and version_key(version) < version_key(minimum):
        reason = f"the oldest version of {model} that nodes activate is {minimum}: they would not take {version}"
        raise Refused(Code.RELEASE_TOO_OLD, f"{reason}. Roll a newer release out, or lower it: `fleetcast keys minimum {model}@{version}`")


def unpassed_checks(fleet: OpenedFleet, release: ReleaseRef, manifest: Manifest, *, required: bool = False) -> list[str]:
    """Return warnings of what `fleetcast check` found, or refuse the release where the fleet's settings or the operator require a check.

    Raises:
        Refused: RELEASE_UNCHECKED.
    """
    profiles = fleet.settings.checks_required
    found = Checks(fleet.directory / "checks").against(manifest, profiles)
    if not found:
        return []
    name = f"{manifest.model}@{release.version}"
    try_it = f"`fleetcast check {name} --profile {','.join(profiles) or 'pi4,gateway,tiny'}`"
    if profiles or required:
        raise unchecked(name, [*found, f"try {try_it}"])
    return [f"{name}: {'; '.join(found)} ({try_it})"]

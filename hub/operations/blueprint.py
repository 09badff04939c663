"""Plan what applying a blueprint would change: read what is, compare, and say what it costs and which nodes it moves."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from hub.core.blueprint import diff
from hub.core.blueprint.by_hand import last_of, parts_changed
from hub.core.blueprint.changes import KINDS, DeploymentAdded, ModelChange, ReleaseChanged, SettingsChanged
from hub.core.blueprint.diff import Difference, Planned, Wanted
from hub.core.blueprint.export import export
from hub.core.blueprint.present import ModelFacts, NodeFound, Present, ReleaseFacts
from hub.core.blueprint.reading import InvalidBlueprint, Written, read
from hub.core.nodes.device_settings import Chosen
from hub.core.publish.signature_compatibility import Signature, check_started
from hub.core.rollouts import deployments
from hub.core.rollouts.commands import Start
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.moves import runs
from hub.core.rollouts.predecessors import predecessors
from hub.database.blueprint_rows import BlueprintRow, Blueprints
from hub.database.connection import HUB_ACTOR
from hub.database.enrolments import Enrolments
from hub.database.node_commands import NodeCommands
from hub.database.rows import EventRow
from hub.operations.deployed import check_minimum, check_moves, model_of, release_of, serving_of, states_of, unpassed_checks
from hub.operations.moments import iso, written
from hub.operations.node_blocks import NodeBlocks
from hub.operations.node_changes import document_of
from hub.operations.opened_fleet import OpenedFleet
from hub.service.rollouts.release_lookup import Releases, signatures
from schemas.deployments import deciding
from schemas.errors import Code, Refused
from schemas.state import State
from schemas.variant_choice import choose


@dataclass(frozen=True, slots=True)
class Options:
    """Say what an operator insists on, as the options of `rollout start` do; `again` begins rollouts that went back once more."""

    breaking: bool = False
    supersede: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class MovedNodes:
    """Count the nodes that get another release of a model, and the bytes that they fetch for it."""

    model: str
    before: str | None
    after: str
    nodes: int
    bytes: int
    unfit: int  # Nodes that cannot take the release, or have not said what they are.


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold what applying a blueprint would do."""

    written: Written
    wanted: Wanted
    difference: Difference
    moved: tuple[MovedNodes, ...]
    in_force: BlueprintRow | None
    same_as: BlueprintRow | None  # The earlier revision that has the same text.
    notes: tuple[str, ...]

    @property
    def planned(self) -> tuple[Planned, ...]:
        """Return the changes, in order."""
        return self.difference.planned

    @property
    def bytes(self) -> int:
        """Return what all nodes fetch together."""
        return sum(one.bytes for one in self.moved)

    @property
    def stale(self) -> str:
        """Return that the file was made from an older revision than the one in force; empty where it was not."""
        base, now = self.written.blueprint.based_on, self.in_force
        if self.written.revision is not None:
            return ""  # Who goes back to a revision means to take back what came after it.
        if base is None or now is None or base == now.revision or self.same_as == now:
            return ""
        lost = "what that changed would be taken back" if self.planned else "no change follows, but the text of that would be replaced"
        return (
            f"{self.written.name} is based on revision {base}, and revision {now.revision} is in force, by {now.actor} of "
            f"{written(now.at)} UTC: {lost}"
        )


def read_present(fleet: OpenedFleet, versions: Mapping[str, set[str]]) -> tuple[Present, list[State]]:
    """Read what the fleet is; of releases, those that are named."""
    states, repository = states_of(fleet.store.counted_nodes()), fleet.repository
    by_node: dict[str, State | None] = {one.node: one for one in states}
    enrolled = [one.standing.node for one in Enrolments(fleet.store.database).nodes() if one.standing.revoked_at is None]
    by_node |= {name: None for name in enrolled if name not in by_node}
    has_settings = repository.nodes_with_settings()
    nothing = Chosen({}, budgets={})
    nodes = {
        name: NodeFound(name, Chosen.of(document_of(repository, name)) if name in has_settings else nothing, state)
        for name, state in sorted(by_node.items())
    }
    models = {name: _model(fleet, name, versions.get(name, set())) for name in repository.models()}
    return Present(fleet.settings.fleet, models, nodes), states


def _model(fleet: OpenedFleet, name: str, versions: set[str]) -> ModelFacts:
    published, releases = fleet.repository.releases(name), {}
    for version in sorted(versions & set(published)):
        ref, manifest = release_of(fleet.repository, name, version)
        releases[version] = ReleaseFacts(ref, manifest.parameters or (), manifest.limits.shadow is not None)
    return ModelFacts(model_of(fleet.repository, name), published, releases)


def plan(fleet: OpenedFleet, asked: Written, options: Options | None = None) -> Plan:
    """Return what applying a blueprint would do.

    Raises:
        InvalidBlueprint: it does not fit the fleet.
    """
    options = options or Options()
    blueprints = Blueprints(fleet.store.database)
    newest, same = blueprints.newest(), blueprints.with_text(asked.text)
    if same is None:
        _check_base(asked, newest)
    present, states = read_present(fleet, diff.wanted_versions(asked))
    wanted = diff.wanted(asked, present)
    checks = _Checks(fleet, wanted, states, options)
    found = diff.difference(wanted, present, now=int(time.time()), supersede=options.supersede, again=options.again, check=checks.against)
    moved = _moved(fleet, found, present, wanted, states)
    return Plan(asked, wanted, found, moved, newest, same, (*found.notes, *checks.warnings))


def _check_base(asked: Written, newest: BlueprintRow | None) -> None:
    """Check that a file is based on a revision that there has been; the oldest ones are no longer kept.

    Raises:
        InvalidBlueprint: it is based on one that never was.
    """
    base = asked.blueprint.based_on
    if base is None or 1 <= base <= (newest.revision if newest is not None else 0):
        return
    there = (
        f"they count from 1, and the newest is {newest.revision}" if newest is not None else "no blueprint was applied to this fleet yet"
    )
    raise InvalidBlueprint(asked.name, [asked.mistake(("based_on",), f"there is no revision {base}; {there}")])


def of_revision(fleet: OpenedFleet, revision: int) -> Written:
    """Return a revision of the blueprint as it was applied.

    Raises:
        Refused: there is none; InvalidBlueprint: a newer program kept it.
    """
    return replace(read(Blueprints(fleet.store.database).text(revision).encode(), name=f"revision {revision}"), revision=revision)


def exported(fleet: OpenedFleet) -> str:
    """Return a blueprint of what is."""
    newest = Blueprints(fleet.store.database).newest()
    return export(read_present(fleet, {})[0], based_on=newest.revision if newest is not None else None)


class _Checks:
    """Say what speaks against a change besides the deployments themselves: the releases, and the programs that use them."""

    def __init__(self, fleet: OpenedFleet, wanted: Wanted, states: Sequence[State], options: Options) -> None:
        self._fleet, self._wanted, self._states, self._options = fleet, wanted, states, options
        self.warnings: list[str] = []

    def against(self, before: Model, after: Model, change: ModelChange) -> str:
        """Return why a change would be refused; empty where it would not."""
        repository, model = self._fleet.repository, before.name
        try:
            check_moves(repository, before, after, self._states, breaking=self._options.breaking)
            version = change.terms.release if isinstance(change, DeploymentAdded | ReleaseChanged) else None
            if isinstance(change, DeploymentAdded | ReleaseChanged) and version is not None:
                ref, manifest = release_of(repository, model, version)
                check_minimum(repository, model, version)
                self.warnings += [one for one in unpassed_checks(self._fleet, ref, manifest) if one not in self.warnings]
                command = change.command(now=int(time.time()), breaking=False, supersede=True)
                if isinstance(command, Start) and not self._options.breaking:
                    place = deployments.place_of(before, command, self._wanted.facts)
                    check_started(Signature.of(manifest), signatures(repository, model, predecessors(place)))
        except Refused as refusal:
            return refusal.reason
        return ""


def _moved(fleet: OpenedFleet, found: Difference, present: Present, wanted: Wanted, states: Sequence[State]) -> tuple[MovedNodes, ...]:
    """Return which nodes get another release once all is applied, and what they fetch, as `fleetcast plan` computes it."""
    models = {name: (one.model.deployments, one.model.deployments) for name, one in present.models.items()}
    models |= {name: (found.before[name].deployments, found.after[name].deployments) for name in found.after}
    now = {one.node: one for one in present.facts}
    after = {one.node: one for one in wanted.facts}
    if not found.planned:
        return ()
    releases, rows = Releases(fleet.repository, fleet.blocks), list[MovedNodes]()
    holdings = NodeBlocks(releases)
    for name, (before, then) in models.items():
        nodes, sizes, unfit = Counter[tuple[str | None, str]](), Counter[tuple[str | None, str]](), Counter[tuple[str | None, str]]()
        serving = serving_of(states, name)
        for state in states:
            had, gets = runs(deciding(before, now[state.node])), runs(deciding(then, after[state.node]))
            serves = serving.get(state.node)
            if gets is None or (had is not None and had.digest == gets.digest) or (serves is not None and serves.digest == gets.digest):
                continue
            has = serves or had
            key = (has.version if has is not None else None, gets.version)
            nodes[key] += 1
            size = _size(releases, holdings, state, name, gets.version)
            sizes[key] += size or 0
            unfit[key] += size is None
        rows += [MovedNodes(name, *key, count, sizes[key], unfit[key]) for key, count in nodes.most_common()]
    return tuple(rows)


def _size(releases: Releases, holdings: NodeBlocks, state: State, model: str, version: str) -> int | None:
    """Return what a node fetches of a release; None where it cannot take it."""
    digest, manifest = releases.named(model, version)
    if state.profile is None:
        return None
    try:
        variant = choose(manifest, state.profile).name
    except Refused:
        return None
    follows = any(slot.model == model and (slot.serving or slot.last_good) for slot in state.slots)
    return holdings.cost_of(digest, variant, holdings.releases_of(state), follows=follows).fetched_bytes


def changed_by(fleet: OpenedFleet, found: Plan) -> list[str | None]:
    """Return for each change who changed by hand what it is about: only what differs from the revision in force was."""
    hands = _hands(fleet, found.in_force) if found.planned and found.in_force is not None else {}
    if not hands or found.in_force is None:
        return [None] * len(found.planned)
    try:
        asked = found.written if found.same_as == found.in_force else of_revision(fleet, found.in_force.revision)
        present, _ = read_present(fleet, diff.wanted_versions(asked))
        wanted = diff.wanted(asked, present)
    except InvalidBlueprint:  # It cannot be compared any more: a node or a release that it names has gone.
        return [None] * len(found.planned)
    by_hand = diff.difference(wanted, present, now=int(time.time()), supersede=True, again=True, check=lambda before, after, change: "")
    parts = {part for one in by_hand.planned for part in diff.parts_of(one.change, wanted, present)}
    return [_hand(diff.parts_of(one.change, found.wanted, present) & parts, hands) for one in found.planned]


def _hand(parts: Set[diff.Part], hands: Mapping[diff.Part, EventRow]) -> str | None:
    """Return who changed one of these parts last."""
    last = last_of(parts, {part: (event.id, event) for part, event in hands.items()})
    return f"{last.actor or HUB_ACTOR}, {written(last.at)} UTC" if last is not None else None


def _hands(fleet: OpenedFleet, in_force: BlueprintRow) -> dict[diff.Part, EventRow]:
    """Return the last event that is not of this revision's apply, by the part of a deployment or node that it changed.

    The hub's own count only where there is no other: it ends rollouts that somebody began, and the change is that person's.
    """
    people: dict[diff.Part, EventRow] = {}
    hub: dict[diff.Part, EventRow] = {}
    after_apply = in_force.state != "applying"
    for event in fleet.store.changes(since=in_force.at):
        if event.kind == "blueprint" and event.body.get("revision") == in_force.revision:
            if in_force.state == "applied":
                break  # Nothing differed at that time.
            after_apply = False
        if not after_apply and event.actor in in_force.actors:
            continue
        for part in parts_changed(event.kind, event.body):
            (hub if event.actor in {None, HUB_ACTOR} else people).setdefault(part, event)
    return hub | people


def row_of(one: Planned, by: str | None) -> dict[str, Any]:
    """Return a change for a script."""
    change = one.change
    about: dict[str, Any]
    if isinstance(change, SettingsChanged):
        about = {"nodes": list(change.nodes)}
    else:
        about = {"model": change.model, "deployment": change.deployment}
    return {"kind": KINDS[type(change)], **about, "text": change.sentence, "held": one.held or None, "changed_by": by}


def as_row(fleet: OpenedFleet, found: Plan) -> dict[str, Any]:
    """Return a plan for a script."""
    return {
        "blueprint": found.written.name,
        "revision_in_force": found.in_force.revision if found.in_force is not None else None,
        "differs": bool(found.planned),
        "changes": [row_of(one, by) for one, by in zip(found.planned, changed_by(fleet, found), strict=True)],
        "moved": [
            {"model": one.model, "from": one.before, "to": one.after, "nodes": one.nodes, "bytes": one.bytes, "unfit": one.unfit}
            for one in found.moved
        ],
        "bytes": found.bytes,
        "notes": [*found.notes, *([found.stale] if found.stale else [])],
        "stale": found.stale or None,
        "terms": list(found.difference.terms),
    }


def made_of(fleet: OpenedFleet, one: BlueprintRow) -> int:
    """Return how many changes of the revision in force are made: all that are no difference any more.

    The hub may have obeyed what an apply that was cut off has left in its queue, and nobody has counted that.
    """
    if one.state == "applied":
        return one.done
    try:
        left = len(plan(fleet, of_revision(fleet, one.revision)).planned)
    except Refused:  # It cannot be compared any more.
        return one.done
    return max(one.done, one.changes - left)


def queued_of(fleet: OpenedFleet, one: BlueprintRow) -> int:
    """Return how many changes of the revision in force wait for the hub: an apply that was cut off left them in its queue."""
    if one.state == "applied":
        return 0
    nodes = NodeCommands(fleet.store.database).oldest_open()
    waiting = [command.actor for command in fleet.store.open_commands() if command.at >= one.at]
    waiting += [nodes.actor] if nodes is not None else []
    return sum(actor in one.actors for actor in waiting)


def revision_row(fleet: OpenedFleet, one: BlueprintRow, *, in_force: bool) -> dict[str, Any]:
    """Return a revision for a table or for a script."""
    done = made_of(fleet, one) if in_force else one.done
    queued = min(queued_of(fleet, one), one.changes - done) if in_force else 0
    what = f"revision {one.same_as} again" if one.same_as is not None else ""
    return {
        "revision": one.revision,
        "at": iso(one.at),
        "actor": one.actor,
        "state": one.state if one.state != "applying" else "cut off",
        "in_force": in_force,
        "changes": f"{done} of {one.changes}{f', {queued} queued' if queued else ''}",
        "what": "; ".join(part for part in (what, one.reason) if part),
    }


def revision_rows(fleet: OpenedFleet, limit: int) -> list[dict[str, Any]]:
    """Return the revisions of the blueprint, the newest first."""
    found = Blueprints(fleet.store.database).page(limit)
    return [revision_row(fleet, one, in_force=number == 0) for number, one in enumerate(found)]


def drift_of(fleet: OpenedFleet) -> dict[str, Any]:
    """Return how the fleet differs from the blueprint in force, in a row of few words."""
    newest = Blueprints(fleet.store.database).newest()
    if newest is None:
        return {"revision": None, "differences": None, "text": "no blueprint was applied"}
    about = f"revision {newest.revision}, by {newest.actor} of {written(newest.at)} UTC"
    if newest.state != "applied":
        about += ", was not applied whole"
    try:
        count = len(plan(fleet, of_revision(fleet, newest.revision)).planned)
    except Refused as refusal:
        if refusal.code not in {Code.BLUEPRINT_INVALID}:
            raise
        return {"revision": newest.revision, "differences": None, "text": f"{about}; it cannot be compared any more: {refusal.reason}"}
    differs = (
        f"{count} thing{'s differ' if count != 1 else ' differs'} from it: `fleetcast diff` shows what"
        if count
        else "the fleet is as it says"
    )
    return {"revision": newest.revision, "differences": count, "text": f"{about}; {differs}"}

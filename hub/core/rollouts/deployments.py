"""Holds a model's deployments beside each other: which one a command is about, what a new one begins with, and what changes by it.

Exactly one deployment decides for a node (schemas/deployments.py), so two rollouts of one model in two deployments run side by side.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from fleetcast.counted import counted, verb
from hub.core.rollouts.commands import RemoveDeployment, SetDeployment, Start
from hub.core.rollouts.rollout import OPERATOR, PINNED, Place, Progress, begin, settled_release, with_parameters
from hub.core.rollouts.selector_help import nearest, unknown_key
from hub.core.rollouts.stages import built, words_of
from hub.core.rollouts.tally import decided
from schemas import codec
from schemas.deployments import (
    DEFAULT,
    WHERE_PRIORITY,
    Deployment,
    Deployments,
    Stage,
    deciding,
    in_order,
    name_of,
)
from schemas.errors import Code, Refused
from schemas.limits import DEPLOYMENTS_MAX, SELECTOR_TERMS_MAX
from schemas.parameters import Parameters
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts, Requirement, from_labels, matches, may_overlap, parse, text_of

NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Model:
    """Hold a model's deployments in the order in which they decide. `serial` and `expires` are those of the statement that is signed."""

    name: str
    serial: int = 0
    expires: int = 0
    rollouts: tuple[Progress, ...] = ()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Return what is signed."""
        return tuple(one.deployment for one in self.rollouts)

    @property
    def names(self) -> str:
        """Return the names of its deployments, for a sentence."""
        return ", ".join(one.name for one in self.rollouts) or "none"

    def get(self, name: str) -> Progress | None:
        """Return a deployment with its working state, by name."""
        return next((one for one in self.rollouts if one.name == name), None)

    def with_rollout(self, progress: Progress) -> "Model":
        """Return the model with this deployment, in the place of the one of this name."""
        by_name = {one.name: one for one in self.rollouts} | {progress.name: progress}
        return replace(self, rollouts=tuple(by_name[one.name] for one in in_order(each.deployment for each in by_name.values())))

    def command(self, word: str, name: str) -> str:
        """Return the command that halts, resumes or takes back a deployment's rollout; it names the deployment where there are several."""
        of = "" if name == DEFAULT and len(self.rollouts) <= 1 else f" --deployment {name}"
        return f"fleetcast rollout {word} {self.name}{of}"

    def without(self, name: str) -> "Model":
        """Return the model without a deployment."""
        return replace(self, rollouts=tuple(one for one in self.rollouts if one.name != name))

    def statement(self, *, expires: int) -> Deployments:
        """Return the statement that follows the one which is signed: its serial is higher by one."""
        return Deployments(model=self.name, serial=self.serial + 1, expires=expires, deployments=self.deployments)


def alone(model: str, serial: int, deployment: Deployment) -> bytes:
    """Return a deployment as the row of its working state holds it, by which the two are known to belong together."""
    return codec.encode(Deployments(model=model, serial=max(1, serial), expires=0, deployments=(deployment,)))


def is_of(document: bytes, deployment: Deployment) -> bool:
    """Return whether a row's document is this deployment, as it is signed now."""
    try:
        return codec.decode(Deployments, document).deployments == (deployment,)
    except Refused:
        return False  # Another version wrote it.


def is_of_rollout(document: bytes, deployment: Deployment) -> bool:
    """Return whether a row's document is about this rollout of the deployment, however far it had come."""
    try:
        return [one.rollout for one in codec.decode(Deployments, document).deployments] == [deployment.rollout]
    except Refused:
        return False  # Another version wrote it.


def chosen(model: Model, name: str | None, *, to_go_back: bool = False) -> Progress:
    """Return the deployment that a command means: the named one; without a name the only one, or the default one.

    The default one is not meant where another one moves, nor, to go back, where another's rollout began later: the fleet is not taken back
    by a command that was meant for a canary.

    Raises:
        Refused: no deployment has this name, or a name is needed.
    """
    found = model.get(name or DEFAULT)
    if name is not None:
        if found is None:
            raise unknown(model, name)
        return found
    if not model.rollouts:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model.name}")
    if len(model.rollouts) == 1:
        return model.rollouts[0]
    others = [one.deployment for one in model.rollouts if one.name != DEFAULT]
    began = found.deployment.started if found is not None else 0
    if found is None or any(one.state in {"running", "halted"} or (to_go_back and one.started >= began) for one in others):
        raise Refused(Code.ROLLOUT_INVALID, f"{model.name} has several deployments ({model.names}): choose one with --deployment")
    return found


def unknown(model: Model, name: str) -> Refused:
    """Return the refusal of what is about a deployment that a model does not have; it names those that it has."""
    return Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {name} of {model.name}; there are {model.names}")


def place_of(model: Model, wish: Start, nodes: Sequence[NodeFacts]) -> Place:
    """Return the deployment in which a rollout begins.

    Raises:
        Refused: SELECTOR_INVALID; or the named deployment selects other nodes, or is new and has no selector, or there are too many.
    """
    check_not_blank(wish.where)
    selector = tuple(sorted({*parse(wish.where or ""), *from_labels(wish.labels)}))
    name = wish.deployment or name_of(selector)
    known = model.get(name)
    if known is not None:
        if selector not in {(), known.deployment.selector}:
            change = f", or first change it with `fleetcast deploy set {model.name} {name}`" if name != DEFAULT else ""
            raise Refused(
                Code.ROLLOUT_INVALID,
                f"deployment {name} of {model.name} selects {_words(known.deployment.selector)}, not {_words(selector)}: leave the "
                f"selector out{',' if change else ' or'} give another name{change}",
            )
        return Place(name, known.deployment.selector, known.deployment.priority, known.deployment)
    if name != DEFAULT and not selector:
        raise Refused(
            Code.ROLLOUT_INVALID,
            f"there is no deployment {name} of {model.name}; there are {model.names}: give --where SELECTOR to make it",
        )
    return _new_place(model, name, selector, wish.priority, nodes)


def _new_place(model: Model, name: str, selector: tuple[Requirement, ...], priority: int | None, nodes: Sequence[NodeFacts]) -> Place:
    _check(model, name, selector)
    above = WHERE_PRIORITY if name != DEFAULT else 0
    place = Place(name, selector, above if priority is None else priority)
    before = _decided_before(model, place, nodes)
    if not before:
        return place
    release = settled_release(before[0])
    values = before[0].parameters_of(release.digest) if release is not None else {}
    return replace(place, fallback=release, parameters=values)


def _check(model: Model, name: str, selector: tuple[Requirement, ...]) -> None:
    if name == DEFAULT and selector:
        raise Refused(Code.ROLLOUT_INVALID, f"deployment {DEFAULT} matches every node: give one for {_words(selector)} another name")
    if len(selector) > SELECTOR_TERMS_MAX:
        raise Refused(
            Code.SELECTOR_INVALID,
            f"selector and labels have {len(selector)} requirements, at most {SELECTOR_TERMS_MAX} are allowed: give its nodes a label",
        )
    if model.get(name) is None and len(model.rollouts) >= DEPLOYMENTS_MAX:
        raise Refused(
            Code.ROLLOUT_INVALID,
            f"{model.name} has {len(model.rollouts)} deployments, and can have {DEPLOYMENTS_MAX}: first remove one with "
            f"`fleetcast deploy remove {model.name} NAME`; for single nodes give them a label",
        )


def _decided_before(model: Model, place: Place, nodes: Iterable[NodeFacts]) -> list[Deployment]:
    """Return the deployments from which a new one takes its nodes, those with most nodes first; or, without nodes, could take."""
    order = _with_place(model, place)
    mine = decided(order, nodes)[place.name]
    if not mine:
        below = order[[one.name for one in order].index(place.name) + 1 :]
        return [one for one in below if may_overlap(one.selector, place.selector)]
    counts = Counter(one.name for node in mine if (one := deciding(model.deployments, node)) is not None)
    return sorted((one for one in model.deployments if counts[one.name]), key=lambda one: -counts[one.name])


def begun(
    model: Model,
    wish: Start,
    release: ReleaseRef,
    *,
    nodes: Sequence[NodeFacts],
    rollout: bytes,
    now: int,
    allowed: Parameters = (),
) -> Progress:
    """Begin a rollout in the deployment that the wish names. `nodes` are all that are known.

    Raises:
        Refused: no such rollout can be, or something speaks against it (`objections`) and the wish does not insist.
    """
    place = place_of(model, wish, nodes)
    if found := objections(model, wish, place, nodes):
        raise Refused(Code.ROLLOUT_INVALID, "; ".join(found))
    mine = decided(_with_place(model, place), nodes)[place.name]
    return begin(model.name, wish, release, place=place, nodes=mine, rollout=rollout, now=now, allowed=allowed)


def _with_place(model: Model, place: Place) -> list[Deployment]:
    """Return the order of decision with a deployment there, whatever it says."""
    there = Deployment(
        name=place.name,
        priority=place.priority,
        selector=place.selector,
        release=ReleaseRef("0.0.0", bytes(32)),
        state="done",
        rollout=bytes(16),
        started=0,
    )
    return in_order([*(one for one in model.deployments if one.name != place.name), there])


def objections(model: Model, wish: Start, place: Place, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return what speaks against beginning this rollout unless the operator insists, each with its mend.

    A running rollout of the same deployment may be superseded where nothing is left half-way: it has come to 100 % of its nodes, and the
    new one addresses all of them at once.
    """
    found = _objections_to_nodes(model, wish, place, nodes) if not wish.may_be_empty else []
    before, first = place.before, wish.stages[0]
    if before is not None and before.state == "running" and not wish.may_supersede:
        moving = f"{model.name}@{before.release.version} is still being rolled out"
        mend = f"{_ways_out(model, place.name, nodes)}; --supersede begins it all the same"
        if before.percent < 100 and first == 100:
            passes_over = "all of its nodes would take this one at once, past its remaining stages and their gates"
            found.append(f"{moving}, at {before.percent} % of its nodes; {passes_over}: {mend}")
        elif before.percent < 100:
            reach = "the nodes of this rollout's first stage"
            found.append(f"{moving}, at {before.percent} % of its nodes, and would stay on those except for {reach}: {mend}")
        elif first != 100:
            whom = f"only {first} % of its nodes" if isinstance(first, int) else f"only those of {first.name}"
            found.append(f"{moving}, and this one addresses {whom} at first: {mend}")
    return found


def _ways_out(model: Model, name: str, nodes: Sequence[NodeFacts]) -> str:
    """Return what makes an end of a rollout that is in the way. One that decides for no node has no end to wait for."""
    halt = f"`{model.command('halt', name)}` first"
    if decided(model.deployments, nodes)[name]:
        return f"wait for its end, or {halt}"
    return f"it decides for no known node, and so does not end by itself: {halt}"


def _objections_to_nodes(model: Model, wish: Start, place: Place, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return what speaks against the selectors of a rollout, and the size of its stages, as far as nodes are known."""
    asked = tuple(sorted({*parse(wish.where or ""), *from_labels(wish.labels)}))
    found = unknown_keys(asked, nodes) or (empty(place.selector, nodes) if place.selector else [])
    if found or not nodes:
        return found
    mine = decided(_with_place(model, place), nodes)[place.name]
    reached: set[str] = set()
    for stage in built(wish.stages, wish.approve):
        if stage.selector is not None:
            matching = {node.node for node in mine if matches(stage.selector, node)}
            of = f"stage {words_of(stage)}: "
            found += [f"{of}{one}" for one in unknown_keys(stage.selector, mine) or ([] if matching else empty(stage.selector, mine))]
            reached |= matching
        count = max(len(reached), ceil((stage.percent or 0) * len(mine) / 100))
        least = wish.gate.nodes_min or 0
        if count < least and not found:
            found.append(
                f"stage {words_of(stage)} reaches {count} of the {len(mine)} known nodes, and the gate asks for {least} that serve: begin "
                f"with a larger stage, or ask for fewer; --allow-empty starts it all the same"
            )
    return found


def check_not_blank(where: str | None) -> None:
    """Check that a selector says something: an empty one would match every node, and mostly is a variable that was not set.

    Raises:
        Refused: SELECTOR_INVALID.
    """
    if where is not None and not where.strip():
        raise Refused(Code.SELECTOR_INVALID, "the selector is empty, and would match every node: leave it out if that is meant")


def unknown_keys(selector: tuple[Requirement, ...], nodes: Sequence[NodeFacts]) -> list[str]:
    """Return the objection to a selector that asks for a label which no known node has; where none is known, nothing is said."""
    sentence = unknown_key(selector, nodes) if nodes else ""
    return [f"{sentence}--allow-empty sets it all the same"] if sentence else []


def empty(selector: tuple[Requirement, ...], nodes: Sequence[NodeFacts]) -> list[str]:
    """Return the objection to a selector that matches no known node, with what the operator may have meant."""
    if any(matches(selector, node) for node in nodes):
        return []
    if not nodes:
        return [
            f"no node matches {text_of(selector)}, for none is known yet: `fleetcast nodes` lists them; --allow-empty sets it all the same"
        ]
    return [
        f"none of the {len(nodes)} known nodes matches {text_of(selector)}. {nearest(selector, nodes)}"
        f"`fleetcast nodes --json` lists the nodes with their labels; --allow-empty sets it all the same"
    ]


def _selector_of(wish: SetDeployment, known: Progress | None) -> tuple[Requirement, ...]:
    """Return the selector that a deployment has once the wish is obeyed: what is not said stays as it is."""
    if wish.where is not None:
        return parse(wish.where)
    return known.deployment.selector if known is not None else ()


def pinned(
    model: Model,
    wish: SetDeployment,
    release: ReleaseRef | None,
    *,
    nodes: Sequence[NodeFacts],
    rollout: bytes,
    now: int,
    actor: str = OPERATOR,
) -> Progress:
    """Make or change a deployment. With a release it is a pin: done at once. A new one without pins what its nodes have now.

    Raises:
        Refused: its rollout runs, a new one has no selector or nothing to pin, or its selector matches nobody.
    """
    check_not_blank(wish.where)
    known = model.get(wish.name)
    selector = _selector_of(wish, known)
    if known is None and wish.where is None and wish.name != DEFAULT:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no deployment {wish.name} of {model.name}: give --where SELECTOR to make it")
    if selector and wish.where is not None and not wish.allow_empty and (found := unknown_keys(selector, nodes) or empty(selector, nodes)):
        raise Refused(Code.ROLLOUT_INVALID, found[0])
    if wish.name == DEFAULT and wish.priority:
        raise Refused(Code.ROLLOUT_INVALID, f"deployment {DEFAULT} comes last whatever its priority: leave --priority out")
    if known is not None:
        _check(model, wish.name, selector)
        priority = known.deployment.priority if wish.priority is None else wish.priority
        changed = replace(known, deployment=known.deployment.model_copy(update={"selector": selector, "priority": priority}))
        if release is None:
            return changed
        if known.deployment.state == "running" and not wish.supersede:
            raise Refused(
                Code.ROLLOUT_INVALID,
                f"{known.deployment.release.version} is still being rolled out in deployment {wish.name}: "
                f"{_ways_out(model, wish.name, nodes)}; --supersede pins it all the same",
            )
        place = Place(wish.name, selector, priority, changed.deployment)
    else:
        place = _new_place(model, wish.name, selector, wish.priority, nodes)
        release = release or _present_release(model, place, nodes)
    if release is None:
        raise Refused(
            Code.ROLLOUT_INVALID, f"no release of {model.name} was rolled out to its nodes: give the one to run, with --release VERSION"
        )
    return _pin(model, place, release, rollout=rollout, now=now, actor=actor)


def _present_release(model: Model, place: Place, nodes: Sequence[NodeFacts]) -> ReleaseRef | None:
    """Return the one release that all nodes of a new deployment have now.

    Raises:
        Refused: they have several.
    """
    before = _decided_before(model, place, nodes)
    several = sorted({_present(one) for one in before})
    if len(several) > 1 or any(one.state in {"running", "halted"} and one.fallback not in {None, one.release} for one in before):
        raise Refused(
            Code.ROLLOUT_INVALID,
            f"its nodes have several releases of {model.name} ({', '.join(several)}): give the one to run, with --release",
        )
    return place.fallback


def _pin(model: Model, place: Place, release: ReleaseRef, *, rollout: bytes, now: int, actor: str) -> Progress:
    before = place.before
    rows = before.parameters if before is not None else None
    if before is None and place.fallback is not None:
        rows = with_parameters(None, place.fallback, place.parameters)
    pin = Deployment(
        name=place.name,
        priority=place.priority,
        selector=place.selector,
        release=release,
        fallback=settled_release(before) if before is not None else place.fallback,
        state="done",
        rollout=rollout,
        stages=(Stage(100),),
        parameters=rows,
        started=now,
    )
    return Progress(model.name, pin, stage_entered_at=now, judged_from=now, tries_from=now, reason=f"{PINNED} {actor}", actor=actor)


def removed(model: Model, wish: RemoveDeployment, *, nodes: Sequence[NodeFacts]) -> Model:
    """Take a deployment away. `nodes` are all that are known.

    Raises:
        Refused: no deployment has this name, or its rollout runs and the wish does not insist.
    """
    found = model.get(wish.name)
    if found is None:
        raise unknown(model, wish.name)
    if found.deployment.state == "running" and not wish.supersede:
        raise Refused(
            Code.ROLLOUT_INVALID,
            f"{found.deployment.release.version} is still being rolled out in deployment {wish.name}: "
            f"{_ways_out(model, wish.name, nodes)}; --supersede removes it all the same",
        )
    return model.without(wish.name)


def stay(model: Model, place: Place, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return which nodes a rollout does not move although its selector matches them, because other deployments decide for them."""
    order = _with_place(model, place)
    matching = [node for node in nodes if matches(place.selector, node)]
    by_name = decided(order, matching)
    found = []
    for one in order:
        count = len(by_name[one.name])
        if one.name != place.name and count:
            stays = f"{count} of {counted(len(matching), 'node')} {verb(count, 'stay')} on {_present(one)}"
            follow = "lets it follow" if count == 1 else "lets them follow"
            because = f"because deployment {one.name} decides for {'it' if count == 1 else 'them'}"
            found.append(f"{stays}, {because}; `fleetcast deploy remove {model.name} {one.name}` {follow}")
    return found


def _present(deployment: Deployment) -> str:
    release = settled_release(deployment)
    if deployment.state in {"running", "halted"} and release is not None and release != deployment.release:
        return f"{release.version} or {deployment.release.version}"
    return release.version if release is not None else deployment.release.version


def taken(model: Model, place: Place, nodes: Sequence[NodeFacts]) -> Mapping[str, list[str]]:
    """Return the nodes for which another deployment decides from now on, by the name of the one that did; empty: none did."""
    order = _with_place(model, place)
    found: dict[str, list[str]] = {}
    for node in nodes:
        before, after = deciding(model.deployments, node), deciding(order, node)
        if after is not None and after.name == place.name and (before is None or before.name != place.name):
            found.setdefault(before.name if before is not None else "", []).append(node.node)
    return found


def nodes_of(model: Model, place: Place, nodes: Sequence[NodeFacts]) -> set[str]:
    """Return the nodes for which a deployment would decide."""
    return {node.node for node in decided(_with_place(model, place), nodes)[place.name]}


def change_of_hands(model: Model, place: Place, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return `taken` in sentences."""
    found = []
    for before, names in taken(model, place, nodes).items():
        shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
        instead = f" instead of {before}" if before else ""
        found.append(f"deployment {place.name} decides for {shown}{instead}")
    return found


def followers(model: Model, name: str, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return which deployments decide for a deployment's nodes once it is removed, in sentences."""
    mine = decided(model.deployments, nodes)[name]
    after = model.without(name).deployments
    found = []
    for one, its in decided(after, mine).items():
        if its:
            release = _present(next(each for each in after if each.name == one))
            found.append(f"{counted(len(its), 'node')} then follow{'s' if len(its) == 1 else ''} deployment {one}, which runs {release}")
    left = sum(deciding(after, node) is None for node in mine)
    if left:
        found.append(
            f"{counted(left, 'node')} {verb(left, 'keep')} what {'it has' if left == 1 else 'they have'}: no other deployment matches"
        )
    return found


def ties(model: Model, name: str, selector: tuple[Requirement, ...], priority: int) -> list[str]:
    """Return what is to know of other deployments of the same priority, which could match the same nodes: the name decides."""
    found = []
    for one in model.deployments:
        if DEFAULT not in {name, one.name} and one.name != name and one.priority == priority and may_overlap(one.selector, selector):
            first, second = sorted((name, one.name))
            found.append(
                f"deployments {first} and {second} have one priority, {priority}, and could match the same nodes: {first} decides then, by "
                f"its name; give one of them another with `fleetcast deploy set {model.name} {name} --priority N`"
            )
    return found


def _words(selector: tuple[Requirement, ...]) -> str:
    return text_of(selector) or "every node"

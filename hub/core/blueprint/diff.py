"""Compare what a blueprint asks for with what is, and plan the changes that lead from one to the other.

A plan is made by trying: each change is carried out on the model as the hub would carry it out, and the next one follows from what is then.
So what the hub would refuse is known before anything is sent, and a plan that was carried out leaves no difference.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Final

from hub.core.blueprint import settings
from hub.core.blueprint.changes import (
    Change,
    DeploymentAdded,
    DeploymentChanged,
    DeploymentRemoved,
    ModelChange,
    ParametersChanged,
    ReleaseChanged,
    SettingsChanged,
    priority_of,
)
from hub.core.blueprint.document import DeploymentTerms
from hub.core.blueprint.present import ModelFacts, Present, ReleaseFacts
from hub.core.blueprint.reading import InvalidBlueprint, Mistake, Path, Written
from hub.core.blueprint.terms_apart import terms_apart
from hub.core.nodes.device_settings import Chosen
from hub.core.rollouts import commands, deployments
from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import NamedStage, RemoveDeployment, SetDeployment, SetParameters, Start
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.moves import runs
from hub.core.rollouts.parameters import settled
from hub.core.rollouts.stages import built
from schemas import codec
from schemas.deployments import DEFAULT, Deployment
from schemas.errors import Code, Refused
from schemas.parameters import Parameters, Value
from schemas.selectors import NodeFacts, Requirement, text_of
from schemas.windows import parse_windows

STEPS_MAX: Final = 500  # Changes of one model: 64 deployments that go, and 64 that come, with what each of them needs.
_DEADLINE: Final = re.compile(r"[1-9][0-9]{0,5}[mhdw]")
_TERMS_OF_ROLLOUT: Final = ("stages", "gate", "carriage", "activate", "fetch", "deadline")


@dataclass(frozen=True, slots=True)
class WantedDeployment:
    """Hold what a blueprint says of a deployment, checked against the fleet."""

    name: str
    selector: tuple[Requirement, ...]
    priority: int
    terms: DeploymentTerms
    release: ReleaseFacts | None
    parameters: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Hold what a blueprint asks for, checked against the fleet: deployments by model, and settings by node, where it speaks of them."""

    models: Mapping[str, tuple[WantedDeployment, ...]]
    settings: Mapping[str, tuple[Chosen, int | None]] | None
    facts: tuple[NodeFacts, ...]  # What selectors will ask of every node.
    name: str = "fleet.yaml"  # The blueprint's name, as its reader knows it.


@dataclass(frozen=True, slots=True)
class Planned:
    """Hold a change, and why it cannot be made as it stands; empty where nothing speaks against it."""

    change: Change
    held: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold what is to be changed, in order; and each model before and after."""

    planned: tuple[Planned, ...]
    before: Mapping[str, Model]
    after: Mapping[str, Model]
    notes: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()  # Terms that differ from those of a rollout that has begun: no apply changes them.


def wanted_versions(written: Written) -> dict[str, set[str]]:
    """Return the releases that a blueprint names, by model."""
    models = written.blueprint.models.items()
    return {name: {one.release for one in model.deployments.values() if one.release is not None} for name, model in models}


def wanted(written: Written, present: Present) -> Wanted:
    """Check a blueprint against a fleet.

    Raises:
        InvalidBlueprint: it names what there is not, or contradicts itself.
    """
    mistakes = list[Mistake]()
    blueprint = written.blueprint
    if blueprint.fleet is not None and blueprint.fleet != present.fleet:
        mistakes.append(written.mistake(("fleet",), f"this blueprint is of the fleet {blueprint.fleet}, and this fleet is {present.fleet}"))
    nodes = settings.desired(written, present, mistakes) if blueprint.nodes is not None else None
    after = {name: chosen for name, (chosen, _) in nodes.items()} if nodes is not None else {}
    facts = [seen for name, one in present.nodes.items() if (seen := one.facts_after(after.get(name, one.chosen))) is not None]
    models = {}
    for name, terms in blueprint.models.items():
        path: Path = ("models", name)
        if (known := present.models.get(name)) is None:
            close = get_close_matches(name, present.models, n=1, cutoff=0.6)
            meant = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(present.models)) or 'none'}"
            mistakes.append(written.mistake(path, f"the fleet has no model {name}{meant}", key=True))
            continue
        found = [
            _deployment((*path, "deployments", one), one, of, known, facts, written, mistakes) for one, of in terms.deployments.items()
        ]
        models[name] = tuple(sorted(found, key=lambda one: (one.name == DEFAULT, -one.priority, one.name)))
    if mistakes:
        raise InvalidBlueprint(written.name, mistakes)
    return Wanted(models, nodes, tuple(facts), written.name)


def _deployment(
    path: Path,
    name: str,
    terms: DeploymentTerms,
    known: ModelFacts,
    facts: Sequence[NodeFacts],
    written: Written,
    mistakes: list[Mistake],
) -> WantedDeployment:
    selector = _place(path, name, terms, facts, written, mistakes)
    release = _release(path, terms, known, written, mistakes)
    _check_terms(path, terms, release, facts, written, mistakes)
    parameters: Mapping[str, Value] = {}
    if terms.parameters and terms.release is None:
        mistakes.append(written.mistake((*path, "parameters"), "parameters belong to a release: give `release`, too", key=True))
    elif release is not None:
        try:
            parameters = settled(release.parameters, {}, terms.parameters) or {}
        except Refused as refusal:
            mistakes.append(written.mistake((*path, "parameters"), refusal.reason, key=True))
    return WantedDeployment(name, selector, priority_of(name, terms), terms, release, parameters)


def _place(
    path: Path, name: str, terms: DeploymentTerms, facts: Sequence[NodeFacts], written: Written, mistakes: list[Mistake]
) -> tuple[Requirement, ...]:
    if name == DEFAULT:
        for key in ("where", "priority"):
            if getattr(terms, key) is not None:
                reason = f"deployment {DEFAULT} matches every node and comes last: leave `{key}` out, or give the deployment another name"
                mistakes.append(written.mistake((*path, key), reason, key=True))
        return ()
    if terms.where is None:
        mistakes.append(written.mistake(path, f"deployment {name} needs `where`, which says for which nodes it decides", key=True))
        return ()
    selector = settings.selector_of(terms.where, (*path, "where"), written, mistakes)
    if selector is not None:
        settings.check_matches(selector, facts, (*path, "where"), written, mistakes, allow_empty=terms.allow_empty)
    return selector or ()


def _release(path: Path, terms: DeploymentTerms, known: ModelFacts, written: Written, mistakes: list[Mistake]) -> ReleaseFacts | None:
    if terms.release is None:
        return None
    if (found := known.releases.get(terms.release)) is not None:
        return found
    close = get_close_matches(terms.release, known.versions, n=1, cutoff=0.4)
    there = ", ".join(list(known.versions)[-5:]) or "none"
    meant = f"did you mean {close[0]}? The newest are {there}" if close else f"the newest are {there}"
    model = known.model.name
    mistakes.append(written.mistake((*path, "release"), f"{model} {terms.release} is not published; {meant}"))
    return None


def _check_terms(
    path: Path,
    terms: DeploymentTerms,
    release: ReleaseFacts | None,
    facts: Sequence[NodeFacts],
    written: Written,
    mistakes: list[Mistake],
) -> None:
    """Check how a deployment's nodes are to get their release."""
    given = [key for key in _TERMS_OF_ROLLOUT if getattr(terms, key) is not None]
    if terms.pin and given:
        reason = f"`pin: true` moves all nodes at once, and `{given[0]}` is for a rollout: leave one of the two out"
        mistakes.append(written.mistake((*path, given[0]), reason, key=True))
    for key in ("activate", "fetch"):
        if (text := getattr(terms, key)) is not None:
            _try(partial(parse_windows, text), (*path, key), written, mistakes)
    if terms.deadline is not None and not _DEADLINE.fullmatch(terms.deadline):
        reason = f"{terms.deadline!r} is no time after the start: write 90m, 36h, 7d or 2w"
        mistakes.append(written.mistake((*path, "deadline"), reason))
    if terms.gate is not None and terms.gate.shadow_ratio_min is not None and release is not None and not release.has_shadow:
        reason = f"{terms.release} is not compared in shadow: publish it with a shadow, or leave this gate out"
        mistakes.append(written.mistake((*path, "gate", "shadow_ratio_min"), reason))
    if terms.stages is None:
        return
    for number, stage in enumerate(terms.stages):
        if stage.where is not None:
            at: Path = (*path, "stages", number, "where")
            selector = settings.selector_of(stage.where, at, written, mistakes)
            if selector is not None:
                settings.check_matches(selector, facts, at, written, mistakes, allow_empty=terms.allow_empty)
    asked = [one.percent if one.percent is not None else NamedStage(name=one.name or "", where=one.where or "") for one in terms.stages]
    waits = [one.percent or one.name or "" for one in terms.stages if one.approve]
    _try(lambda: built(asked, waits), (*path, "stages"), written, mistakes)


def _try(check: Callable[[], object], path: Path, written: Written, mistakes: list[Mistake]) -> None:
    try:
        check()
    except Refused as refusal:
        if refusal.code is not Code.SELECTOR_INVALID:  # Which was found at its own place.
            mistakes.append(written.mistake(path, refusal.reason, key=True))


# Differences


def of_model(asked: Sequence[WantedDeployment], model: Model) -> ModelChange | None:
    """Return the next change of a model; None where it is as the blueprint says."""
    return next(changes_of(asked, model), None)


def changes_of(asked: Sequence[WantedDeployment], model: Model) -> Iterator[ModelChange]:
    """Yield what differs between a model and what the blueprint says of it.

    Deployments that decide earlier come first, and removals last: a node that one deployment gives up has another one by then.
    """
    for one in asked:
        have = model.get(one.name)
        if have is None:
            yield DeploymentAdded(model.name, one.name, text_of(one.selector), one.terms)
        else:
            yield from _of_deployment(one, model.name, have.deployment)
    names = {one.name for one in asked}
    for left in model.deployments:
        if left.name not in names:
            ran = runs(left)
            yield DeploymentRemoved(model.name, left.name, ran.version if ran is not None else None)


def _of_deployment(one: WantedDeployment, model: str, have: Deployment) -> Iterator[ModelChange]:
    before, after = (text_of(tuple(sorted(have.selector))), have.priority), (text_of(one.selector), one.priority)
    if before != after and one.name != DEFAULT:
        yield DeploymentChanged(model, one.name, before, after)
    if one.release is None:
        return
    ran = runs(have)
    if ran is None or ran.digest != one.release.ref.digest:
        went_back = have.state == "rolled_back" and have.release.digest == one.release.ref.digest
        yield ReleaseChanged(model, one.name, ran.version if ran is not None else None, one.release.ref.version, one.terms, went_back)
        return
    now = have.parameters_of(one.release.ref.digest)
    if dict(one.parameters) != now:
        yield ParametersChanged(model, one.name, one.release.ref.version, tuple(sorted(now.items())), tuple(sorted(one.parameters.items())))


Check = Callable[[Model, Model, ModelChange], str]


def difference(asked: Wanted, present: Present, *, now: int, supersede: bool = False, again: bool = False, check: Check) -> Difference:
    """Return what is to be changed. `check` says what else speaks against a change of a model, given it before and after."""
    planned: list[Planned] = []
    if asked.settings is not None:
        planned += [Planned(one) for one in settings.changes(asked.settings, present)]
    before = {name: present.models[name].model for name in asked.models}
    after = dict(before)
    for name, of in asked.models.items():
        allowed = {one.name: one.release for one in of}
        stuck = list[ModelChange]()  # Changes that cannot be tried, with none of what would follow from them.
        for _ in range(STEPS_MAX):
            change = next((one for one in changes_of(of, after[name]) if one not in stuck), None)
            if change is None:
                break
            moved, held = _tried(after[name], change, allowed, asked.facts, now=now, supersede=supersede)
            if held and change in changes_of(of, before[name]):  # What speaks against it now: what is held before it does not happen.
                held = _tried(before[name], change, allowed, asked.facts, now=now, supersede=supersede)[1] or held
            if held and not supersede:  # What would follow is shown all the same.
                moved = _tried(after[name], change, allowed, asked.facts, now=now, supersede=True)[0]
            held = held or check(after[name], moved, change)
            if isinstance(change, ReleaseChanged) and change.again and not again:
                held = held or f"it went back from {change.after}: --again begins it once more, or let the blueprint name what it runs now"
            planned.append(Planned(change, held or ("" if supersede else halted_before(after[name], change))))
            after[name] = moved
            if change in changes_of(of, moved):
                stuck.append(change)
    return Difference(
        tuple(planned), before, after, tuple(_notes(asked, present)), tuple(terms_apart(asked.models, present, name=asked.name))
    )


def halted_before(model: Model, change: ModelChange) -> str:
    """Return that a change would end a halted rollout of another release than it begins; empty where it would not.

    Somebody, or a gate, has halted it, and some of its nodes may run it: what becomes of it is decided first.
    """
    have = model.get(change.deployment)
    if not isinstance(change, ReleaseChanged) or have is None or have.deployment.state != "halted":
        return ""
    resume, back = (model.command(word, change.deployment) for word in ("resume", "back"))
    return (
        f"the rollout of {model.name} {have.deployment.release.version} ({change.deployment}) is halted at {have.deployment.percent} %: "
        f"`{resume}` goes on, `{back}` ends it; "
        f"--supersede begins {change.after} all the same"
    )


def _tried(
    model: Model,
    change: ModelChange,
    allowed: Mapping[str, ReleaseFacts | None],
    facts: Sequence[NodeFacts],
    *,
    now: int,
    supersede: bool,
) -> tuple[Model, str]:
    """Return the model after a change, as the hub would make it, or as it is and why the hub would refuse."""
    command, release = change.command(now=now, breaking=False, supersede=supersede), allowed.get(change.deployment)
    try:
        after = obeyed(model, command, release, facts, now=now)
        codec.encode(after.statement(expires=0))  # Many long texts do not fit the document.
    except Refused as refusal:
        return model, refusal.reason
    return after, ""


def obeyed(model: Model, command: commands.Command, release: ReleaseFacts | None, facts: Sequence[NodeFacts], *, now: int) -> Model:
    """Return a model after a command, as the hub obeys it.

    Raises:
        Refused: the hub would refuse it.
    """
    parameters: Parameters = release.parameters if release is not None else ()
    match command:
        case Start() if release is not None:
            return model.with_rollout(
                deployments.begun(model, command, release.ref, nodes=facts, rollout=bytes(16), now=now, allowed=parameters)
            )
        case SetDeployment():
            ref = release.ref if release is not None and command.release is not None else None
            return model.with_rollout(deployments.pinned(model, command, ref, nodes=facts, rollout=bytes(16), now=now))
        case SetParameters():
            return model.with_rollout(core.set_parameters(deployments.chosen(model, command.deployment), command, allowed=parameters))
        case RemoveDeployment():
            return deployments.removed(model, command, nodes=facts)
        case _:
            return model


@dataclass(frozen=True, slots=True)
class Part:
    """Name what a change is about: a part of a deployment, `model/name`, or a setting of a node."""

    of: str
    name: str


def parts_of(change: Change, asked: Wanted, present: Present) -> set[Part]:
    """Return what a change is about."""
    match change:
        case SettingsChanged():
            after = asked.settings or {}
            pairs = [(name, present.nodes[name].chosen, after[name][0]) for name in change.nodes if name in after and name in present.nodes]
            return {Part(name, key) for name, before, chosen in pairs for key in settings.differing(before, chosen)}
        case DeploymentChanged():
            names = ["place"]
        case ReleaseChanged() | ParametersChanged():
            names = ["release"]
        case DeploymentAdded() | DeploymentRemoved():
            names = ["place", "release"]
    return {Part(f"{change.model}/{change.deployment}", name) for name in names}


def _notes(asked: Wanted, present: Present) -> list[str]:
    """Return what an operator is to know besides the changes."""
    found = []
    left = sorted(name for name, one in present.models.items() if name not in asked.models and one.model.rollouts)
    if left:
        found.append(
            f"the blueprint says nothing of {', '.join(left)}: what is deployed of {'it' if len(left) == 1 else 'them'} is left alone"
        )
    if asked.settings is None and any(one.chosen != Chosen({}, budgets={}) for one in present.nodes.values()):
        found.append("the blueprint has no `nodes`: what the hub sets of nodes is left alone")
    for name, of in asked.models.items():
        for one in of:
            have = present.models[name].model.get(one.name)
            if have is None or one.release is None or have.deployment.release.digest != one.release.ref.digest:
                continue
            if have.deployment.state == "halted":
                resume = present.models[name].model.command("resume", one.name)
                found.append(
                    f"the rollout of {name} {one.release.ref.version} ({one.name}) is halted at {have.deployment.percent} %: "
                    f"`{resume}` goes on, and no apply does"
                )
            elif have.deployment.state == "running":
                found.append(f"the rollout of {name} {one.release.ref.version} ({one.name}) is under way, at {have.deployment.percent} %")
    order = [name for name, of in asked.models.items() if not of]
    found += [f"model {name} has no deployment in the blueprint: no node gets a release of it" for name in order]
    return found

"""Name what an apply changes: a closed union, each with the command that does it and a sentence that an operator reads before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleetcast.counted import counted
from hub.core.blueprint.document import DeploymentTerms
from hub.core.blueprint.reading import Path
from hub.core.nodes.device_settings import SetNodeSettings
from hub.core.rollouts.commands import Command, NamedStage, RemoveDeployment, SetDeployment, SetParameters, Start
from hub.core.rollouts.parameters import in_words
from schemas.deployments import DEFAULT, WHERE_PRIORITY
from schemas.parameters import Value
from schemas.rollout import Carriage
from schemas.windows import parse_windows

NAMES_SHOWN = 3
SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True)
class DeploymentAdded:
    """Make a deployment."""

    model: str
    deployment: str
    where: str
    terms: DeploymentTerms

    @property
    def path(self) -> Path:
        """Return where the blueprint asks for it."""
        return ("models", self.model, "deployments", self.deployment)

    @property
    def sentence(self) -> str:
        """Return what happens."""
        whom = f" for {self.where}" if self.where else ""
        release = self.terms.release or "what its nodes have now"
        return f"make deployment {self.deployment} of {self.model}{whom}, priority {priority_of(self.deployment, self.terms)}: {release}"

    def command(self, *, now: int, breaking: bool, supersede: bool) -> Command:
        """Return what the hub is asked."""
        if self.terms.release is not None and not self.terms.pin:
            started = start(self.deployment, self.terms, now=now, breaking=breaking, supersede=supersede)
            place = {"where": self.where} if self.where else {}
            if self.deployment != DEFAULT and priority_of(self.deployment, self.terms) != WHERE_PRIORITY:
                return started.model_copy(update={**place, "priority": priority_of(self.deployment, self.terms)})
            return started.model_copy(update=place)
        given = {"where": self.where} if self.where else {}
        ordered = {"priority": priority_of(self.deployment, self.terms)} if self.deployment != DEFAULT else {}
        pinned = {"release": self.terms.release} if self.terms.release is not None else {}
        return _set_deployment(self.deployment, breaking, **given, **ordered, **pinned)


@dataclass(frozen=True, slots=True)
class DeploymentChanged:
    """Let a deployment select other nodes, or decide earlier or later."""

    model: str
    deployment: str
    before: tuple[str, int]  # Selector and priority.
    after: tuple[str, int]

    @property
    def path(self) -> Path:
        """Return where the blueprint asks for it."""
        return ("models", self.model, "deployments", self.deployment, "where" if self.before[0] != self.after[0] else "priority")

    @property
    def sentence(self) -> str:
        """Return what happens."""
        found = []
        if self.before[0] != self.after[0]:
            found.append(f"selects {self.after[0] or 'every node'} instead of {self.before[0] or 'every node'}")
        if self.before[1] != self.after[1]:
            found.append(f"has priority {self.after[1]} instead of {self.before[1]}")
        return f"deployment {self.deployment} of {self.model} {', and '.join(found)}"

    def command(self, *, now: int, breaking: bool, supersede: bool) -> Command:
        """Return what the hub is asked."""
        where = {"where": self.after[0]} if self.before[0] != self.after[0] else {}
        priority = {"priority": self.after[1]} if self.before[1] != self.after[1] else {}
        return _set_deployment(self.deployment, breaking, **where, **priority)


@dataclass(frozen=True, slots=True)
class ReleaseChanged:
    """Let a deployment's nodes run another release. `again`: they went back from this very release."""

    model: str
    deployment: str
    before: str | None
    after: str
    terms: DeploymentTerms
    again: bool = False

    @property
    def path(self) -> Path:
        """Return where the blueprint asks for it."""
        return ("models", self.model, "deployments", self.deployment, "release")

    @property
    def sentence(self) -> str:
        """Return what happens."""
        how = "all nodes at once, as a pin" if self.terms.pin else f"stages {_stages_in_words(self.terms)}"
        went = ", from which it went back" if self.again else ""
        return f"deployment {self.deployment} of {self.model} runs {self.after}{went}, instead of {self.before or 'no release'} ({how})"

    def command(self, *, now: int, breaking: bool, supersede: bool) -> Command:
        """Return what the hub is asked."""
        if self.terms.pin:
            insisting = {"supersede": True} if supersede else {}
            return _set_deployment(self.deployment, breaking, release=self.after, **insisting)
        return start(self.deployment, self.terms, now=now, breaking=breaking, supersede=supersede)


@dataclass(frozen=True, slots=True)
class ParametersChanged:
    """Set parameters of a release, or make them its own again; no node moves."""

    model: str
    deployment: str
    version: str
    before: tuple[tuple[str, Value], ...]
    after: tuple[tuple[str, Value], ...]

    @property
    def path(self) -> Path:
        """Return where the blueprint asks for it."""
        return ("models", self.model, "deployments", self.deployment, "parameters")

    @property
    def sentence(self) -> str:
        """Return what happens."""
        return (
            f"deployment {self.deployment} of {self.model} has {_values_in_words(self.after)} set of {self.version}, "
            f"instead of {_values_in_words(self.before)}"
        )

    def command(self, *, now: int, breaking: bool, supersede: bool) -> Command:
        """Return what the hub is asked."""
        after = dict(self.after)
        unset = tuple(name for name, _ in self.before if name not in after)
        return SetParameters(version=self.version, deployment=self.deployment, parameters=after, unset=unset)


@dataclass(frozen=True, slots=True)
class DeploymentRemoved:
    """Remove a deployment that the blueprint does not have."""

    model: str
    deployment: str
    release: str | None

    @property
    def path(self) -> Path:
        """Return where the blueprint should have it."""
        return ("models", self.model, "deployments")

    @property
    def sentence(self) -> str:
        """Return what happens."""
        return f"remove deployment {self.deployment} of {self.model}, which runs {self.release or 'no release'}"

    def command(self, *, now: int, breaking: bool, supersede: bool) -> Command:
        """Return what the hub is asked."""
        insisting = {name: True for name, is_given in (("breaking", breaking), ("supersede", supersede)) if is_given}
        return RemoveDeployment.model_validate({"name": self.deployment, **insisting})


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Change what the hub sets of these nodes, for all in the same way."""

    nodes: tuple[str, ...]
    wish: SetNodeSettings
    words: str
    at: Path = ("nodes",)

    @property
    def path(self) -> Path:
        """Return where the blueprint asks for it."""
        return self.at

    @property
    def sentence(self) -> str:
        """Return what happens."""
        names = ", ".join(self.nodes[:NAMES_SHOWN])
        who = f"{names} and {len(self.nodes) - NAMES_SHOWN} more" if len(self.nodes) > NAMES_SHOWN else names
        return f"settings of {counted(len(self.nodes), 'node')} ({who}): {self.words}"


ModelChange = DeploymentAdded | DeploymentChanged | ReleaseChanged | ParametersChanged | DeploymentRemoved
Change = SettingsChanged | ModelChange
Kind = Literal["add_deployment", "change_deployment", "change_release", "change_parameters", "remove_deployment", "change_settings"]
KINDS: Mapping[type[Change], Kind] = {
    DeploymentAdded: "add_deployment",
    DeploymentChanged: "change_deployment",
    ReleaseChanged: "change_release",
    ParametersChanged: "change_parameters",
    DeploymentRemoved: "remove_deployment",
    SettingsChanged: "change_settings",
}


def priority_of(name: str, terms: DeploymentTerms) -> int:
    """Return the priority that a deployment is to have."""
    if name == DEFAULT:
        return 0
    return WHERE_PRIORITY if terms.priority is None else terms.priority


def start(name: str, terms: DeploymentTerms, *, now: int, breaking: bool, supersede: bool) -> Start:
    """Return the start of a rollout on the terms of a deployment."""
    fields: dict[str, object] = {"version": terms.release, "deployment": name, "allow_empty": True}
    if terms.stages is not None:
        fields["stages"] = tuple(
            one.percent if one.percent is not None else NamedStage(name=one.name or "", where=one.where or "") for one in terms.stages
        )
        fields["approve"] = tuple(one.percent or one.name for one in terms.stages if one.approve)
    if terms.gate is not None:
        fields["gate"] = terms.gate
    if terms.carriage is not None or terms.fetch is not None:
        fields["carriage"] = carriage(terms)
    if terms.activate is not None:
        fields["activate"] = parse_windows(terms.activate)
    if terms.deadline is not None:
        fields["deadline"] = now + seconds_of(terms.deadline)
    if terms.parameters:
        fields["parameters"] = terms.parameters
    if breaking:
        fields["breaking"] = True
    if supersede:
        fields["supersede"] = True
    return Start.model_validate(fields)


def carriage(terms: DeploymentTerms) -> Carriage:
    """Return how a rollout's bytes are to travel."""
    said = terms.carriage.model_dump(exclude_none=True) if terms.carriage is not None else {}
    return Carriage.model_validate({**said, **({"fetch": parse_windows(terms.fetch)} if terms.fetch is not None else {})})


def seconds_of(deadline: str) -> int:
    """Return a duration such as `36h`, which `resolve` has checked."""
    return int(deadline[:-1]) * SECONDS[deadline[-1]]


def _set_deployment(name: str, breaking: bool, **fields: str | int) -> SetDeployment:
    return SetDeployment.model_validate({"name": name, "allow_empty": True, **fields, **_breaking(breaking)})


def _breaking(breaking: bool) -> dict[str, bool]:
    return {"breaking": True} if breaking else {}


def _stages_in_words(terms: DeploymentTerms) -> str:
    if terms.stages is None:
        return "100 %"
    return ", ".join(f"{one.percent} %" if one.percent is not None else f"{one.name}" for one in terms.stages)


def _values_in_words(values: Sequence[tuple[str, Value]]) -> str:
    return ", ".join(in_words(name, value) for name, value in values) or "nothing"

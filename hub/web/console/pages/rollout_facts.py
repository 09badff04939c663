"""Read what pages and questions say of a rollout: its stages, gates and nodes, what it waits for, and how near it is to a halt."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from typing import Final

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts import deployments, gates
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.gates import Verdict
from hub.core.rollouts.moves import is_where_it_was
from hub.core.rollouts.node_class import CLASSES, ClassName
from hub.core.rollouts.rollout import DEAF_BEGINS
from hub.core.rollouts.stage_order import stages_of
from hub.core.rollouts.stages import words_of
from hub.database.rows import RolloutRow
from hub.operations.deployed import model_of
from hub.operations.node_classes import NodeLine
from hub.web.console.moments import counted, lasting
from hub.web.console.page import View
from hub.web.console.sentence import path
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.rollout import Gate

FAILED: Final = ("refused", "rolled_back")
MODELS_SECONDS: Final = 0.5


@dataclass(frozen=True)
class RolloutFacts:
    """Hold a rollout, with a line for each node that its deployment decides for."""

    model: Model
    deployment: Deployment
    kept: RolloutRow | None
    lines: Sequence[NodeLine]

    @property
    def name(self) -> str:
        """Return what it is called: the model, and its deployment where it is not the default one."""
        return self.model.name if self.deployment.name == "default" else f"{self.model.name} ({self.deployment.name})"

    @property
    def title(self) -> str:
        """Return the model and the version."""
        return f"{self.model.name} {self.deployment.release.version}"

    @property
    def href(self) -> str:
        """Return the address of its page."""
        return path("models", self.model.name, "deployments", self.deployment.name, "rollouts")

    @property
    def gate(self) -> Gate:
        """Return its gate."""
        return self.deployment.gate or Gate()

    @cached_property
    def counts(self) -> Mapping[ClassName, int]:
        """Return how many nodes are in each class."""
        found = Counter(line.found.name for line in self.lines)
        return {name: found[name] for name in CLASSES}

    @cached_property
    def serving(self) -> Sequence[NodeLine]:
        """Return the nodes that serve its release by receipt."""
        digest = self.deployment.release.digest
        return [line for line in self.lines if (now := line.node.serving.get(self.model.name)) is not None and now.digest == digest]

    @cached_property
    def failed(self) -> Sequence[NodeLine]:
        """Return the nodes that failed, the newest first."""
        found = [line for line in self.lines if line.found.name in FAILED]
        return sorted(found, key=lambda line: (-(line.since or 0), line.node.name))

    @cached_property
    def stage_of(self) -> Mapping[str, int]:
        """Return which stage reaches each node."""
        return stages_of(self.deployment, [line.node.facts for line in self.lines])

    @cached_property
    def of_stage(self) -> Sequence[Sequence[NodeLine]]:
        """Return the nodes of each stage."""
        found: list[list[NodeLine]] = [[] for _ in self.deployment.stages]
        for line in self.lines:
            found[self.stage_of[line.node.name]].append(line)
        return found

    @cached_property
    def verdicts(self) -> Sequence[Verdict]:
        """Return what its gates say; none where it has gone back, or the hub has not looked yet."""
        if self.kept is None or self.deployment.state == "rolled_back" or not deployments.is_of(self.kept.document, self.deployment):
            return ()
        return gates.from_json(self.kept.gates)

    @property
    def holding(self) -> Verdict | None:
        """Return the gate that holds it up: one that fails before one that waits."""
        failing = next((one for one in self.verdicts if one.outcome == "fails"), None)
        return failing or next((one for one in self.verdicts if one.holds_up), None)

    @property
    def stage(self) -> str:
        """Return which stage is on."""
        return f"stage {self.deployment.stage + 1} of {len(self.deployment.stages)}"

    @property
    def began(self) -> int:
        """Return when the rollout began."""
        return self.deployment.started

    @property
    def waits_for_approval(self) -> bool:
        """Return whether nothing but an approval is missing."""
        holding = self.holding
        return self.deployment.state == "running" and holding is not None and holding.name == "approval"

    @property
    def may_approve(self) -> bool:
        """Return whether the next stage needs an approval that is not there."""
        following = self.deployment.stages[self.deployment.stage + 1 :]
        return self.deployment.state in {"running", "halted"} and bool(following) and bool(following[0].approve)

    @property
    def waits(self) -> str:
        """Return what it waits for, as its heading has it."""
        match self.deployment.state:
            case "done":
                return f"is done: {len(self.serving)} of {number_of(len(self.lines), 'node')} {verb(len(self.serving), 'serve')} it"
            case "halted":
                return f"is halted: {self.reason}" if self.reason else "is halted"
            case "rolled_back":
                left = 0 if is_where_it_was(self.deployment) else len(self.serving)
                return f"goes back: {number_of(left, 'node')} {verb(left, 'serve')} it still" if left else "was taken back"
            case _:
                return f"{self.stage} {self._held()}"

    def _held(self) -> str:
        holding = self.holding
        if self.reason.startswith(DEAF_BEGINS):  # What the gates said before is no news then.
            return self.reason
        if holding is None:
            return "holds in all its gates" if self.verdicts else "has just begun"
        if holding.outcome == "fails":
            return f"fails: {holding.sentence}"
        return f"waits for {words_of_gate(holding, self)}"

    @property
    def reason(self) -> str:
        """Return the hub's own sentence about it."""
        return self.kept.reason if self.kept is not None else ""

    @property
    def danger(self) -> str:
        """Return how near the gate of failures is; "" where it is far."""
        if self.kept is None or self.deployment.state != "running":
            return ""
        most, failed, heard = self.gate.failures_ratio_max, self.kept.failed, self.kept.heard
        if not failed or failed > most * heard:
            return ""
        allowed = floor(most * heard + 1e-9)
        return f"failures {failed} of at most {allowed}: one more halts it" if failed + 1 > allowed else ""


def words_of_gate(verdict: Verdict, facts: RolloutFacts) -> str:
    """Return what a gate waits for, with its figure and its limit."""
    heard = facts.kept.heard if facts.kept is not None else 0
    match verdict.name:
        case "receipts" if verdict.figure is not None and verdict.limit is not None:
            return f"receipts, {round(verdict.figure * heard)} of {ceil(verdict.limit * heard - 1e-9)} needed"
        case "soak" if verdict.figure is not None and verdict.limit is not None:
            return f"its soak, {lasting(verdict.figure)} of {lasting(verdict.limit)}"
        case "sample" if verdict.figure is not None and verdict.limit is not None:
            return f"nodes, {round(verdict.figure)} of {round(verdict.limit)} needed"
        case "drift_tests" if verdict.figure is not None and verdict.limit is not None:
            return f"drift tests, {round(verdict.figure)} of {round(verdict.limit)} needed"
        case "approval":
            return "approval: " + verdict.sentence
        case _:
            return f"{verdict.name.replace('_', ' ')}: {verdict.sentence}"


@dataclass(frozen=True, slots=True)
class GateLine:
    """Hold one gate as its row has it. `share` and `mark` are the bar and the tick, as parts of its width."""

    name: str
    figure: str
    limit: str
    outcome: str
    sentence: str
    tone: str = ""
    note: str = ""
    share: float | None = None
    mark: float | None = None
    fill: str = "a-cur"


NAMES: Final = {"latency": "latency, against before", "shadow": "agreement, shadow", "drift_tests": "drift tests", "sample": "nodes"}
_RATIOS: Final = frozenset({"receipts", "failures", "shadow"})
_LEAST: Final = frozenset({"receipts", "shadow", "sample", "drift_tests", "soak"})


def gate_line(verdict: Verdict, facts: RolloutFacts) -> GateLine:
    """Return a gate's row: its figure, its limit, and what it says."""
    danger = facts.danger if verdict.name == "failures" else ""
    tone = {"fails": "bad", "holds": "warn" if danger else "", "waits": "", "cannot be judged": "soft"}[verdict.outcome]
    sentence = verdict.sentence if verdict.sentence != verdict.outcome else ""
    figure, limit, share, mark = _figures(verdict, facts)
    fill = "a-bad" if verdict.outcome == "fails" else "a-warn" if danger else "a-cur"
    note = "one more halts it" if danger else ""
    return GateLine(
        NAMES.get(verdict.name, verdict.name), figure, limit, verdict.outcome, sentence, tone, note=note, share=share, mark=mark, fill=fill
    )


def _figures(verdict: Verdict, facts: RolloutFacts) -> tuple[str, str, float | None, float | None]:
    value, limit, heard = verdict.figure, verdict.limit, facts.kept.heard if facts.kept is not None else 0
    if verdict.name == "drift":
        return ("none" if verdict.outcome == "holds" else "drifts" if verdict.outcome == "fails" else ""), "no new drift", None, None
    if limit is None:
        return "", "", None, None
    least = verdict.name in _LEAST
    bound = "at least" if least else "at most"
    if verdict.name in {"receipts", "failures"} and heard:
        whole = ceil(limit * heard - 1e-9) if least else floor(limit * heard + 1e-9)
        now = round((value or 0.0) * heard)
        most = max(heard if least else 2 * whole, now, 1)
        return counted(now), f"{bound} {counted(whole)}", now / most, whole / most
    if verdict.name == "soak":
        return lasting(value or 0), f"{bound} {lasting(limit)}", (value or 0) / limit if limit else 1.0, 1.0
    shown = (
        ""
        if value is None
        else f"{value:.0%}"
        if verdict.name in _RATIOS
        else f"{value:.2f} times"
        if verdict.name == "latency"
        else f"{value:g}"
    )
    wanted = f"{limit:.0%}" if verdict.name in _RATIOS else f"{limit:g} times" if verdict.name == "latency" else f"{limit:g}"
    full = max(1.25 * limit, value or 0.0, 1e-9)
    return shown, f"{bound} {wanted}", None if value is None else value / full, limit / full


def models_of(view: View) -> Sequence[tuple[Model, Mapping[str, RolloutRow]]]:
    """Return every model with the working state of its rollouts; read once for all viewers."""

    def read() -> list[tuple[Model, Mapping[str, RolloutRow]]]:
        rows = view.fleet.store.rollout_rows()
        names = view.fleet.repository.models()
        return [(model_of(view.fleet.repository, name), {row.deployment: row for row in rows if row.model == name}) for name in names]

    return view.shared.get(("models",), read, seconds=MODELS_SECONDS)


def rollouts_of(view: View, model: str | None = None) -> list[RolloutFacts]:
    """Return the rollouts of one model or of all, in the order in which they decide."""
    by_place: dict[tuple[str, str], list[NodeLine]] = {}
    for line in view.snapshot.lines:
        by_place.setdefault((line.model, line.deployment), []).append(line)
    found = []
    for one, kept in models_of(view):
        if model in {None, one.name}:
            found += [RolloutFacts(one, each, kept.get(each.name), by_place.get((one.name, each.name), ())) for each in one.deployments]
    return found


def rollout_of(view: View, model: str, deployment: str) -> RolloutFacts:
    """Return the rollout of a deployment.

    Raises:
        Refused: REQUEST_UNKNOWN: there is no such deployment.
    """
    for one in rollouts_of(view, model):
        if one.deployment.name == deployment:
            return one
    raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment[:64]} of {model[:64]}")


def stage_words(facts: RolloutFacts, at: int) -> str:
    """Return whom a stage adds."""
    return words_of(facts.deployment.stages[at])

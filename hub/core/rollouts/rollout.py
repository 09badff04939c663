"""Decides when a deployment's rollout goes on, halts, or is done. Knows facts about nodes, and neither keys, topics nor clocks.

A stage reaches a share of the nodes for which the deployment decides, by their position in the rollout's order, or those that a selector
names. A share is a count: 25 % of 4 nodes is one. The threshold that reaches so many is set when the stage begins, and never falls. Its
gate looks at the nodes that were *heard from*; the silent ones are a class of their own, that neither helps nor harms. In this order:

1. drift that speaks against the new release (hub/core/rollouts/active_alarms.py), or more failures than the gate allows: halted;
2. the hub does not listen (hub/core/rollouts/listening.py): waits, and the soak time does not pass;
3. no node is known for which the deployment decides: waits for one to appear;
4. nodes are known, but the stage reaches none of them: it is passed over, for nothing can be learned from it;
5. all nodes of the stage are silent: waits, for an empty site proves nothing;
6. too few receipts: waits; a node that goes silent meanwhile leaves the reckoning after `gate.silent_seconds`;
7. too few intervals of it were tested for drift, where the gate asks for any: waits, and says when there are too few nodes for a test;
8. the gate has held for `gate.soak_seconds` of listening: the next stage, if nobody has to approve it, and after the last one the rollout
   is done.

No alarm is not "no drift": where drift cannot be judged, or was not yet, the reason says so (hub/core/rollouts/gate_summary.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from hub.core.rollouts.commands import SetParameters, Start
from hub.core.rollouts.gate_summary import Judged
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.parameters import settled
from hub.core.rollouts.tally import NodeReport, Tally, tally
from schemas.deployments import DEFAULT, Deployment, ReleaseParameters, RolloutState, Stage, threshold_of
from schemas.errors import Code, Refused, mismatch
from schemas.limits import RELEASES_WITH_PARAMETERS_MAX
from schemas.parameters import Parameters, Value
from schemas.rollout import Gate, ReleaseRef
from schemas.selectors import NodeFacts, Requirement

__all__ = ["DEAF", "Facts", "NodeReport", "Progress", "Tally"]
DEAF = "waits: the hub does not hear its nodes now; it is not connected to the broker, or reads what came while it was not"
ATTEMPTS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a gate looks at; `nodes` are those for which the deployment decides (hub/core/rollouts/tally.py).

    `drift_alarm` says which drift speaks against the new release (hub/core/rollouts/active_alarms.py). `drift` is what is known of it where
    none does; None where nobody asks.
    """

    nodes: Sequence[NodeReport]
    drift_alarm: str = ""
    drift: Judged | None = None
    listening: bool = True  # Whether the hub hears its nodes at this moment.


@dataclass(frozen=True, slots=True)
class Progress:
    """Hold a model's deployment with the controller's working state of its rollout.

    `judged_from`: failures and alarms from before do not count; an operator who resumes has seen them. `held_since` is by the clock of
    listening, the other times are by the wall's.
    """

    model: str
    deployment: Deployment
    stage_entered_at: int
    judged_from: int
    held_since: Listened | None = None
    reason: str = ""
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        return self.deployment.name

    @property
    def gate(self) -> Gate:
        """Return what must hold before the next stage."""
        return self.deployment.gate or Gate()

    @property
    def title(self) -> str:
        """Return `rollout of delay 1.1.0`, with the deployment where it is another than the default one."""
        of = f" (deployment {self.name})" if self.name != DEFAULT else ""
        return f"rollout of {self.model} {self.deployment.release.version}{of}"


@dataclass(frozen=True, slots=True)
class Announce:
    """Report that the deployment has changed: sign and announce it; `text` says what happened."""

    text: str


@dataclass(frozen=True, slots=True)
class Halted:
    """Report that the rollout has halted by itself: somebody should look."""

    text: str


Action = Announce | Halted


@dataclass(frozen=True, slots=True)
class Place:
    """Describe the deployment in which a rollout begins: `before` is what it says now, None for a new one.

    `fallback` is the release that a new deployment's nodes have by the one that decided for them until now, and `parameters` what is set of
    it there.
    """

    name: str
    selector: tuple[Requirement, ...] = ()
    priority: int = 0
    before: Deployment | None = None
    fallback: ReleaseRef | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)


def begin(
    model: str,
    wish: Start,
    release: ReleaseRef,
    *,
    place: Place,
    nodes: Sequence[NodeFacts],
    rollout: bytes,
    now: int,
    allowed: Parameters = (),
) -> Progress:
    """Begin a rollout of a deployment that decides for these nodes, known by the random `rollout`; it supersedes the one before.

    `allowed` are the release's parameters; what was set of other releases stays with those.

    Raises:
        Refused: the stages do not rise to 100 %, or a parameter is unknown or out of bounds.
    """
    if list(wish.stages) != sorted(set(wish.stages)) or wish.stages[-1] != 100:
        raise Refused(Code.ROLLOUT_INVALID, f"stages must rise and end at 100, not {', '.join(map(str, wish.stages))}")
    if strange := sorted(set(wish.approve) - set(wish.stages[1:])):
        raise Refused(Code.ROLLOUT_INVALID, f"stages that wait for approval must be among those after the first, not {strange[0]} %")
    rows = _rows_after(place, release, settled(allowed, {}, wish.parameters or {}))
    deployment = Deployment(
        name=place.name,
        priority=place.priority,
        selector=place.selector,
        release=release,
        fallback=settled_release(place.before) if place.before is not None else place.fallback,
        state="running",
        rollout=rollout,
        stages=tuple(Stage(percent, approve=True if percent in wish.approve else None) for percent in wish.stages),
        threshold=threshold_of(rollout, wish.stages[0], [node.node for node in nodes]),
        gate=wish.gate if wish.gate != Gate() else None,
        carriage=wish.carriage,
        parameters=rows,
        started=now,
    )
    return Progress(model, deployment, stage_entered_at=now, judged_from=now, reason="has just begun")


def settled_release(deployment: Deployment) -> ReleaseRef | None:
    """Return the release of a deployment's last rollout that was done: what its nodes have, or go back to."""
    return deployment.release if deployment.state == "done" else deployment.fallback


def _rows_after(place: Place, release: ReleaseRef, values: Mapping[str, Value] | None) -> tuple[ReleaseParameters, ...] | None:
    """Return what is set of releases after a rollout of this one began: the newest first, for nodes go back to few."""
    kept = list(place.before.parameters or ()) if place.before is not None else []
    if place.before is None and place.fallback is not None and place.parameters:
        kept.append(ReleaseParameters(place.fallback.digest, dict(place.parameters)))
    return with_parameters(kept, release, values)


def with_parameters(
    rows: Sequence[ReleaseParameters] | None, release: ReleaseRef, values: Mapping[str, Value] | None
) -> tuple[ReleaseParameters, ...] | None:
    """Return the rows of a deployment in which these values are set of a release."""
    others = [one for one in rows or () if one.release != release.digest]
    mine = [ReleaseParameters(release.digest, dict(values))] if values else []
    return tuple([*mine, *others][:RELEASES_WITH_PARAMETERS_MAX]) or None


def halt(progress: Progress) -> Progress:
    """Stop moving nodes, on an operator's word.

    Raises:
        Refused: it is not running.
    """
    _must_be(progress, ("running",), "halted")
    return _changed(replace(progress, reason="halted by an operator"), state="halted")


def resume(progress: Progress, *, now: int) -> Progress:
    """Go on with the present stage; what failed before is not held against it again.

    Raises:
        Refused: it is not halted.
    """
    _must_be(progress, ("halted",), "resumed")
    fresh = replace(progress, stage_entered_at=now, judged_from=now, held_since=None, reason="resumed by an operator")
    return _changed(fresh, state="running")


def roll_back(progress: Progress) -> Progress:
    """Send each node that it has moved back to what the node served before; one that served nothing serves nothing again.

    Raises:
        Refused: it is rolled back already.
    """
    _must_be(progress, ("running", "halted", "done"), "rolled back")
    fallback = progress.deployment.fallback
    where = f"to {fallback.version}" if fallback is not None else "to no release, for it is the first of its nodes"
    return _changed(replace(progress, held_since=None, reason=f"rolled back {where} by an operator"), state="rolled_back")


def approve(progress: Progress) -> Progress:
    """Let the next stage begin when its turn has come.

    Raises:
        Refused: the rollout does not run, or no approval is missing.
    """
    _must_be(progress, ("running", "halted"), "approved")
    deployment = progress.deployment
    number = deployment.stage + 1
    if number >= len(deployment.stages) or not deployment.stages[number].approve:
        what = f"stage {number + 1}" if number < len(deployment.stages) else "the last stage, which has begun,"
        raise Refused(Code.ROLLOUT_INVALID, f"{what} of the {progress.title} waits for no approval")
    stages = list(deployment.stages)
    stages[number] = stages[number]._replace(approve=False)
    return _changed(replace(progress, reason=f"has stage {number + 1} approved by an operator"), stages=tuple(stages))


def retry(progress: Progress, *, now: int) -> Progress:
    """Let the nodes that failed try once more; what failed before is not held against the rollout again.

    Raises:
        Refused: it was rolled back, or has been retried as often as can be.
    """
    _must_be(progress, ("running", "halted", "done"), "retried")
    attempt = (progress.deployment.attempt or 0) + 1
    if attempt > ATTEMPTS_MAX:
        raise Refused(Code.ROLLOUT_INVALID, f"the {progress.title} was retried {ATTEMPTS_MAX} times: begin it anew")
    fresh = replace(progress, judged_from=now, held_since=None, reason=f"begins attempt {attempt + 1}, asked for by an operator")
    return _changed(fresh, attempt=attempt)


@dataclass(frozen=True, slots=True)
class InForce:
    """Name a release that nodes are to serve, and what is set of its parameters."""

    release: ReleaseRef
    parameters: Mapping[str, Value]


def in_force(deployment: Deployment) -> tuple[InForce, ...]:
    """Return the release whose parameters `set` changes: the new one, or after going back the one that is served again, if any."""
    release = deployment.fallback if deployment.state == "rolled_back" else deployment.release
    return () if release is None else (InForce(release, deployment.parameters_of(release.digest)),)


def in_force_of(progress: Progress, version: str) -> InForce:
    """Return what is in force of a release by its version.

    Raises:
        Refused: the deployment has no such release in force.
    """
    found = in_force(progress.deployment)
    for one in found:
        if one.release.version == version:
            return one
    versions = ", ".join(one.release.version for one in found) or "none"
    raise mismatch(Code.ROLLOUT_INVALID, f"release of {progress.model} in force", expected=version, actual=versions)


def set_parameters(progress: Progress, wish: SetParameters, *, allowed: Parameters) -> Progress:
    """Change what is in force of the release, and nothing else: stage, order and state stay, so no node moves.

    Raises:
        Refused: the rollout is of another release than the wish, or a parameter is unknown or out of bounds.
    """
    found = in_force_of(progress, wish.version)
    after = settled(allowed, found.parameters, wish.parameters, wish.unset)
    if (after or {}) == found.parameters:
        return progress
    return _changed(progress, parameters=with_parameters(progress.deployment.parameters, found.release, after))


def _must_be(progress: Progress, states: Sequence[RolloutState], done: str) -> None:
    state = progress.deployment.state
    if state not in states:
        of = f" (deployment {progress.name})" if progress.name != DEFAULT else ""
        only = f"only one that is {' or '.join(states)} can be {done}"
        raise Refused(Code.ROLLOUT_INVALID, f"the rollout of {progress.model}{of} is {state}; {only}")


def step(progress: Progress, facts: Facts, *, now: int, listened: Listened) -> tuple[Progress, tuple[Action, ...]]:
    """Look at the gate once; `listened` is how long the hub has listened in all (hub/core/rollouts/listening.py)."""
    progress = replace(progress, tally=tally(progress.deployment, facts.nodes, judged_from=progress.judged_from))
    if progress.deployment.state != "running":
        return progress, ()
    problem = _problem(progress, facts)
    if problem:
        stopped = _changed(replace(progress, held_since=None, reason=problem), state="halted")
        text = f"{progress.title} halted at {progress.deployment.percent} %: {problem}"
        return stopped, (Announce(text), Halted(text))
    if not facts.listening:
        return replace(progress, reason=DEAF), ()
    waiting = _waiting(progress, facts)
    if waiting:
        return replace(progress, held_since=None, reason=waiting), ()
    held_since = progress.held_since if progress.held_since is not None else listened
    left = ceil(held_since + progress.gate.soak_seconds - listened)
    if left > 0 and progress.tally.addressed:
        return replace(progress, held_since=held_since, reason=f"the gate holds; it must for {left} s more{_of_drift(facts)}"), ()
    return _advance(replace(progress, held_since=held_since), facts, now)


def _problem(progress: Progress, facts: Facts) -> str:
    counted, most = progress.tally, progress.gate.failures_ratio_max
    if facts.drift_alarm and progress.gate.halt_on_drift:
        return facts.drift_alarm
    if counted.failed and counted.failed > most * counted.heard:
        return f"{counted.failed} of {counted.heard} nodes refused it or rolled back, at most {most:.0%} may"
    return ""


def _waiting(progress: Progress, facts: Facts) -> str:
    counted, gate = progress.tally, progress.gate
    if not facts.nodes:
        return "waits: no node is known for which this deployment decides"
    if counted.addressed and not counted.heard:
        return f"waits: all {counted.addressed} nodes of the stage are silent"
    if counted.serving < gate.receipts_ratio_min * counted.heard:
        needed = f"{gate.receipts_ratio_min:.0%} must"
        silent = f"; {counted.silent} more are silent" if counted.silent else ""
        return f"waits: {counted.serving} of {counted.heard} nodes heard from serve it, {needed}{silent}"
    tests_min = gate.drift_tests_min or 0
    if counted.addressed and facts.drift is not None and facts.drift.tests < tests_min:
        return f"waits: {facts.drift.tests} of {tests_min} intervals that the gate asks for were tested{_of_drift(facts)}"
    return ""


def _of_drift(facts: Facts) -> str:
    return f"; {facts.drift.text}" if facts.drift is not None and facts.drift.text else ""


def _advance(progress: Progress, facts: Facts, now: int) -> tuple[Progress, tuple[Action, ...]]:
    deployment, counted = progress.deployment, progress.tally
    proof = "the stage reaches no node"
    if counted.addressed:
        proof = f"{counted.serving} of {counted.heard} nodes heard from serve it{_of_drift(facts)}"
    number = deployment.stage + 1
    if number == len(deployment.stages):
        done = _changed(replace(progress, held_since=None, reason=proof), state="done")
        return done, (Announce(f"{progress.title} is done: {proof}"),)
    following = deployment.stages[number]
    if following.approve:
        return replace(progress, reason=f"waits: stage {number + 1} ({_words(following)}) needs approval; {proof}"), ()
    moved = _changed(progress, stage=number)
    names = [node.node for node in facts.nodes]
    reached = threshold_of(deployment.rollout, moved.deployment.percent, names)
    moved = _changed(moved, threshold=max(deployment.threshold, reached))
    text = f"{progress.title} goes from {deployment.percent} % to {_words(following)}: {proof}"
    return replace(moved, stage_entered_at=now, held_since=None, reason="the stage has just begun"), (Announce(text),)


def _words(stage: Stage) -> str:
    return f"{stage.percent} %" if stage.percent is not None else f"nodes of {stage.name or 'its selector'}"


def _changed(progress: Progress, **changes: object) -> Progress:
    return replace(progress, deployment=progress.deployment.model_copy(update=changes))

"""Decides when a deployment's rollout goes on, halts, or is done. Knows facts about nodes, and neither keys, topics nor clocks.

A stage reaches a share of the nodes for which the deployment decides, by their position in the rollout's order, or those that a selector
names. A share is a count: 25 % of 4 nodes is one. The threshold that reaches so many is set when the stage begins, and never falls. Its
gate looks at the nodes that were *heard from*; the silent ones are a class of their own, that neither helps nor harms. In this order:

1. a gate fails (hub/core/rollouts/gates.py): drift that speaks against the new release (hub/core/rollouts/active_alarms.py), more failures
   than may be of nodes that have no attempt left, latency, or disagreement in shadow: halted;
2. the hub does not listen (hub/core/rollouts/listening.py): waits, and the soak time does not pass;
3. the deadline has passed: the rollout is done for the nodes that serve the release; the others have expired, and stay on what they serve;
4. no node is known for which the deployment decides: waits for one to appear;
5. nodes are known, but the stage reaches none of them: it is passed over, for nothing can be learned from it;
6. all nodes of the stage are silent: waits, for an empty site proves nothing;
7. too few receipts: waits; a node that goes quiet meanwhile counts as one that does not serve it, and leaves the reckoning after
   `gate.silent_seconds`;
8. another gate waits: for more nodes, or for intervals tested for drift, and says when there are too few nodes for a test;
9. the gates have held for `gate.soak_seconds` of listening: the next stage, if nobody has to approve it, and after the last one the
   rollout is done.

Beside this, failed nodes try again after a pause, each as often as `gate.retries` says. A node that has used up its tries counts as failed,
and takes none from the others.

No alarm is not "no drift": where drift cannot be judged, or was not yet, the reason says so (hub/core/rollouts/gate_summary.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts import gates
from hub.core.rollouts.commands import SetParameters, Start
from hub.core.rollouts.gates import Facts, Retries, Verdict
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.parameters import settled
from hub.core.rollouts.stages import built, words_of
from hub.core.rollouts.tally import NodeReport, Tally, tally
from hub.core.rollouts.terms import check_times
from schemas.deployments import DEFAULT, Deployment, ReleaseParameters, RolloutState, is_past_deadline, threshold_of
from schemas.errors import Code, Refused, mismatch
from schemas.limits import RELEASES_WITH_PARAMETERS_MAX
from schemas.parameters import Parameters, Value
from schemas.rollout import Gate, ReleaseRef
from schemas.selectors import NodeFacts, Requirement

__all__ = ["DEAF", "DEAF_BEGINS", "Facts", "NodeReport", "Progress", "Tally"]
DEAF_BEGINS = "waits: the hub does not hear its nodes now"
DEAF = f"{DEAF_BEGINS}; it is not connected to the broker, or reads what came while it was not"
OPERATOR = "an operator"  # Who asked for it, where a command of an earlier version does not say so.
LATE, PINNED = "the deadline has passed", "is pinned by"  # How the reasons begin of rollouts that ended so.
ATTEMPTS_MAX = 1000
RETRY_SECONDS = 600  # Pause before failed nodes try again by themselves, where the gate says nothing else.


@dataclass(frozen=True, slots=True)
class Progress:
    """Hold a model's deployment with the controller's working state of its rollout.

    `judged_from`: failures and alarms from before do not count: an operator who resumes has seen them, and nodes that try again by
    themselves are given the time. `tries_from`: tries from before do not count, for an operator has asked anew. `held_since` is by the
    clock of listening, the other times are by the wall's. So is `retry_since`, when the pause before the next attempt began; it is not kept
    over a restart of the hub, which only makes the pause longer.
    """

    model: str
    deployment: Deployment
    stage_entered_at: int
    judged_from: int
    held_since: Listened | None = None
    reason: str = ""
    tally: Tally = field(default_factory=Tally)
    verdicts: tuple[Verdict, ...] = ()
    retry_since: Listened | None = None
    tries_from: int = 0
    actor: str = ""  # Name of the operator who last acted on the rollout; empty where a hub of an earlier version kept it.

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
        Refused: the stages do not rise to 100 %, the deadline has passed, or a parameter is unknown or out of bounds.
    """
    stages = built(wish.stages, wish.approve)
    check_times(activate=wish.activate, deadline=wish.deadline, now=now, fetch=wish.carriage.fetch if wish.carriage else None)
    if wish.gate.latency_ratio_max is not None and place.before is None and place.fallback is None:
        text = "no release was rolled out to these nodes before, so there is no latency to compare with: leave the gate on latency out"
        raise Refused(Code.ROLLOUT_INVALID, text)
    rows = _rows_after(place, release, settled(allowed, {}, wish.parameters or {}))
    deployment = Deployment(
        name=place.name,
        priority=place.priority,
        selector=place.selector,
        release=release,
        fallback=settled_release(place.before) if place.before is not None else place.fallback,
        state="running",
        rollout=rollout,
        stages=stages,
        threshold=threshold_of(rollout, stages[0].percent or 0, [node.node for node in nodes]),
        gate=wish.gate if wish.gate != Gate() else None,
        carriage=wish.carriage,
        parameters=rows,
        activate=wish.activate,
        deadline=wish.deadline,
        started=now,
    )
    return Progress(model, deployment, stage_entered_at=now, judged_from=now, tries_from=now, reason="has just begun")


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


def halt(progress: Progress, *, actor: str = OPERATOR) -> Progress:
    """Stop moving nodes, on an operator's word.

    Raises:
        Refused: it is not running.
    """
    _must_be(progress, ("running",), "halted")
    return _changed(replace(progress, reason=f"halted by {actor}", actor=actor), state="halted")


def resume(progress: Progress, *, now: int, actor: str = OPERATOR) -> Progress:
    """Go on with the present stage; what failed before is not held against it again.

    Raises:
        Refused: it is not halted.
    """
    _must_be(progress, ("halted",), "resumed")
    fresh = replace(
        progress, stage_entered_at=now, judged_from=now, tries_from=now, held_since=None, reason=f"resumed by {actor}", actor=actor
    )
    return _changed(fresh, state="running")


def roll_back(progress: Progress, *, where: str = "", actor: str = OPERATOR) -> Progress:
    """Send each node that it has moved back to what the node served before; one that served nothing serves nothing again.

    `where` says in words where they go (hub/core/rollouts/going_back.py); without it, the fallback is named.

    Raises:
        Refused: it is rolled back already.
    """
    _must_be(progress, ("running", "halted", "done"), "rolled back")
    where = where or fallback_in_words(progress.deployment)
    return _changed(replace(progress, held_since=None, reason=f"rolled back {where} by {actor}", actor=actor), state="rolled_back")


def fallback_in_words(deployment: Deployment) -> str:
    """Return where nodes go that remember no release of their own."""
    return f"to {deployment.fallback.version}" if deployment.fallback is not None else "to no release, for it is the first of its nodes"


def approve(progress: Progress, *, actor: str = OPERATOR) -> Progress:
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
    return _changed(replace(progress, reason=f"has stage {number + 1} approved by {actor}", actor=actor), stages=tuple(stages))


def retry(progress: Progress, *, now: int, actor: str = OPERATOR) -> Progress:
    """Let the nodes that failed try once more; what failed before is not held against the rollout again.

    Raises:
        Refused: it was rolled back, or has been retried as often as can be.
    """
    _must_be(progress, ("running", "halted", "done"), "retried")
    if not progress.tally.failed:
        raise Refused(Code.ROLLOUT_INVALID, f"no node has failed in the {progress.title}, so that there is nothing to try again")
    attempt = (progress.deployment.attempt or 0) + 1
    if attempt > ATTEMPTS_MAX:
        raise Refused(Code.ROLLOUT_INVALID, f"the {progress.title} was retried {ATTEMPTS_MAX} times: begin it anew")
    fresh = replace(
        progress,
        judged_from=now,
        tries_from=now,
        held_since=None,
        reason=f"begins attempt {attempt + 1}, asked for by {actor}",
        actor=actor,
    )
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


def step(
    progress: Progress, facts: Facts, *, now: int, listened: Listened, counted: Tally | None = None
) -> tuple[Progress, tuple[Action, ...]]:
    """Look at the gates once; `listened` is how long the hub has listened in all (hub/core/rollouts/listening.py).

    `counted` is what `tally` would return, where the caller has counted the nodes already.
    """
    if counted is None:
        counted = tally(progress.deployment, facts.nodes, judged_from=progress.judged_from, now=now)
    if progress.deployment.state != "running":
        is_done = progress.deployment.state == "done"
        return _as_it_is_now(progress, counted, facts) if is_done else replace(progress, tally=counted), ()
    progress = replace(progress, tally=counted)
    progress = _with_pause(progress, facts, listened)
    progress = replace(progress, verdicts=gates.verdicts(progress.gate, counted, facts, _retries(progress, listened)))
    failing = next((one for one in progress.verdicts if one.outcome == "fails"), None)
    if failing is not None:
        return _halted(progress, failing.sentence)
    if not facts.listening:
        return replace(progress, reason=f"{DEAF_BEGINS}: {facts.deaf}" if facts.deaf else DEAF), ()
    if is_past_deadline(progress.deployment, now):
        return _end_at_deadline(progress, facts)
    if progress.retry_since is not None and _retries(progress, listened).seconds <= 0:
        return _try_again(progress, now)
    return _go_on(progress, facts, now=now, listened=listened)


def _as_it_is_now(progress: Progress, counted: Tally, facts: Facts) -> Progress:
    """Return a rollout that is done with what is so of its nodes: they may go back later, be lost, or come to the release after all."""
    before = progress.tally
    if (counted.serving, counted.heard, counted.failed, counted.silent) == (before.serving, before.heard, before.failed, before.silent):
        return replace(progress, tally=counted)
    parts = [_proof(counted)]
    parts += [f"{counted.failed} refused it or rolled back"] if counted.failed else []
    parts += [f"{counted.silent} {'is' if counted.silent == 1 else 'are'} silent"] if counted.silent else []
    parts += [f"{counted.expired} expired and stay{'s' if counted.expired == 1 else ''} on what they serve"] if counted.expired else []
    why = next((one for one in (LATE, PINNED) if progress.reason.startswith(one)), None)
    lead = "" if why is None else f"{LATE}: " if why == LATE else f"{progress.reason.partition(': ')[0]}: "
    fresh = {one.name: one for one in gates.verdicts(progress.gate, counted, facts)}
    verdicts = tuple(fresh.get(one.name, one) for one in progress.verdicts)
    return replace(progress, tally=counted, verdicts=verdicts, reason=lead + ", ".join(parts))


def _go_on(progress: Progress, facts: Facts, *, now: int, listened: Listened) -> tuple[Progress, tuple[Action, ...]]:
    """Go on to the next stage if nothing speaks against it, and the gates have held for long enough."""
    found, counted = progress.verdicts, progress.tally
    waiting = next((one for one in found if one.holds_up), None)
    held_since = None if waiting is not None else progress.held_since if progress.held_since is not None else listened
    soak = gates.soak(progress.gate, held_since, listened, reaches=bool(counted.addressed))
    progress = replace(progress, held_since=held_since, verdicts=(*found, soak, *_approval(progress.deployment)))
    if waiting is not None:
        return replace(progress, reason=f"waits: {waiting.sentence}"), ()
    if soak.holds_up:
        return replace(progress, reason=f"{soak.sentence}{gates.of_drift(facts)}"), ()
    return _advance(progress, facts, now)


def _halted(progress: Progress, problem: str) -> tuple[Progress, tuple[Action, ...]]:
    stopped = _changed(replace(progress, held_since=None, retry_since=None, reason=problem), state="halted")
    text = f"{progress.title} halted at {_where(progress.deployment)}: {problem}"
    return stopped, (Announce(text), Halted(text))


def _may_try_again(progress: Progress) -> bool:
    return bool(progress.tally.trying) and (progress.deployment.attempt or 0) < ATTEMPTS_MAX


def _with_pause(progress: Progress, facts: Facts, listened: Listened) -> Progress:
    """Return the state in which the pause before the next attempt runs, where there is to be one."""
    if not _may_try_again(progress):
        return replace(progress, retry_since=None)
    return progress if progress.retry_since is not None or not facts.listening else replace(progress, retry_since=listened)


def _retries(progress: Progress, listened: Listened) -> Retries:
    pause = progress.gate.retry_seconds or RETRY_SECONDS
    passed = listened - progress.retry_since if progress.retry_since is not None else 0.0
    return Retries(_may_try_again(progress), max(0, ceil(pause - passed)))


def _try_again(progress: Progress, now: int) -> tuple[Progress, tuple[Action, ...]]:
    failed, attempt = progress.tally.trying, (progress.deployment.attempt or 0) + 1
    reason = f"begins attempt {attempt + 1}: {number_of(failed, 'node')} failed"
    fresh = replace(progress, judged_from=now, held_since=None, retry_since=None, reason=reason)
    return _changed(fresh, attempt=attempt), (Announce(f"{progress.title} {reason}"),)


def _proof(counted: Tally) -> str:
    return f"{counted.serving} of {number_of(counted.heard, 'node')} heard from {verb(counted.serving, 'serve')} it"


def _end_at_deadline(progress: Progress, facts: Facts) -> tuple[Progress, tuple[Action, ...]]:
    """End the rollout for the nodes that serve the release; without any, nothing speaks for the release, and it halts."""
    counted, serving = progress.tally, sum(node.serving for node in facts.nodes)
    silent = sum(not node.heard and not node.serving for node in facts.nodes)
    others = [f"{counted.expired} expired and stay{'s' if counted.expired == 1 else ''} on what they serve"]
    others += [f"{counted.failed} refused it or rolled back"] if counted.failed else []
    others += [f"{silent} {'was' if silent == 1 else 'were'} not heard"] if silent else []
    if not serving:
        return _halted(progress, f"the deadline has passed and no node serves it: {', '.join(others)}; begin it anew with a later one")
    reason = f"{LATE}: {serving} of {number_of(len(facts.nodes), 'node')} {verb(serving, 'serve')} it, {', '.join(others)}"
    done = _changed(replace(progress, held_since=None, retry_since=None, reason=reason), state="done")
    return done, (Announce(f"{progress.title} is done: {reason}"),)


def _approval(deployment: Deployment) -> tuple[Verdict, ...]:
    number = deployment.stage + 1
    following = deployment.stages[number] if number < len(deployment.stages) else None
    if following is None or following.approve is None:
        return ()
    return (gates.approval(number + 1, words_of(following), missing=following.approve),)


def _advance(progress: Progress, facts: Facts, now: int) -> tuple[Progress, tuple[Action, ...]]:
    deployment, counted = progress.deployment, progress.tally
    proof = "the stage reaches no node"
    if counted.addressed:
        proof = _proof(counted) + gates.of_drift(facts)
    number = deployment.stage + 1
    if number == len(deployment.stages):
        done = _changed(replace(progress, held_since=None, reason=proof), state="done")
        return done, (Announce(f"{progress.title} is done: {proof}"),)
    following = deployment.stages[number]
    if following.approve:
        return replace(progress, reason=f"waits: stage {number + 1} ({words_of(following)}) needs approval; {proof}"), ()
    moved = _changed(progress, stage=number)
    names = [node.node for node in facts.nodes]
    reached = threshold_of(deployment.rollout, moved.deployment.percent, names)
    moved = _changed(moved, threshold=max(deployment.threshold, reached))
    text = f"{progress.title} goes from {_where(deployment)} to {words_of(following)}: {proof}"
    return replace(moved, stage_entered_at=now, held_since=None, reason="the stage has just begun"), (Announce(text),)


def _where(deployment: Deployment) -> str:
    return words_of(deployment.stages[deployment.stage])


def _changed(progress: Progress, **changes: object) -> Progress:
    return replace(progress, deployment=progress.deployment.model_copy(update=changes))

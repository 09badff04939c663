"""Decides when a rollout goes on to its next stage, halts, or is done. Knows facts about nodes, and neither keys, topics nor clocks.

A stage addresses the nodes whose labels are selected and whose bucket is below its percentage. Its gate looks at those that were *heard
from*; the silent ones are a class of their own, that neither helps nor harms. In this order:

1. drift that speaks against the new release (hub/core/rollouts/active_alarms.py), or more failures than the gate allows: halted;
2. the hub does not listen (hub/core/rollouts/listening.py): waits, and the soak time does not pass;
3. no node is known that the labels select: waits for one to appear;
4. nodes are known, but none falls into the stage (few nodes, small percentage): it is passed over, for nothing can be learned from it;
5. all nodes of the stage are silent: waits, for an empty site proves nothing;
6. too few receipts: waits; a node that goes silent meanwhile leaves the reckoning after `gate.silent_seconds`;
7. too few intervals of it were tested for drift, where the gate asks for any: waits, and says when there are too few nodes for a test;
8. the gate has held for `gate.soak_seconds` of listening: the next stage, and after the last one the rollout is done.

No alarm is not "no drift": where drift cannot be judged, or was not yet, the reason says so (hub/core/rollouts/gate_summary.py).

Every document that `step` or a command makes has a serial higher by one than the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from hub.core.rollouts.commands import SetParameters, Start
from hub.core.rollouts.gate_summary import Judged
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.parameters import settled
from schemas.errors import Code, Refused, mismatch
from schemas.limits import FALLBACKS_MAX
from schemas.parameters import Parameters, Value
from schemas.rollout import Fallback, ReleaseRef, Rollout, all_fallbacks, bucket, has_labels, selected, wanted, was_taken_back

DONE = "done"
DEAF = "waits: the hub does not hear its nodes now; it is not connected to the broker, or reads what came while it was not"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node for one model and one release, by its receipts; `failed_at` is when its last failure was received."""

    node: str
    labels: Mapping[str, str]
    heard: bool
    serving: bool
    failed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a gate looks at; `drift_alarm` says which drift speaks against the new release (hub/core/rollouts/active_alarms.py).

    `drift` is what is known of it where none does; None where nobody asks.
    """

    nodes: Sequence[NodeFacts]
    drift_alarm: str = ""
    drift: Judged | None = None
    listening: bool = True  # whether the hub hears what its nodes say at this moment


@dataclass(frozen=True, slots=True)
class Tally:
    """Nodes of the present stage: addressed = heard + silent; serving and failed are of those heard."""

    addressed: int = 0
    heard: int = 0
    serving: int = 0
    failed: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A rollout document with the controller's working state beside it.

    `judged_from`: failures and alarms from before do not count; an operator who resumes has seen them. `held_since` is by the clock of
    listening, the other times are by the wall's.
    """

    rollout: Rollout
    stage_entered_at: int
    judged_from: int
    held_since: Listened | None = None
    reason: str = ""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Announce:
    """The document has changed: sign and announce it; `text` says what happened."""

    text: str


@dataclass(frozen=True, slots=True)
class Halted:
    """The rollout has halted by itself: somebody should look."""

    text: str


Action = Announce | Halted


def begin(
    model: str,
    wish: Start,
    release: ReleaseRef,
    *,
    before: Rollout | None,
    nodes: Sequence[NodeFacts],
    salts: Sequence[bytes],
    now: int,
    allowed: Parameters = (),
) -> Progress:
    """Begin a rollout, which supersedes `before`; each node falls back to the release of the last done rollout that selected it.

    Of the random `salts` the first is taken that leaves no stage without a node, so that small fleets have a canary too. `allowed` are the
    release's parameters; what the rollout before had set of its own release stays with that one.

    Raises:
        Refused: the stages do not rise to 100 %, a parameter is unknown or out of bounds, or there are objections and no `force`.
    """
    if list(wish.stages) != sorted(set(wish.stages)) or wish.stages[-1] != 100:
        raise Refused(Code.ROLLOUT_INVALID, f"stages must rise and end at 100, not {', '.join(map(str, wish.stages))}")
    if not wish.force and (found := objections(model, wish, before=before, nodes=nodes)):
        raise Refused(Code.ROLLOUT_INVALID, f"{'; '.join(found)}; --force begins it all the same")
    rollout = Rollout(
        model=model,
        serial=before.serial + 1 if before else 1,
        release=release,
        state="running",
        stages=wish.stages,
        salt=salts[0],
        labels=wish.labels,
        gate=wish.gate,
        carriage=wish.carriage,
        parameters=settled(allowed, {}, wish.parameters or {}),
        started=now,
        **_as_fields(_behind(before)[:FALLBACKS_MAX]),
    )
    names = [node.node for node in nodes if selected(rollout, node.labels)]
    salt = next((salt for salt in salts if _fills_all(salt, wish.stages, names)), salts[0])
    return Progress(rollout.model_copy(update={"salt": salt}), stage_entered_at=now, judged_from=now, reason="has just begun")


def objections(model: str, wish: Start, *, before: Rollout | None, nodes: Sequence[NodeFacts]) -> list[str]:
    """Return what speaks against beginning this rollout unless the operator insists, each with its mend.

    A running rollout may be superseded where nothing is left half-way: it has reached all of its nodes' turn (100 %), and the new one
    addresses all of them at once.
    """
    found = []
    if wish.labels and not any(has_labels(wish.labels, node.labels) for node in nodes):
        known = f"none of the {len(nodes)} known nodes" if nodes else "no node, for none is known yet"
        found.append(f"{_of_labels(wish.labels)} is on {known}: `fleetcast nodes` lists the nodes, and with --json their labels")
    if before is not None and before.state == "running":
        begun = f"{model}@{before.release.version} is still being rolled out"
        mend = f"wait for its end, or `fleetcast rollout halt {model}` first"
        takes_all = wish.stages[0] == 100 and has_labels(wish.labels, before.labels)
        if before.percent < 100 and takes_all:
            passes_over = "all of its nodes would take this one at once, past its remaining stages and their gates"
            found.append(f"{begun}, at {before.percent} % of its nodes; {passes_over}: {mend}")
        elif before.percent < 100:
            reach = "the nodes of this rollout's first stage" if wish.stages[0] < 100 else f"nodes with {_of_labels(wish.labels)}"
            found.append(f"{begun}, at {before.percent} % of its nodes, and would stay on those except for {reach}: {mend}")
        elif wish.stages[0] < 100:
            found.append(f"{begun}, and this one addresses only {wish.stages[0]} % of its nodes at first: {mend}")
        elif not has_labels(wish.labels, before.labels):
            found.append(f"{begun}, also to nodes without {_of_labels(wish.labels)}: {mend}")
    if len(behind := _behind(before)) > FALLBACKS_MAX:
        left_out = ", ".join(one.release.version for one in behind[FALLBACKS_MAX:])
        found.append(
            f"nodes have {len(behind)} different releases of {model} to go back to, and a rollout can carry {FALLBACKS_MAX}: none could go "
            f"back to {left_out}; first roll one release out to all"
        )
    return found


def _behind(before: Rollout | None) -> tuple[Fallback, ...]:
    """Return what nodes keep or go back to, with what was set of it: that must not change because another release is on its way.

    A release counts only for the nodes that its rollout selected, and the newest first. One that no node can come to is left out.
    """
    if before is None:
        return ()
    all_of_them = all_fallbacks(before)
    if before.state == DONE:
        all_of_them = (Fallback(labels=before.labels, release=before.release, parameters=before.parameters), *all_of_them)
    found: list[Fallback] = []
    for one in all_of_them:
        if not any(has_labels(earlier.labels, one.labels) for earlier in found):
            found.append(one)
    return tuple(found)


def _as_fields(fallbacks: Sequence[Fallback]) -> dict[str, Any]:
    """Return the fields of a rollout that say this: the older ones where they can, for earlier nodes refuse a document with `fallbacks`."""
    if not fallbacks:
        return {}
    first = fallbacks[0]
    if not first.labels:
        return {"fallback": first.release, "fallback_parameters": first.parameters}
    return {"fallbacks": tuple(fallbacks)}


def _of_labels(labels: Mapping[str, str]) -> str:
    return f"label{'s' if len(labels) > 1 else ''} {','.join(f'{key}={value}' for key, value in sorted(labels.items()))}"


def _fills_all(salt: bytes, stages: Sequence[int], nodes: Sequence[str]) -> bool:
    places = [bucket(salt, node) for node in nodes]
    return all(any(low <= place < high for place in places) for low, high in zip((0, *stages), stages, strict=False))


def halt(progress: Progress) -> Progress:
    """Stop moving nodes, on an operator's word.

    Raises:
        Refused: it is not running.
    """
    _must_be(progress.rollout, ("running",), "halted")
    return replace(_next(progress, state="halted"), reason="halted by an operator")


def resume(progress: Progress, *, now: int) -> Progress:
    """Go on with the present stage; what failed before is not held against it again.

    Raises:
        Refused: it is not halted.
    """
    _must_be(progress.rollout, ("halted",), "resumed")
    return replace(
        _next(progress, state="running"), stage_entered_at=now, judged_from=now, held_since=None, reason="resumed by an operator"
    )


def roll_back(progress: Progress) -> Progress:
    """Send the nodes that it has reached back, each to its own fallback; a node that has none keeps what it has.

    Raises:
        Refused: it is rolled back already, or there is nothing to go back to.
    """
    rollout = progress.rollout
    _must_be(rollout, ("running", "halted", DONE), "rolled back")
    fallbacks = all_fallbacks(rollout)
    if not fallbacks:
        raise Refused(
            Code.ROLLOUT_INVALID, f"no rollout of {rollout.model} was done before this one, so there is no release to go back to; halt it"
        )
    return replace(_next(progress, state="rolled_back"), held_since=None, reason=f"rolled back {_where_to(fallbacks)} by an operator")


def _where_to(fallbacks: Sequence[Fallback]) -> str:
    """Return `to 1.1.0 (label ring=canary), else to 1.0.0`."""
    parts = [f"to {one.release.version}" + (f" ({_of_labels(one.labels)})" if one.labels else "") for one in fallbacks]
    return ", else ".join(parts)


@dataclass(frozen=True, slots=True)
class InForce:
    """A release that nodes are to serve by a rollout, and what is set of its parameters."""

    release: ReleaseRef
    parameters: Mapping[str, Value]


def in_force(rollout: Rollout) -> tuple[InForce, ...]:
    """Return the releases whose parameters `set` changes: the new one, or after going back those that are served again."""
    if rollout.state == "rolled_back":
        return tuple(InForce(one.release, one.parameters or {}) for one in all_fallbacks(rollout))
    return (InForce(rollout.release, rollout.parameters or {}),)


def in_force_of(rollout: Rollout, version: str) -> InForce:
    """Return what is in force of a release by its version.

    Raises:
        Refused: the rollout has no such release in force.
    """
    found = in_force(rollout)
    versions = ", ".join(sorted({one.release.version for one in found}))
    for one in found:
        if one.release.version == version:
            return one
    raise mismatch(Code.ROLLOUT_INVALID, f"release of {rollout.model} in force", expected=version, actual=versions)


def set_parameters(progress: Progress, wish: SetParameters, *, allowed: Parameters) -> Progress:
    """Change what is in force of the release, and nothing else: stage, salt and state stay, so no node moves.

    Raises:
        Refused: the rollout is of another release than the wish, or a parameter is unknown or out of bounds.
    """
    rollout = progress.rollout
    release, before = (found := in_force_of(rollout, wish.version)).release, found.parameters
    after = settled(allowed, before, wish.parameters, wish.unset)
    if (after or {}) == before:
        return progress
    if rollout.state != "rolled_back":
        return _next(progress, parameters=after)
    changed = [one.model_copy(update={"parameters": after}) if one.release == release else one for one in all_fallbacks(rollout)]
    return _next(progress, **_as_fields(changed))


def _must_be(rollout: Rollout, states: Sequence[str], done: str) -> None:
    if rollout.state not in states:
        raise Refused(
            Code.ROLLOUT_INVALID, f"the rollout of {rollout.model} is {rollout.state}; only one that is {' or '.join(states)} can be {done}"
        )


def step(progress: Progress, facts: Facts, *, now: int, listened: Listened) -> tuple[Progress, tuple[Action, ...]]:
    """Look at the gate once; `listened` is how long the hub has listened in all (hub/core/rollouts/listening.py)."""
    rollout = progress.rollout
    if rollout.state != "running":
        return replace(progress, tally=_tally(progress, facts)), ()
    tally = _tally(progress, facts)
    progress = replace(progress, tally=tally)
    problem = _problem(rollout, tally, facts)
    if problem:
        stopped = replace(_next(progress, state="halted"), held_since=None, reason=problem)
        text = f"rollout of {rollout.model} {rollout.release.version} halted at {rollout.percent} %: {problem}"
        return stopped, (Announce(text), Halted(text))
    if not facts.listening:
        return replace(progress, reason=DEAF), ()
    waiting = _waiting(rollout, tally, facts)
    if waiting:
        return replace(progress, held_since=None, reason=waiting), ()
    held_since = progress.held_since if progress.held_since is not None else listened
    left = ceil(held_since + rollout.gate.soak_seconds - listened)
    if left > 0 and tally.addressed:
        return replace(progress, held_since=held_since, reason=f"the gate holds; it must for {left} s more{_of_drift(facts)}"), ()
    return _advance(progress, facts, now)


def _tally(progress: Progress, facts: Facts) -> Tally:
    rollout = progress.rollout
    addressed = heard = serving = failed = 0
    for node in facts.nodes:
        if not (_in_stage(rollout, node) or _is_to_go_back(rollout, node)):
            continue
        addressed += 1
        if not node.heard:
            continue
        heard += 1
        serving += node.serving
        failed += not node.serving and node.failed_at is not None and node.failed_at >= progress.judged_from
    return Tally(addressed, heard, serving, failed, addressed - heard)


def _in_stage(rollout: Rollout, node: NodeFacts) -> bool:
    return selected(rollout, node.labels) and bucket(rollout.salt, node.node) < rollout.percent


def _is_to_go_back(rollout: Rollout, node: NodeFacts) -> bool:
    """Return whether a node has to leave a release that was taken back, though it is outside of the stage: its labels may have changed."""
    digest = rollout.release.digest if node.serving else None
    target = wanted(rollout, node=node.node, labels=node.labels, serving=digest) if was_taken_back(rollout, digest) else None
    return target is not None and target.digest != digest


def _problem(rollout: Rollout, tally: Tally, facts: Facts) -> str:
    if facts.drift_alarm and rollout.gate.halt_on_drift:
        return facts.drift_alarm
    if tally.failed and tally.failed > rollout.gate.failures_ratio_max * tally.heard:
        return f"{tally.failed} of {tally.heard} nodes refused it or rolled back, at most {rollout.gate.failures_ratio_max:.0%} may"
    return ""


def _waiting(rollout: Rollout, tally: Tally, facts: Facts) -> str:
    if not any(selected(rollout, node.labels) for node in facts.nodes):
        return "waits: no node is known that its labels select"
    if tally.addressed and not tally.heard:
        return f"waits: all {tally.addressed} nodes of the stage are silent"
    if tally.serving < rollout.gate.receipts_ratio_min * tally.heard:
        needed = f"{rollout.gate.receipts_ratio_min:.0%} must"
        silent = f"; {tally.silent} more are silent" if tally.silent else ""
        return f"waits: {tally.serving} of {tally.heard} nodes heard from serve it, {needed}{silent}"
    tests_min = rollout.gate.drift_tests_min or 0
    if tally.addressed and facts.drift is not None and facts.drift.tests < tests_min:
        return f"waits: {facts.drift.tests} of {tests_min} intervals that the gate asks for were tested{_of_drift(facts)}"
    return ""


def _of_drift(facts: Facts) -> str:
    return f"; {facts.drift.text}" if facts.drift is not None and facts.drift.text else ""


def _advance(progress: Progress, facts: Facts, now: int) -> tuple[Progress, tuple[Action, ...]]:
    rollout, tally = progress.rollout, progress.tally
    what = f"rollout of {rollout.model} {rollout.release.version}"
    proof = "no node falls into the stage"
    if tally.addressed:
        proof = f"{tally.serving} of {tally.heard} nodes heard from serve it{_of_drift(facts)}"
    if rollout.stage + 1 < len(rollout.stages):
        moved = _next(progress, stage=rollout.stage + 1)
        text = f"{what} goes from {rollout.percent} % to {moved.rollout.percent} %: {proof}"
        return replace(moved, stage_entered_at=now, held_since=None, reason="the stage has just begun"), (Announce(text),)
    return replace(_next(progress, state=DONE), reason=proof), (Announce(f"{what} is done: {proof}"),)


def _next(progress: Progress, **changes: object) -> Progress:
    rollout = progress.rollout
    return replace(progress, rollout=rollout.model_copy(update={"serial": rollout.serial + 1, **changes}))

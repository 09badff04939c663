"""Judges the gates of a stage, each by itself: what it looks at, what it allows, whether it holds. The state machine combines them.

In the order in which they are said: the first that fails halts the rollout, else the first that waits holds it up. A gate that an operator
asked for by name holds nothing that it cannot judge; drift, which is looked at always, does not hold up a rollout that it cannot judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts.gate_summary import Judged
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.tally import NodeReport, Tally
from schemas.rollout import Gate

GateName = Literal["drift", "failures", "receipts", "sample", "latency", "shadow", "drift_tests", "soak", "approval"]
Outcome = Literal["holds", "waits", "fails", "cannot be judged"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Hold all that a gate looks at; `nodes` are those for which the deployment decides (hub/core/rollouts/tally.py).

    `drift_alarm` says which drift speaks against the new release (hub/core/rollouts/active_alarms.py). `drift` is what is known of it where
    none does; None where nobody asks.
    """

    nodes: Sequence[NodeReport]
    drift_alarm: str = ""
    drift: Judged | None = None
    listening: bool = True  # Whether the hub hears its nodes at this moment.
    deaf: str = ""  # Why it does not, where that is known better than that the connection is away.


@dataclass(frozen=True, slots=True)
class Retries:
    """Hold whether nodes that failed try again by themselves, and in how many seconds they do."""

    may: bool = False
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what one gate says. `required`: where it cannot be judged, the rollout waits."""

    name: GateName
    outcome: Outcome
    sentence: str
    figure: float | None = None
    limit: float | None = None
    required: bool = True

    @property
    def holds_up(self) -> bool:
        """Return whether the next stage has to wait for it."""
        return self.outcome in {"waits", "fails"} or (self.outcome == "cannot be judged" and self.required)


_AS_KEPT = TypeAdapter(tuple[Verdict, ...])


def as_json(found: Sequence[Verdict]) -> str:
    """Return verdicts as they are kept beside the rollout, and shown by commands."""
    return _AS_KEPT.dump_json(tuple(found)).decode()


def from_json(text: str) -> tuple[Verdict, ...]:
    """Return verdicts that were kept; none where another version wrote them."""
    try:
        return _AS_KEPT.validate_json(text)
    except ValidationError:
        return ()


def verdicts(gate: Gate, counted: Tally, facts: Facts, retries: Retries = Retries()) -> tuple[Verdict, ...]:
    """Return what each gate says of a stage, but soak and approval, which come after all others."""
    receipts = _receipts(gate, counted, facts)
    enough = receipts.outcome == "holds"
    found = [
        _drift(gate, facts),
        _failures(gate, counted, retries),
        receipts,
        _sample(gate, counted),
        _latency(gate, counted, enough=enough),
        _shadow(gate, counted, enough=enough),
        _drift_tests(gate, counted, facts),
    ]
    return tuple(one for one in found if one is not None)


def _drift(gate: Gate, facts: Facts) -> Verdict | None:
    if not gate.halt_on_drift:
        return None
    if facts.drift_alarm:
        return Verdict("drift", "fails", facts.drift_alarm, required=False)
    if facts.drift is None:
        return None
    outcome: Outcome = "holds" if facts.drift.tests else "cannot be judged"
    return Verdict("drift", outcome, facts.drift.text or "no alarm", facts.drift.tests, required=False)


def _failures(gate: Gate, counted: Tally, retries: Retries) -> Verdict:
    most = gate.failures_ratio_max
    share = counted.failed / counted.heard if counted.heard else 0.0
    text = f"{counted.failed} of {number_of(counted.heard, 'node')} refused it or rolled back, at most {most:.0%} may"
    if counted.perhaps_devices:
        one = len(counted.perhaps_devices) == 1
        codes = ", ".join(sorted(set(counted.perhaps_devices)))
        text += f" ({len(counted.perhaps_devices)} for {codes}, for which {'its device' if one else 'their devices'} may be to blame)"
    if not counted.failed or counted.failed <= most * counted.heard:
        return Verdict("failures", "holds", text, share, most)
    spent = counted.failed - counted.trying
    if retries.may and spent <= most * counted.heard:
        who = "they" if not spent else "1 of them" if counted.trying == 1 else f"{counted.trying} of them"
        times = "once" if counted.tries_left == 1 else f"up to {counted.tries_left} times"
        verb = "tries" if who == "1 of them" else "try"
        return Verdict("failures", "waits", f"{text}; {who} {verb} again in {retries.seconds} s, and may {times} more", share, most)
    return Verdict("failures", "fails", text, share, most)


def _receipts(gate: Gate, counted: Tally, facts: Facts) -> Verdict:
    least, proven = gate.receipts_ratio_min, counted.serving - counted.quiet
    share = proven / counted.heard if counted.heard else None
    if not facts.nodes:
        return Verdict("receipts", "waits", "no node is known for which this deployment decides", None, least)
    if not counted.addressed:
        return Verdict("receipts", "holds", "the stage reaches no node", None, least)
    if not counted.heard:
        return Verdict("receipts", "waits", _all_silent(counted.addressed), None, least)
    text = f"{proven} of {number_of(counted.heard, 'node')} heard from {verb(proven, 'serve')} it, {least:.0%} must"
    if counted.silent:
        text += f"; {counted.silent} more {'is' if counted.silent == 1 else 'are'} silent"
    if counted.quiet:
        nodes = "node serves it but has" if counted.quiet == 1 else "nodes serve it but have"
        text += f"; {counted.quiet} {nodes} said nothing for longer than their reports are apart"
    return Verdict("receipts", "waits" if proven < least * counted.heard else "holds", text, share, least)


def _all_silent(nodes: int) -> str:
    return "the one node of the stage is silent" if nodes == 1 else f"all {nodes} nodes of the stage are silent"


def _sample(gate: Gate, counted: Tally) -> Verdict | None:
    if gate.nodes_min is None:
        return None
    proven = counted.serving - counted.quiet
    text = f"{number_of(proven, 'node')} {verb(proven, 'serve')} it, at least {gate.nodes_min} must"
    if counted.addressed < gate.nodes_min:
        text += f"; the stage reaches {counted.addressed}"
    return Verdict("sample", "holds" if proven >= gate.nodes_min else "waits", text, proven, gate.nodes_min)


def _latency(gate: Gate, counted: Tally, *, enough: bool) -> Verdict | None:
    most, found = gate.latency_ratio_max, counted.latency_ratio
    if most is None or not counted.addressed:
        return None
    if not enough:
        return Verdict("latency", "waits", "latency is judged when enough nodes serve it", found, most)
    if found is None:
        text = "latency cannot be judged: no node that serves it has measured a release before it"
        return Verdict("latency", "cannot be judged", text, None, most)
    median = f"(median of {number_of(counted.latency_nodes, 'node')})"
    text = f"it takes {found:.2f} times as long as the release before it {median}, at most {most:g} times"
    return Verdict("latency", "holds" if found <= most else "fails", f"{text} may be", found, most)


def _shadow(gate: Gate, counted: Tally, *, enough: bool) -> Verdict | None:
    least = gate.shadow_ratio_min
    if least is None or not counted.addressed:
        return None
    share = counted.shadow_passed / counted.serving if counted.shadow_nodes else None
    if not enough:
        return Verdict("shadow", "waits", "the comparison in shadow is judged when enough nodes serve it", share, least)
    if share is None:
        text = "agreement in shadow cannot be judged: no node that serves it has compared it"
        return Verdict("shadow", "cannot be judged", text, None, least)
    those = f"{number_of(counted.serving, 'node')} that {verb(counted.serving, 'serve')} it"
    text = f"it passed in shadow on {counted.shadow_passed} of {those}, on {least:.0%} it must"
    return Verdict("shadow", "holds" if share >= least else "fails", text, share, least)


def _drift_tests(gate: Gate, counted: Tally, facts: Facts) -> Verdict | None:
    least = gate.drift_tests_min or 0
    if not least or not counted.addressed or facts.drift is None:
        return None
    done = facts.drift.tests
    if done >= least:
        tested = f"{number_of(done, 'interval')} {'was' if done == 1 else 'were'} tested"
        return Verdict("drift_tests", "holds", f"{tested}, {least} must be", done, least)
    text = f"{done} of {number_of(least, 'interval')} that the gate asks for {'was' if done == 1 else 'were'} tested"
    return Verdict("drift_tests", "waits", f"{text}{of_drift(facts)}", done, least)


def soak(gate: Gate, held_since: Listened | None, listened: Listened, *, reaches: bool) -> Verdict:
    """Return whether all other gates have held for long enough, in seconds of listening; a stage that reaches nobody needs no time."""
    passed = listened - held_since if held_since is not None else 0.0
    left = ceil((held_since if held_since is not None else listened) + gate.soak_seconds - listened)
    if held_since is None:
        return Verdict("soak", "waits", f"the other gates must hold for {gate.soak_seconds} s", 0.0, gate.soak_seconds)
    if left > 0 and reaches:
        return Verdict("soak", "waits", f"the gate holds; it must for {left} s more", round(passed, 1), gate.soak_seconds)
    return Verdict("soak", "holds", "the gate has held for long enough", round(passed, 1), gate.soak_seconds)


def approval(number: int, words: str, *, missing: bool) -> Verdict:
    """Return whether a stage may begin that somebody has to approve."""
    if missing:
        return Verdict("approval", "waits", f"stage {number} ({words}) needs approval")
    return Verdict("approval", "holds", f"stage {number} ({words}) is approved")


def of_drift(facts: Facts) -> str:
    """Return what is known of drift, to be appended to a sentence."""
    return f"; {facts.drift.text}" if facts.drift is not None and facts.drift.text else ""

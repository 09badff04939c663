"""Decide in which class a node stands for the deployment that decides for it: one function for gate, commands and console.

Every node stands in exactly one class, so that the classes add up to the nodes that the deployment decides for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from hub.core.rollouts import refusals
from hub.core.rollouts.fleet import Node, counts_as_serving, differs, failure_of
from hub.core.rollouts.stages import words_of
from hub.core.rollouts.tally import BY_NEED, CLASSES, DEVICES_OWN, ClassName, class_name
from schemas.deployments import Deployment, is_past_deadline, is_reached
from schemas.errors import Code
from schemas.state import Finding, Slot

__all__ = ["BY_NEED", "CLASSES", "ClassName", "NodeClass", "class_of", "totals"]
Wait = Literal["stage", "approval", "window", "budget", "clock", "halt", "release"]
_STEPS: Final = {"fetching": "fetching", "staged": "testing", "testing": "testing", "shadow": "compared beside what it serves"}


@dataclass(frozen=True, slots=True)
class NodeClass:
    """Hold the class of one node, the code where there is one, the sentence that says why, and in one word what it waits for."""

    name: ClassName
    sentence: str
    code: str = ""
    waits_for: Wait | None = None  # Where it waits.


def class_of(
    deployment: Deployment,
    node: Node,
    *,
    model: str,
    heard: bool,
    silent_seconds: float,
    failed_from: int,
    tries_from: int | None = None,
    now: int,
) -> NodeClass:
    """Return the class of a node that this deployment decides for.

    `heard`: whether it counts as heard from, else it has been silent for `silent_seconds`. `failed_from` and `tries_from` are those of
    `fleet.failure_of`, which says what counts as a failure.
    """
    version, digest = deployment.release
    serving = node.serving.get(model)
    serves = counts_as_serving(node, deployment, model=model)
    since = failed_from if tries_from is None else tries_from
    failing = failure_of(node, deployment, model=model, failed_from=failed_from, tries_from=since)
    failure = failing.failure if failing is not None else None
    findings = refusals.findings_of(node.state, node.refused)
    own = [one.code for one in findings if one.code in DEVICES_OWN and one.model in {None, model}]
    clock, disk = refusals.of_clock(findings), own[0] if own else ""
    slot = next((one for one in node.state.slots if one.model == model), None)
    name = class_name(
        deployment,
        reached=is_reached(deployment, node.facts),
        heard=heard,
        serves=serves,
        serves_nothing=serving is None,
        failure=failure.outcome if failure is not None else None,
        waits=_waits(slot, digest) or (clock is not None and not serves),
        now=now,
    )
    match name:
        case "refused" | "rolled_back":
            code = failure.code if failure is not None else ""
            return NodeClass(name, f"{'refused it' if name == 'refused' else 'went back from it'}: {code}", code)
        case "unreachable":
            return _unreachable(node, silent_seconds, is_late=is_past_deadline(deployment, now) and not serves)
        case "serving":
            return NodeClass(name, f"serves {version if serves else _version(node, model)}")
        case "expired":
            return NodeClass(name, f"the deadline has passed; it stays on {_version(node, model)}")
        case "moving" | "waiting" if deployment.state == "rolled_back":
            return NodeClass(name, "goes back") if serving is not None else _from_nothing(deployment, slot)
        case "moving" | "waiting":
            return _to_move(deployment, node, slot, clock, disk)


def _unreachable(node: Node, silent_seconds: float, *, is_late: bool) -> NodeClass:
    if node.other_key is not None:
        return NodeClass("unreachable", other_key_in_words(node.name), Code.RECEIPT_KEY_CHANGED)
    return NodeClass("unreachable", f"was not heard for {_duration(silent_seconds)}{', and the deadline has passed' if is_late else ''}")


def _to_move(deployment: Deployment, node: Node, slot: Slot | None, clock: Finding | None, disk: str) -> NodeClass:
    if clock is not None:
        return NodeClass("waiting", f"waits: {clock.reason}", clock.code, "clock")
    if deployment.state == "halted":
        return NodeClass("waiting", "waits: the rollout is halted", waits_for="halt")
    if not is_reached(deployment, node.facts):
        sentence, wait = _later(deployment)
        return NodeClass("waiting", sentence, waits_for=wait)
    if slot is not None and (other := differs(node, slot.model)) and node.serving[slot.model].digest == deployment.release.digest:
        signed = f"its last receipt is of {deployment.release.version}"
        return NodeClass("moving", f"reports that it serves {other}, and {signed}: it is asked to sign again")
    found = _under_way(slot, deployment.release.digest)
    return _held_up(disk) if disk and not found.code else found


def _held_up(code: str) -> NodeClass:
    if code == Code.TRUST_EXPIRED:
        return NodeClass("moving", f"takes what is signed for expired, so its clock may be ahead: {code}", code)
    return NodeClass("moving", f"is held up by its own disk: {code}", code)


def _from_nothing(deployment: Deployment, slot: Slot | None) -> NodeClass:
    """Say what a node that serves nothing has to expect of a deployment that was taken back."""
    fallback = deployment.fallback
    if fallback is None:
        code = Code.ROLLOUT_TAKEN_BACK
        return NodeClass(
            "waiting", f"serves nothing: {deployment.release.version} was its first release, and was taken back", code, "release"
        )
    found = _under_way(slot, fallback.digest)
    return NodeClass("moving", f"serves nothing, and is to serve {fallback.version}: {found.sentence}", found.code)


def _later(deployment: Deployment) -> tuple[str, Wait]:
    """Say for which stage a node waits, where that is certain: its own by a selector, or the one that needs approval."""
    following = deployment.stages[deployment.stage + 1 :]
    if following and following[0].approve:
        return f"waits for a later stage, and stage {deployment.stage + 2} ({words_of(following[0])}) needs approval", "approval"
    return "waits for a later stage", "stage"


def _waits(slot: Slot | None, digest: bytes) -> bool:
    """Return whether a node says that it waits for its budget or for its time of the week."""
    if slot is None or slot.target != digest or slot.state not in {*_STEPS, "out_of_budget"}:
        return False
    return slot.code == Code.WINDOW_CLOSED or slot.state == "out_of_budget"


def _under_way(slot: Slot | None, digest: bytes) -> NodeClass:
    is_devices_own = slot is not None and digest in {slot.target, slot.serving} and slot.code in DEVICES_OWN
    return _held_up(slot.code) if slot is not None and is_devices_own else _step(slot, digest)


def _step(slot: Slot | None, digest: bytes) -> NodeClass:
    if slot is None or slot.target != digest or slot.state not in {*_STEPS, "out_of_budget"}:
        return NodeClass("moving", "was reached, and has not begun yet")
    if slot.code == Code.WINDOW_CLOSED:
        return NodeClass("waiting", "waits for its time of the week", slot.code, "window")
    if slot.state == "out_of_budget":
        return NodeClass("waiting", f"waits for its budget: {slot.code}", slot.code, "budget")
    if slot.code:
        return NodeClass("moving", f"is fetching, and is held up: {slot.code}", slot.code)
    if slot.state == "fetching" and slot.bytes_planned:
        return NodeClass("moving", f"is fetching, {min(100, 100 * slot.bytes_received // slot.bytes_planned)} %")
    return NodeClass("moving", f"is {_STEPS[slot.state]}")


def other_key_in_words(node: str) -> str:
    """Say what is wrong with a node whose device shows another key, and the mend."""
    return (
        f"its device shows another key than the one that it had at first, and is not believed; `fleetcast nodes replace {node}` lets it in"
    )


def totals(classes: Iterable[NodeClass]) -> dict[ClassName, int]:
    """Return how many nodes stand in each class; they add up to all of them."""
    found = Counter(one.name for one in classes)
    return {name: found[name] for name in CLASSES}


def _version(node: Node, model: str) -> str:
    serving = node.serving.get(model)
    return serving.version if serving is not None else "nothing"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days"

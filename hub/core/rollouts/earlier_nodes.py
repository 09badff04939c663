"""Says a model's deployments in the document of versions before them, one rollout a model, for nodes that read no other.

That document knows one rollout, to all nodes or to those with some labels, and whole percents. Where it cannot say what the deployments
say, it says that everything is halted: such nodes then keep what they have, and no node is moved other than the deployments say.
"""

from collections.abc import Mapping, Sequence

from hub.core.rollouts.tally import decided
from schemas.deployments import DEFAULT, EVERYBODY, Deployment, Deployments, position
from schemas.limits import FALLBACKS_MAX
from schemas.rollout import Fallback, Gate, Rollout, bucket
from schemas.selectors import NodeFacts, as_labels, may_overlap

GATE_FIELDS = ("receipts_ratio_min", "failures_ratio_max", "soak_seconds", "silent_seconds", "halt_on_drift", "drift_tests_min")


def as_rollout(statement: Deployments, nodes: Sequence[NodeFacts]) -> Rollout | None:
    """Return the earlier document that moves no node other than the deployments do; None where there is no deployment."""
    if not statement.deployments:
        return None
    by_name = decided(statement.deployments, nodes)
    main = _main(statement.deployments)
    if main is None:
        return _halted(statement)
    labels = as_labels(main.selector) or {}
    others = [one for one in statement.deployments if one.name != main.name]
    percent = percent_of(main, [node.node for node in by_name[main.name]])
    return _document(statement, main, labels, _fallbacks(main, labels, others), state=main.state, percent=percent)


def percent_of(deployment: Deployment, nodes: Sequence[str]) -> int:
    """Return the smallest whole percent that reaches as many of the known nodes as the threshold; where none is known, its share."""
    if deployment.state == "done" or deployment.threshold == EVERYBODY:
        return 100
    reached = sum(position(deployment.rollout, node) < deployment.threshold for node in nodes)
    if not reached:
        return max(1, min(100, -(-deployment.threshold * 100 // 2**64)))
    places = sorted(bucket(deployment.rollout, node) for node in nodes)
    return next(percent for percent in range(1, 101) if places[reached - 1] < percent)


def _main(deployments: Sequence[Deployment]) -> Deployment | None:
    """Return the deployment that the earlier document can be about; None where it can be about none."""
    if len(deployments) == 1 and deployments[0].name == DEFAULT:
        return deployments[0] if _can_be_said(deployments[0]) else None
    moving = [one for one in deployments if one.state != "done"]
    labelled = [one for one in deployments if one.selector]
    candidates = moving or labelled
    if len(candidates) != 1:
        return None
    (main,) = candidates
    before = deployments[: list(deployments).index(main)]
    if not as_labels(main.selector) or any(may_overlap(one.selector, main.selector) for one in before):
        return None  # The document has no words for "all but those".
    return main if _can_be_said(main) else None


def _can_be_said(deployment: Deployment) -> bool:
    """Return whether the document has words for the terms of a deployment."""
    if deployment.state == "done":
        return deployment.deadline is None  # Such nodes would move after it.
    by_selector = any(one.selector is not None for one in deployment.reached)
    fetch = deployment.carriage.fetch if deployment.carriage is not None else None
    in_time = (deployment.activate, fetch, deployment.deadline) != (None, None, None)
    return not by_selector and not in_time and deployment.threshold > 0


def _fallbacks(main: Deployment, labels: Mapping[str, str], others: Sequence[Deployment]) -> list[Fallback]:
    """Return what nodes keep or go back to, the first that counts first; it ends where a selector is no set of labels."""
    if main.fallback is None:
        return []  # Its own nodes have nothing to go back to, and would take what other nodes have.
    found = [Fallback(labels=dict(labels), release=main.fallback, parameters=main.parameters_of(main.fallback.digest) or None)]
    for one in others:
        its = as_labels(one.selector)
        if its is None:
            break
        found.append(Fallback(labels=its, release=one.release, parameters=one.parameters_of(one.release.digest) or None))
    return found[:FALLBACKS_MAX]


def _gate(gate: Gate) -> Gate:
    """Return a gate with the fields that such nodes know; only the hub decides by them."""
    return Gate(**{name: getattr(gate, name) for name in GATE_FIELDS})


def _halted(statement: Deployments) -> Rollout:
    """Return the document by which nodes keep what they have; what is set of releases stays in force where it can be said."""
    last = statement.deployments[-1]
    others = [one for one in statement.deployments[:-1] if as_labels(one.selector) is not None]
    rows = [
        Fallback(labels=as_labels(one.selector) or {}, release=one.release, parameters=one.parameters_of(one.release.digest) or None)
        for one in others
    ]
    return _document(statement, last, as_labels(last.selector) or {}, rows[:FALLBACKS_MAX], state="halted", percent=1)


def _document(
    statement: Deployments, main: Deployment, labels: Mapping[str, str], fallbacks: Sequence[Fallback], *, state: str, percent: int
) -> Rollout:
    fields: dict[str, object] = {
        "model": statement.model,
        "serial": statement.serial,
        "release": main.release,
        "state": state,
        "stages": (percent,) if percent == 100 else (percent, 100),
        "salt": main.rollout,
        "labels": dict(labels),
        "gate": _gate(main.gate or Gate()),
        "carriage": main.carriage.model_copy(update={"fetch": None}) if main.carriage is not None else None,
        "parameters": main.parameters_of(main.release.digest) or None,
        "started": main.started,
    }
    if len(fallbacks) == 1 and not fallbacks[0].labels:  # Said as the first version says it, which knows no other way.
        fields |= {"fallback": fallbacks[0].release, "fallback_parameters": fallbacks[0].parameters}
    elif fallbacks:
        fields["fallbacks"] = tuple(fallbacks)
    return Rollout.model_validate(fields)

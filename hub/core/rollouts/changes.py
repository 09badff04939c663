"""Say what a change of a deployment was, for the history: what differs, before and after."""

from typing import Any

from schemas.deployments import Deployment
from schemas.selectors import text_of
from schemas.windows import windows_text


def change_of(before: Deployment | None, after: Deployment | None) -> dict[str, Any]:
    """Return what differs between two states of a deployment; a side is None where there was none, or is none any more."""
    then, now = _shown(before), _shown(after)
    if then is None or now is None:
        return {"before": then, "after": now}
    differing = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return {"before": {name: then.get(name) for name in differing}, "after": {name: now.get(name) for name in differing}}


def _shown(one: Deployment | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "release": one.release.version,
        "fallback": one.fallback.version if one.fallback is not None else None,
        "state": one.state,
        "stage": one.stage + 1,
        "percent": one.percent,
        "where": text_of(one.selector),
        "priority": one.priority,
        "attempt": one.attempt or 0,
        "approvals_left": sum(stage.approve is True for stage in one.stages),
        **_terms(one),
    }


def _terms(one: Deployment) -> dict[str, Any]:
    """Return on what terms nodes are moved, and what is set of a release; what is not given is left out."""
    stages = [f"{stage.percent} %" if stage.percent is not None else text_of(stage.selector or ()) for stage in one.stages]
    found: dict[str, Any] = {
        "stages": stages if len(stages) > 1 else None,
        "gate": one.gate.model_dump(mode="json", exclude_defaults=True) if one.gate is not None else None,
        "carriage": one.carriage.model_dump(mode="json", exclude_none=True, exclude_defaults=True) if one.carriage is not None else None,
        "activate": windows_text(one.activate) if one.activate is not None else None,
        "deadline": one.deadline,
        "parameters": one.parameters_of(one.release.digest),
    }
    return {name: value for name, value in found.items() if value}

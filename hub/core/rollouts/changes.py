"""Say what a change of a deployment was, for the history: what differs, before and after."""

from typing import Any

from schemas.deployments import Deployment
from schemas.selectors import text_of


def change_of(before: Deployment | None, after: Deployment | None) -> dict[str, Any]:
    """Return what differs between two states of a deployment; a side is None where there was none, or is none any more."""
    then, now = _shown(before), _shown(after)
    if then is None or now is None:
        return {"before": then, "after": now}
    differing = [name for name in now if then[name] != now[name]]
    return {"before": {name: then[name] for name in differing}, "after": {name: now[name] for name in differing}}


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
    }

"""Read the statement of hubs before deployments, one rollout a model, as the deployments that it amounts to."""

from math import ceil

from schemas.deployments import DEFAULT, EVERYBODY, WHERE_PRIORITY, Deployment, Deployments, ReleaseParameters, Stage, in_order, name_of
from schemas.rollout import Fallback, Gate, Rollout, all_fallbacks, has_labels
from schemas.selectors import from_labels


def as_deployments(rollout: Rollout, *, expires: int) -> Deployments:
    """Return the deployments that an earlier hub's rollout amounts to: no node moves because of the conversion.

    A rollout to all is the default deployment. A rollout by labels is one of its own above the others; what other nodes go back to stays
    as settled deployments. While a rollout to all goes on, what nodes with some labels had before is no statement any more.
    """
    behind = all_fallbacks(rollout)
    own = next((one for one in behind if has_labels(one.labels, rollout.labels)), None)
    stands = bool(rollout.labels) or rollout.state == "rolled_back"
    others = [one for one in behind if stands and one.labels != rollout.labels]
    main = Deployment(
        name=name_of(from_labels(rollout.labels)),
        priority=WHERE_PRIORITY + len(others) if rollout.labels else 0,
        selector=from_labels(rollout.labels),
        release=rollout.release,
        fallback=own.release if own is not None else None,
        state=rollout.state,
        rollout=rollout.salt,
        stages=tuple(Stage(percent) for percent in rollout.stages),
        stage=min(rollout.stage, len(rollout.stages) - 1),
        threshold=EVERYBODY if rollout.percent >= 100 else ceil(rollout.percent * 2**64 / 100),
        gate=rollout.gate if rollout.gate != Gate() else None,
        carriage=rollout.carriage,
        parameters=_parameters(rollout, own),
        started=rollout.started,
    )
    settled = [_settled(one, rollout, priority=WHERE_PRIORITY + len(others) - 1 - place) for place, one in enumerate(others)]
    return Deployments(model=rollout.model, serial=rollout.serial, expires=expires, deployments=tuple(in_order([main, *settled])))


def _settled(fallback: Fallback, rollout: Rollout, *, priority: int) -> Deployment:
    selector = from_labels(fallback.labels)
    name = name_of(selector)
    return Deployment(
        name=name,
        priority=0 if name == DEFAULT else priority,
        selector=selector,
        release=fallback.release,
        state="done",
        rollout=rollout.salt,
        parameters=(ReleaseParameters(fallback.release.digest, fallback.parameters),) if fallback.parameters else None,
        started=rollout.started,
    )


def _parameters(rollout: Rollout, own: Fallback | None) -> tuple[ReleaseParameters, ...] | None:
    rows = []
    if rollout.parameters:
        rows.append(ReleaseParameters(rollout.release.digest, rollout.parameters))
    if own is not None and own.parameters and own.release.digest != rollout.release.digest:
        rows.append(ReleaseParameters(own.release.digest, own.parameters))
    return tuple(rows) or None

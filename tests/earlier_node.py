"""Answers as a node before deployments does, which reads one rollout a model: what a hub tells such nodes is tested against it."""

from collections.abc import Mapping

from schemas.rollout import Fallback, ReleaseRef, Rollout, all_fallbacks, bucket, has_labels


def selected(rollout: Rollout, labels: Mapping[str, str]) -> bool:
    """Return whether a node with these labels is addressed at all."""
    return has_labels(rollout.labels, labels)


def fallback_of(rollout: Rollout, labels: Mapping[str, str]) -> Fallback | None:
    """Return the release that a node with these labels has from earlier rollouts; None if none of them selected it."""
    return next((one for one in all_fallbacks(rollout) if has_labels(one.labels, labels)), None)


def wanted(rollout: Rollout, *, node: str, labels: Mapping[str, str], serving: bytes | None) -> ReleaseRef | None:
    """Return the release that this node should run; None when it keeps its own. `serving` is the release that it serves, if any.

    A node outside the stage keeps what it serves; only a node that serves nothing takes its fallback. A halted rollout
    moves no node. A rollback moves each node that the rollout has moved, or that serves its release, to the node's own fallback,
    also when its labels have changed since.
    """
    if rollout.state == "halted" or not (selected(rollout, labels) or was_taken_back(rollout, serving)):
        return None
    reached = selected(rollout, labels) and bucket(rollout.salt, node) < rollout.percent
    if reached and rollout.state != "rolled_back":
        return rollout.release
    if not reached and serving is not None and (rollout.state != "rolled_back" or serving != rollout.release.digest):
        return None
    fallback = fallback_of(rollout, labels)
    return fallback.release if fallback is not None else None


def was_taken_back(rollout: Rollout, release: bytes | None) -> bool:
    """Return whether the rollout has gone back from this release."""
    return rollout.state == "rolled_back" and release == rollout.release.digest

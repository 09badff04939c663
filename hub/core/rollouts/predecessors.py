"""Find the releases that a new rollout would replace, by the deployment in which it begins."""

from hub.core.rollouts.rollout import Place
from schemas.rollout import ReleaseRef


def predecessors(place: Place) -> tuple[ReleaseRef, ...]:
    """Return what nodes of this deployment may have by its statement, each release once.

    Where its rollout is not done, nodes that it has not reached have what they fall back to. Those that it has sent back have that, too,
    and its own release where there is none.
    """
    before = place.before
    if before is None:
        return (place.fallback,) if place.fallback is not None else ()
    if before.state == "done":
        return (before.release,)
    found = [before.fallback] if before.fallback is not None else []
    if before.state != "rolled_back" or not found:
        found.append(before.release)
    return tuple(dict.fromkeys(found))

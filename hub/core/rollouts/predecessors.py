"""Find the releases that a new rollout would replace, by the rollout that is signed now."""

from collections.abc import Mapping

from schemas.rollout import ReleaseRef, Rollout, all_fallbacks, has_labels


def predecessors(before: Rollout | None, labels: Mapping[str, str]) -> tuple[ReleaseRef, ...]:
    """Return what nodes with these labels may have by `before`, each release once.

    Where it is not done, or selects only some of these nodes, the others have what they fall back to. Those that it has sent back have
    their fallback, and its own release where there is none for them.
    """
    if before is None:
        return ()
    found: list[ReleaseRef] = []
    if before.state == "done" and _may_share(before.labels, labels):
        found.append(before.release)
        if has_labels(before.labels, labels):
            return tuple(found)
    is_covered = False
    for one in all_fallbacks(before):
        if _may_share(one.labels, labels):
            found.append(one.release)
        if has_labels(one.labels, labels):
            is_covered = True
            break  # every node that is asked about has this one, or one before it
    has_reached_some = before.state in {"running", "halted"} or (before.state == "rolled_back" and not is_covered)
    if has_reached_some and _may_share(before.labels, labels):
        found.append(before.release)
    return tuple(dict.fromkeys(found))


def _may_share(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether a node can have all labels of both."""
    return all(other.get(key, value) == value for key, value in one.items())

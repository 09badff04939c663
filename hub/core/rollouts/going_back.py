"""Decide what going back means for a deployment: where each of its nodes goes, and whether anything is there to go back to.

Nodes decide for themselves (`schemas.deployments.wish`); this says of them what the hub can know. The hub that takes a rollout back and the
question before it go by these functions, so that both name the same releases.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from fleetcast.counted import counted
from hub.core.rollouts.deployments import Model, followers
from hub.core.rollouts.fleet import Node
from hub.core.rollouts.moves import is_where_it_was
from hub.core.rollouts.rollout import Progress, fallback_in_words
from schemas.deployments import DEFAULT, Deployment, deciding
from schemas.errors import Code, Refused

Destinations = Counter[bytes | None]  # How many nodes go to which release; None: to nothing.


def destination(deployment: Deployment, node: Node, model: str) -> bytes | None:
    """Return the release that a node which serves the rollout's release has after going back; None: it serves nothing then.

    A node that the rollout has moved goes to what it served before. One that served the release already, such as by another deployment,
    takes the fallback.
    """
    serving, release = node.serving.get(model), deployment.release.digest
    if serving is not None and serving.since >= deployment.started:
        own = next((slot.last_good for slot in node.state.slots if slot.model == model), None)
        if own is not None and own != release:
            return own
    return deployment.fallback.digest if deployment.fallback is not None else None


def destinations(deployment: Deployment, nodes: Iterable[Node], model: str) -> Destinations:
    """Return where the nodes that serve the rollout's release go, by receipt; `nodes` are those for which the deployment decides."""
    release = deployment.release.digest
    serving = (node for node in nodes if (now := node.serving.get(model)) is not None and now.digest == release)
    return Counter(destination(deployment, node, model) for node in serving)


def check_possible(model: Model, progress: Progress, nodes: Iterable[Node]) -> None:
    """Check that going back changes anything; `nodes` are all that are known.

    Raises:
        Refused: the deployment had the same release before, and no node is known that served another; the reason says what to do instead.
    """
    deployment, known = progress.deployment, list(nodes)
    if deployment.state == "rolled_back" or not is_where_it_was(deployment):
        return
    mine = [node for node in known if _decides(model, node) == deployment.name]
    if set(destinations(deployment, mine, model.name)) - {deployment.release.digest}:
        return
    version, name = deployment.release.version, progress.name
    ways = [f"`{model.command('halt', name)}` stops it"] if deployment.state == "running" else []
    if name != DEFAULT:
        follow = "; ".join(followers(model, name, [node.facts for node in known]))
        ways.append(f"`fleetcast deploy remove {model.name} {name}` takes the deployment away{f': {follow}' if follow else ''}")
    else:
        ways.append(f"`fleetcast rollout start {model.name}@VERSION` moves its nodes to another release")
    raise Refused(
        Code.ROLLOUT_INVALID,
        f"the {progress.title} has nothing to go back to, for its nodes were to serve {version} before it, too; {'; '.join(ways)}",
    )


def _decides(model: Model, node: Node) -> str | None:
    decides = deciding(model.deployments, node.facts)
    return decides.name if decides is not None else None


def in_words(deployment: Deployment, to: Destinations, version_of: Callable[[bytes], str | None]) -> str:
    """Return where nodes go, as the hub's sentence has it: `to 1.2.0`, or `to 1.2.0 (3 nodes) and 1.1.0 (1 node)`."""
    if not to or set(to) == {None}:
        return fallback_in_words(deployment)
    found = [(named(digest, version_of), count) for digest, count in to.most_common()]
    if len(found) == 1:
        return f"to {found[0][0]}"
    parts = [f"{version} ({counted(count, 'node')})" for version, count in found]
    return f"to {', '.join(parts[:-1])} and {parts[-1]}"


def named(digest: bytes | None, version_of: Callable[[bytes], str | None]) -> str:
    """Return a release that nodes go to, for a sentence."""
    return "no release" if digest is None else version_of(digest) or "an earlier release"

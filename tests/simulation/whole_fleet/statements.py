"""What the hub has signed about who runs what, and what follows from it for one node: asked here, and nowhere else in the simulator."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import EVERYBODY, Deployment, Deployments, Envelope, Moved, Run, Stop, deciding, is_reached, position, wish
from schemas.selectors import NodeFacts


def follow(repository: Repository, signed: Callable[[str, Deployments], None]) -> None:
    """Hear of every statement before it is signed: a power cut may come between."""
    sign = repository.set_deployments

    def heard(model: str, document: bytes, **more: Any) -> Any:
        signed(model, codec.decode(Deployments, document))
        return sign(model, document, **more)

    repository.set_deployments = heard  # type: ignore[method-assign]


def statement(repository: Repository, model: str) -> Deployments | None:
    """Return what is in force."""
    envelope = repository.deployments(model)
    return None if envelope is None else codec.decode(Deployments, codec.decode(Envelope, envelope).payload)


def names(found: Deployments, node: str, labels: dict[str, str]) -> bytes | None:
    """Return the release that a stage of this statement names for a node with these labels."""
    facts = NodeFacts(node, labels)
    decides = deciding(found.deployments, facts)
    if decides is None or decides.state not in ("running", "done") or not is_reached(decides, facts):
        return None
    return decides.release.digest


def decides_for(found: Deployments | None, node: str, labels: dict[str, str]) -> Deployment | None:
    return deciding(found.deployments, NodeFacts(node, labels)) if found is not None else None


def wants(
    decides: Deployment | None, node: str, labels: dict[str, str], *, serving: bytes | None, moved: Moved | None, now: int
) -> str | None:
    """Return the version that a node is to run; None: it keeps its own; empty: it is to serve nothing."""
    found = wish(decides, NodeFacts(node, labels), serving=serving, moved=moved, now=now)
    if isinstance(found, Stop):
        return ""
    return found.release.version if isinstance(found, Run) else None


def shares(found: Deployments, known: Mapping[str, Mapping[str, str]]) -> list[tuple[bytes, int, int, int, int]]:
    """Return each rollout that has reached a share of its nodes: its stage, how many it reaches and should, its threshold."""
    rows = []
    for one in found.deployments:
        if one.state != "running" or one.threshold == EVERYBODY or any(stage.selector is not None for stage in one.reached):
            continue
        own = [name for name, labels in known.items() if deciding(found.deployments, NodeFacts(name, labels)) == one]
        reached = sum(position(one.rollout, name) < one.threshold for name in own)
        rows.append((one.rollout, one.stage, reached, ceil(one.percent * len(own) / 100), one.threshold))
    return rows


def words(found: Deployment | None) -> str:
    if found is None:
        return "no deployment"
    return f"{found.name}: {found.release.version} {found.state} {found.percent} %"

"""What the hub has signed about who runs what, and what follows from it for one node: asked here, and nowhere else in the simulator."""

from collections.abc import Callable
from typing import Any

from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment, Deployments, Moved, Run, Stop, deciding, is_reached, wish
from schemas.earlier_rollouts import as_deployments
from schemas.rollout import Rollout
from schemas.selectors import NodeFacts

FOR_EVER = 2**40


def follow(repository: Repository, signed: Callable[[str, Deployments], None]) -> None:
    """Hear of every statement before it is signed: a power cut may come between."""
    for name, read in (("set_deployments", _deployments), ("set_rollout", _rollout)):
        if hasattr(repository, name):
            setattr(repository, name, _heard(getattr(repository, name), read, signed))


def _heard(
    sign: Callable[..., Any], read: Callable[[bytes], Deployments], signed: Callable[[str, Deployments], None]
) -> Callable[..., Any]:
    def heard(model: str, document: bytes, **more: Any) -> Any:
        signed(model, read(document))
        return sign(model, document, **more)

    return heard


def statement(repository: Repository, model: str) -> Deployments | None:
    """Return what is in force."""
    if hasattr(repository, "deployments"):
        document = repository.deployments(model)
        if document is not None:
            return _deployments(document)
    document = repository.rollout(model)
    return None if document is None else _rollout(document)


def _deployments(document: bytes) -> Deployments:
    return codec.decode(Deployments, document)


def _rollout(document: bytes) -> Deployments:
    return as_deployments(codec.decode(Rollout, document), expires=FOR_EVER)


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


def words(found: Deployment | None) -> str:
    if found is None:
        return "no deployment"
    return f"{found.name}: {found.release.version} {found.state} {found.percent} %"

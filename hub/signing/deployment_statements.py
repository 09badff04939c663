"""Read a model's deployments as they are signed, or as an earlier hub's rollout amounts to."""

from dataclasses import dataclass
from functools import lru_cache

from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployments, Envelope, in_order
from schemas.earlier_rollouts import as_deployments
from schemas.rollout import Rollout

STATEMENTS_KEPT = 256  # As read before: a running hub asks for each model's again and again.


@dataclass(frozen=True, slots=True)
class Statement:
    """Hold a model's deployments; `key` is the id of the key that has signed them, empty where they are not signed as such yet."""

    deployments: Deployments
    key: str = ""


def read(repository: Repository, model: str) -> Statement | None:
    """Return a model's deployments; None where nothing was ever rolled out.

    A rollout with a higher serial than the deployments is of an earlier hub, which ran in between: what it said of a deployment counts.
    """
    return _read(repository.deployments(model), repository.rollout(model))


@lru_cache(maxsize=STATEMENTS_KEPT)
def _read(sealed: bytes | None, document: bytes | None) -> Statement | None:
    earlier = codec.decode(Rollout, document) if document is not None else None
    if sealed is None:
        return Statement(as_deployments(earlier, expires=0)) if earlier is not None else None
    envelope = codec.decode(Envelope, sealed)
    signed = codec.decode(Deployments, envelope.payload)
    if earlier is None or earlier.serial <= signed.serial:
        return Statement(signed, envelope.key.hex())
    taken_over = as_deployments(earlier, expires=0).deployments
    names = {one.name for one in taken_over}
    both = in_order([*taken_over, *(one for one in signed.deployments if one.name not in names)])
    return Statement(signed.model_copy(update={"serial": earlier.serial, "deployments": tuple(both)}))

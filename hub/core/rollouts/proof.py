"""Hold what a node's receipts prove, folded, as a document: a hub reads one for each node at its start in place of every receipt.

It changes nothing of what `fleet.fold_receipt` has decided. A hub that has none of a node folds the node's receipts again.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hub.core.rollouts import fleet
from hub.core.rollouts.receipt_order import parted, position
from hub.core.rollouts.refusals import Reported
from schemas import codec, limits
from schemas.document import Document, Fact
from schemas.names import Digest, ModelName
from schemas.quantities import Seconds
from schemas.state import Finding

_Code = Annotated[str, Field(max_length=64)]


class Served(Fact):
    """Hold what is served of a model."""

    model: ModelName
    version: Annotated[str, Field(max_length=64)]
    digest: Digest
    since: Seconds
    shadow: _Code | None = None


class Failed(Fact):
    """Hold the failures of a release; `code` is None where it was served since, and `at` are the times of all of them."""

    model: ModelName
    digest: Digest
    outcome: Literal["refused", "rolled_back"] = "refused"
    code: _Code | None = None
    received_at: Seconds = 0
    at: Annotated[tuple[int, ...], Field(max_length=fleet.FAILURES_KEPT)] = ()


class Measured(Fact):
    """Hold the latency of a release, the newest of its model first."""

    model: ModelName
    digest: Digest
    milliseconds: Annotated[float, Field(ge=0)]


class Newest(Fact):
    """Hold the place of the newest receipt of a model."""

    model: ModelName
    epoch: Annotated[int, Field(ge=0)]
    sequence: Annotated[int, Field(ge=0)]


class RefusedDocument(Fact):
    """Hold a document that receipts say is refused; the key is the model, "" for the trust bundle."""

    key: Annotated[str, Field(max_length=64)]
    sequence: Annotated[int, Field(ge=0)]
    finding: Finding


class Proof(Document):
    """Hold all of it for one node."""

    schema_name: ClassVar[str] = "proof"
    bytes_max: ClassVar[int] = 4 * limits.MIB

    serving: tuple[Served, ...] = ()
    failed: tuple[Failed, ...] = ()
    measured: tuple[Measured, ...] = ()
    newest: tuple[Newest, ...] = ()
    refused: tuple[RefusedDocument, ...] = ()


def proof_of(node: fleet.Node) -> bytes:
    """Return what a node's receipts prove, to be kept."""
    failed = [_failed(node, key) for key in sorted(node.failures.keys() | node.failed_at.keys())]
    return codec.encode(
        Proof(
            serving=tuple(
                Served(model=model, version=one.version, digest=one.digest, since=one.since, shadow=one.shadow)
                for model, one in sorted(node.serving.items())
            ),
            failed=tuple(failed),
            measured=tuple(
                Measured(model=model, digest=digest, milliseconds=latency)
                for model, found in sorted(node.measured.items())
                for digest, latency in found
            ),
            newest=tuple(_newest(model, place) for model, place in sorted(node.newest.items())),
            refused=tuple(
                RefusedDocument(key=key, sequence=one.sequence, finding=one.finding) for key, one in sorted(node.refused.items())
            ),
        )
    )


def with_proof(node: fleet.Node, body: bytes) -> fleet.Node:
    """Return a node with what its receipts prove.

    Raises:
        Refused: another version of this program wrote it.
    """
    proof = codec.decode(Proof, body)
    measured: dict[str, tuple[tuple[bytes, float], ...]] = {}
    for one in proof.measured:
        measured[one.model] = (*measured.get(one.model, ()), (one.digest, one.milliseconds))
    return replace(
        node,
        serving={one.model: fleet.Serving(one.version, one.digest, one.since, one.shadow) for one in proof.serving},
        failures={
            (one.model, one.digest): fleet.Failure(one.outcome, one.code, one.received_at) for one in proof.failed if one.code is not None
        },
        failed_at={(one.model, one.digest): one.at for one in proof.failed if one.at},
        measured=measured,
        newest={one.model: position(one.epoch, one.sequence) for one in proof.newest},
        refused=refused_of(proof),
    )


def refused_of(proof: Proof) -> dict[str, Reported]:
    """Return the documents that the node refuses by its receipts."""
    return {one.key: Reported(one.sequence, one.finding) for one in proof.refused}


def _failed(node: fleet.Node, key: tuple[str, bytes]) -> Failed:
    model, digest = key
    failure, times = node.failures.get(key), node.failed_at.get(key, ())
    if failure is None:
        return Failed(model=model, digest=digest, at=times)
    return Failed(model=model, digest=digest, outcome=failure.outcome, code=failure.code, received_at=failure.received_at, at=times)


def _newest(model: str, place: int) -> Newest:
    epoch, sequence = parted(place)
    return Newest(model=model, epoch=epoch, sequence=sequence)

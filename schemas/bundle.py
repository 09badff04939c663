"""Define what the hub retains on `trust`, `trust/time`, `trust/roles` and `model/<name>`: TUF metadata and what it vouches for.

One message holds all that must agree, so it is atomic. A node trusts nothing in it before node/trust/tuf_client.py has verified it. What is
listed in a bundle is bounded here and checked one by one there, so that what a node does not understand is refused alone.
"""

from typing import Annotated, NamedTuple

from pydantic import Field

from schemas import limits
from schemas.document import Document
from schemas.names import ModelName

MINIMUM_FIELD = "x-fleetcast-minimum"  # Field of the offline targets role: the oldest version of each model that a node may still activate.
# Field of the timestamp role: the newest minor version of documents that the hub reads, by schema name. Programs from before minor versions
# refuse a document that carries one, so a node sends it only to a hub that reads it.
READS_FIELD = "x-fleetcast-reads"
BundledName = Annotated[str, Field(min_length=1, max_length=limits.BUNDLED_NAME_MAX)]
BundledBytes = Annotated[bytes, Field(max_length=limits.BUNDLED_BYTES_MAX)]
Role = Annotated[bytes, Field(min_length=2, max_length=limits.TRUST_ROLE_BYTES_MAX)]  # TUF metadata, canonical JSON as signed


class RolloutBytes(NamedTuple):
    """Carry an encoded `Rollout`, listed by the rollouts role as `rollouts/<model>`."""

    model: BundledName
    document: BundledBytes


class ManifestBytes(NamedTuple):
    """Carry an encoded `Manifest`, listed by the model's role as `models/<name>/<version>`."""

    version: BundledName
    document: BundledBytes


class TrustBundle(Document):
    """Carry root chain, timestamp, snapshot, targets, the rollouts role and the rollouts themselves."""

    schema_name = "trust"
    bytes_max = limits.TRUST_BUNDLE_BYTES_MAX
    decoded_bytes_max = limits.TRUST_BUNDLE_DECODED_BYTES_MAX
    quick_from = limits.QUICK_BYTES_MIN

    roots: Annotated[tuple[Role, ...], Field(min_length=1, max_length=limits.ROOTS_MAX)]  # Every version, oldest first.
    timestamp: Role
    snapshot: Role
    targets: Role
    rollouts: Role
    documents: Annotated[tuple[RolloutBytes, ...], Field(max_length=limits.MODELS_MAX)] = ()


class TrustRoles(Document):
    """Carry root chain, timestamp, snapshot and targets. Nodes fetch it when they need it, and do not stay subscribed."""

    schema_name = "trust-roles"
    bytes_max = limits.TRUST_BUNDLE_BYTES_MAX
    decoded_bytes_max = limits.TRUST_BUNDLE_DECODED_BYTES_MAX
    quick_from = limits.QUICK_BYTES_MIN

    roots: Annotated[tuple[Role, ...], Field(min_length=1, max_length=limits.ROOTS_MAX)]  # Every version, oldest first.
    timestamp: Role
    snapshot: Role
    targets: Role


class TrustTime(Document):
    """Carry the TUF timestamp alone: it proves that what a node trusts is still fresh, and costs little enough to be said every hour."""

    schema_name = "trust-time"
    bytes_max = limits.TRUST_TIME_BYTES_MAX

    timestamp: Annotated[bytes, Field(min_length=2, max_length=limits.TRUST_TIME_BYTES_MAX)]


class ModelBundle(Document):
    """Carry a model's delegated role and its current manifests."""

    schema_name = "model"
    bytes_max = limits.MODEL_BUNDLE_BYTES_MAX
    decoded_bytes_max = limits.MODEL_BUNDLE_DECODED_BYTES_MAX

    model: ModelName
    role: Role
    manifests: Annotated[tuple[ManifestBytes, ...], Field(max_length=limits.MANIFESTS_PER_MODEL_MAX)]


def role_name(model: str) -> str:
    """Return the TUF role that a model's team signs; the prefix keeps a model named `rollouts` or `root` apart from those roles."""
    return f"model-{model}"

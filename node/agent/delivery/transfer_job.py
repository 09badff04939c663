"""Hold one release on its way to disk: what it consists of, how far it is, and why it waits."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from node.core.activation.lifecycle import Target
from node.core.delivery import transfer as core
from node.core.trust.clock import MonotonicSeconds
from schemas.errors import Code
from schemas.manifest import File, Manifest
from schemas.rollout import Carriage


@dataclass(slots=True)
class TransferJob:
    """Fetch first its block lists, where they are too long for the manifest, then its files."""

    model: str
    target: Target
    manifest: Manifest
    variant: str
    files: tuple[File, ...]
    carriage: Carriage
    follows: bool  # another release of the model is here: this one need not come whole
    in_index: bool = True
    rollout: str = ""  # The id under which it is logged.
    paths: list[str] = field(default_factory=list)
    scan: Iterator[core.Piece] | None = None
    missing: list[core.Piece] = field(default_factory=list)
    transfer: core.Transfer | None = None
    instead_bytes: int = 0  # to be fetched whole, because a delta's parent is not here
    parked_until: MonotonicSeconds | None = None  # a full disk
    code: Code | None = None  # why it waits

"""One release on its way to disk and into a worker, and what is said of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from node.core.activation.lifecycle import Target
from node.core.delivery import transfer as core
from node.core.trust.clock import MonotonicSeconds
from node.serving import Prepared
from schemas.errors import Code, FleetcastError, Refused
from schemas.manifest import File, Manifest
from schemas.rollout import Carriage


@dataclass(slots=True)
class Job:
    """First its block lists, where they are too long for the manifest, then its files."""

    model: str
    target: Target
    manifest: Manifest
    variant: str
    files: tuple[File, ...]
    carriage: Carriage
    follows: bool  # another release of the model is here: this one need not come whole
    in_index: bool = True
    paths: list[str] = field(default_factory=list)
    scan: Iterator[core.Piece] | None = None
    missing: list[core.Piece] = field(default_factory=list)
    transfer: core.Transfer | None = None
    instead_bytes: int = 0  # to be fetched whole, because a delta's parent is not here
    parked_until: MonotonicSeconds | None = None  # a full disk
    code: Code | None = None  # why it waits


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `refusal` is None when every file is on disk and verified."""

    model: str
    target: Target
    refusal: Refused | None


@dataclass(frozen=True, slots=True)
class Stalled:
    """A job waits, for a reason that has a code; without one it goes on."""

    model: str
    target: Target
    code: Code | None
    reason: str


class Fetcher(Protocol):
    """What brings releases to disk."""

    def start(
        self,
        model: str,
        target: Target,
        manifest: Manifest,
        variant: str,
        now: MonotonicSeconds,
        *,
        carriage: Carriage | None,
        follows: bool,
    ) -> None:
        """Begin."""

    def carry(self, model: str, carriage: Carriage | None) -> None:
        """The rollout says otherwise how the bytes may travel."""

    def cancel(self, model: str) -> None:
        """Give up."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker was prepared, or why not."""

    model: str
    target: Target
    result: Prepared | Refused
    ticket: int  # of the start that it is the end of


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker ended by itself."""

    model: str
    digest: bytes
    reason: str
    deaths: int  # in a row
    is_damaged: bool = False  # and the files that another one was to load differ from the manifest


@dataclass(frozen=True, slots=True)
class EndpointAnswered:
    """The endpoint of a model was asked as clients ask: the release that answered, or why none did."""

    model: str
    target: Target  # that was expected
    number: int  # of the question
    answered_by: bytes | None
    error: FleetcastError | None

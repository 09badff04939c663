"""Define what the store returns of its tables."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ByteUsage:
    """Hold the byte counts of one release's transfer. planned = received + reused + what is missing; wasted comes on top."""

    planned: int = 0
    received: int = 0
    reused: int = 0
    wasted: int = 0


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Hold a verified block on disk; `path` is relative to the artifacts' folder."""

    digest: bytes
    path: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Hold a message that the broker has not taken yet."""

    id: int
    kind: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class ReportedCounts:
    """Hold counts that came under an id, and when their interval leaves; `right` and `wrong` are None once it has left."""

    release: bytes
    start: int
    right: int | None
    wrong: int | None
    due: int

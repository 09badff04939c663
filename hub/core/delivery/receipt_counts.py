"""Tell the bytes of one move from those of the moves before it: a node counts a release's bytes for as long as it has its store."""

from dataclasses import dataclass
from typing import Self

from schemas.receipt import Evidence
from schemas.state import Slot


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold the payload bytes of a release on a node: planned = received + reused + missing; wasted come on top."""

    planned: int = 0
    received: int = 0
    reused: int = 0
    wasted: int = 0

    @classmethod
    def of(cls, reported: Evidence | Slot) -> Self:
        """Return what a receipt or a state reports."""
        return cls(reported.bytes_planned, reported.bytes_received, reported.bytes_reused, reported.bytes_wasted)

    def since(self, before: "Counts | None") -> "Counts":
        """Return what was counted after an earlier report; all of it where there is none, or the node has begun to count anew."""
        if before is None or before.received > self.received or before.reused > self.reused or before.wasted > self.wasted:
            return self
        planned = max(0, self.planned - before.received - before.reused)
        return Counts(planned, self.received - before.received, self.reused - before.reused, self.wasted - before.wasted)

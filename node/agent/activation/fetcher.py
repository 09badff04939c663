"""Name what the slots need of whatever brings releases to disk."""

from typing import Protocol

from node.core.activation.lifecycle import Target
from node.core.trust.clock import MonotonicSeconds
from schemas.manifest import Manifest
from schemas.rollout import Carriage


class Fetcher(Protocol):
    """Bring releases to disk."""

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
        """Take in that the rollout says otherwise how the bytes may travel."""

    def cancel(self, model: str) -> None:
        """Give up."""

"""Decide which releases stay on this disk: what is fetched now, served, last good, or needed by a delta that is announced."""

import contextlib
from collections.abc import Iterable, Sequence

import structlog

from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.core.activation.lifecycle import ModelSlot
from node.storage.artifacts import Artifacts
from node.storage.store import NodeStore
from node.trust.tuf_client import Release
from schemas.errors import Refused

log = structlog.get_logger()


def held(slots: Iterable[ModelSlot]) -> set[bytes]:
    """Return the releases that slots name."""
    return {target.digest for slot in slots for target in (slot.target, slot.serving, slot.last_good) if target is not None}


class GarbageCollection:
    """Remove what nobody needs."""

    def __init__(self, store: NodeStore, artifacts: Artifacts, manifests: Manifests, parameters: Parameters) -> None:
        self._store, self._artifacts, self._manifests, self._parameters = store, artifacts, manifests, parameters
        self._announced: dict[str, tuple[tuple[bytes, int, tuple[bytes, ...]], ...]] = {}  # digest, created, parents, by model

    def announced(self, releases: Sequence[Release]) -> None:
        """Take in a model's current releases: what the newer ones are deltas of must not be removed before they are here."""
        for model in {release.manifest.model for release in releases}:
            self._announced[model] = tuple((one.digest, one.manifest.created, one.manifest.parents or ()) for one in releases)

    def removed(self, model: str) -> None:
        """Take in that a model is not on this device any more."""
        self._announced.pop(model, None)

    def tidy(self, slots: Iterable[ModelSlot]) -> None:
        """Remove whatever these slots do not need, half-finished releases too."""
        present = list(slots)
        kept = held(present) | {parent for slot in present for parent in self._needed(slot)}
        for digest in set(self._artifacts.releases()) - kept:
            self._store.forget_blocks(digest.hex())
            self._artifacts.remove(digest)
            self._manifests.forget(digest)
            self._parameters.forget(digest)
            log.info("release.removed", release=digest.hex()[:12])

    def _needed(self, slot: ModelSlot) -> set[bytes]:
        settled = {target.digest for target in (slot.serving, slot.last_good) if target}
        since = 0
        if slot.serving is not None:
            with contextlib.suppress(Refused):  # The manifest is damaged, and comes again; until then nothing that it may need goes.
                since = self._manifests.get(slot.serving.digest).created
        newer = [one for one in self._announced.get(slot.model, ()) if one[0] not in settled and one[1] >= since]
        return {parent for _, _, parents in newer for parent in parents}

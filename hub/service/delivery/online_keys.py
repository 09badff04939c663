"""Follow the metadata when it names another key for a role that the hub signs: take the new key up while the hub runs."""

from collections.abc import Callable, Collection
from typing import Protocol

import structlog
from securesystemslib.signer import Signer

from hub.service.alerts.event_log import Notes
from hub.signing.signatures import ReplaceableSigner
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert
from schemas.errors import Refused

log = structlog.get_logger()

AGAIN_SECONDS = 10.0  # Between two attempts to open a key that could not be opened.
SHORT = 12


class LoadKey(Protocol):
    """Open the key of a role that is one of these."""

    def __call__(self, role: str, keyids: Collection[str]) -> Signer:
        """Open it, or raise Refused."""


class OnlineKeys:
    """Hold the keys of the roles that the hub signs, and replace each when the root or the targets role names another."""

    def __init__(
        self,
        *,
        repository: Repository,
        keys: dict[str, ReplaceableSigner],
        load: LoadKey,
        notes: Notes,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._repository, self._keys, self._load, self._notes = repository, keys, load, notes
        self._wall, self._monotonic = wall, monotonic
        self._generation = -1
        self._again_at = float("inf")
        self._reported: dict[str, tuple[str, ...]] = {}

    def tick(self) -> None:
        """Look whether roles name other keys, if anything was signed since the last look."""
        generation, now = self._repository.generation(), self._monotonic()
        if generation == self._generation and now < self._again_at:
            return
        self._generation, self._again_at = generation, float("inf")
        for role, key in self._keys.items():
            wanted = tuple(self._repository.keyids(role))
            if key.public_key.keyid not in wanted:
                self._take_up(role, key, wanted)

    def _take_up(self, role: str, key: ReplaceableSigner, wanted: tuple[str, ...]) -> None:
        before = key.public_key.keyid[:SHORT]
        try:
            key.replace(self._load(role, wanted))
        except Refused as refusal:
            self._again_at = self._monotonic() + AGAIN_SECONDS
            if self._reported.get(role) != wanted:
                self._reported[role] = wanted
                text = f"the hub cannot sign {role} any more: its key was replaced, and the new one cannot be opened: {refusal.reason}"
                self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(refusal.code), text=text))
            return
        self._reported.pop(role, None)
        after = key.public_key.keyid[:SHORT]
        self._notes.event("key", f"the hub signs {role} with key {after} in place of {before}", role=role, key=after)

"""Follow the metadata when it names another key for a role that the hub signs: take the new key up while the hub runs."""

import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import structlog
from securesystemslib.signer import Signer

from hub.service.alerts.event_log import Notes
from hub.signing.signatures import ReplaceableSigner
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused

log = structlog.get_logger()

AGAIN_SECONDS = 10.0  # Between two attempts to open a key that could not be opened.
SHORT = 12
KEY_CODES = (str(Code.KEY_NOT_AUTHORISED), str(Code.KEY_UNREADABLE), str(Code.KEY_PASSPHRASE))


class LoadKey(Protocol):
    """Open the key of a role that is one of these."""

    def __call__(self, role: str, keyids: Collection[str]) -> Signer:
        """Open it, or raise Refused."""


def place_in_words(directory: Path) -> str:
    """Return where a process reads its keys: the folder, and the machine."""
    return f"{directory.resolve()} on {socket.gethostname()}"


class OnlineKeys:
    """Hold the keys of the roles that the hub signs, and replace each when the root or the targets role names another."""

    def __init__(
        self,
        *,
        repository: Repository,
        keys: dict[str, ReplaceableSigner],
        load: LoadKey,
        notes: Notes,
        place: str = "the fleet's folder",
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._repository, self._keys, self._load, self._notes = repository, keys, load, notes
        self._place = place
        self._wall, self._monotonic = wall, monotonic
        self._generation = -1
        self._again_at = float("inf")
        self._reported: dict[str, tuple[str, ...]] = {}
        self._lacks: set[str] = set()

    @property
    def lacks(self) -> frozenset[str]:
        """Return the roles that cannot be signed now."""
        return frozenset(self._lacks)

    def tick(self) -> None:
        """Look whether roles name other keys, if anything was signed since the last look."""
        generation, now = self._repository.generation(), self._monotonic()
        if generation == self._generation and now < self._again_at:
            return
        self._generation, self._again_at = generation, float("inf")
        for role, key in self._keys.items():
            wanted = tuple(self._repository.keyids(role))
            if key.public_key.keyid in wanted:
                self._have(role)
            else:
                self._take_up(role, key, wanted)

    def _have(self, role: str) -> None:
        self._reported.pop(role, None)
        for code in KEY_CODES if role in self._lacks else ():
            self._notes.troubles.end(code, about=role)
        self._lacks.discard(role)

    def _take_up(self, role: str, key: ReplaceableSigner, wanted: tuple[str, ...]) -> None:
        before = key.public_key.keyid[:SHORT]
        try:
            key.replace(self._load(role, wanted))
        except Refused as refusal:
            self._again_at = self._monotonic() + AGAIN_SECONDS
            text = f"the hub cannot sign {role} any more: {without_key(role, refusal, self._place)}"
            self._lacks.add(role)
            for code in KEY_CODES:
                if code != refusal.code:
                    self._notes.troubles.end(code, about=role)
            self._notes.troubles.begin(str(refusal.code), text, about=role)
            if self._reported.get(role) != wanted:
                self._reported[role] = wanted
                self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(refusal.code), text=text))
            return
        self._have(role)
        after = key.public_key.keyid[:SHORT]
        self._notes.event("key", f"the hub signs {role} with key {after} in place of {before}", role=role, key=after)


class StandbyKeys:
    """Know whether a process that stands by could sign if it led, and open the keys that replace its own."""

    def __init__(self, repository: Repository, keys: Mapping[str, Signer], load: LoadKey, *, monotonic: Callable[[], float]) -> None:
        self._repository, self._load, self._monotonic = repository, load, monotonic
        self._held = {role: signer.public_key.keyid for role, signer in keys.items()}
        self._generation, self._again_at = -1, float("inf")
        self.lacks: dict[str, Refused] = {}  # Roles that it could not sign, each with why its key cannot be opened.

    def look(self) -> None:
        """Look whether roles name other keys than this process has, if anything was signed since the last look."""
        generation, now = self._repository.generation(), self._monotonic()
        if generation == self._generation and now < self._again_at:
            return
        self._generation, self._again_at = generation, float("inf")
        for role, keyid in self._held.items():
            wanted = self._repository.keyids(role)
            try:
                self._held[role] = keyid if keyid in wanted else self._load(role, wanted).public_key.keyid
                self.lacks.pop(role, None)
            except Refused as refusal:
                self.lacks[role] = refusal
                self._again_at = now + AGAIN_SECONDS


def without_key(role: str, refusal: Refused, place: str) -> str:
    """Return in words why a role's new key is not there, in this folder on this machine, and what mends it."""
    if refusal.code is Code.KEY_PASSPHRASE:
        return f"its key was replaced, and the new one in {place} needs the passphrase of the old one: {refusal.reason}"
    mend = f"copy online/{role}.pem, or {role}.uri, there from the machine where the key was made; the hub takes it up by itself"
    return f"its key was replaced, and {place} has not the new one ({refusal.reason}): {mend}"

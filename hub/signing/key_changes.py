"""Change which keys the fleet's roles name: draft the new root and targets, have holders sign them, and take them over when that is whole.

The draft is the same where all keys are in the fleet's folder and where each holder signs elsewhere (hub/signing/key_offers.py).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from hub.core.publish.metadata_expiry import Severity, expiry, life
from hub.signing.delegations import delegate_to, set_keys
from hub.signing.key_offers import Offer
from hub.signing.metadata_files import files_of
from schemas.bundle import MINIMUM_FIELD, role_name
from schemas.errors import Code, Refused
from schemas.manifest import target_path
from schemas.names import check_name, check_version
from schemas.rollout import rollout_path

TopLevel = Literal["targets", "snapshot", "timestamp"]
ROLLOUTS = "rollouts"


@dataclass(frozen=True, slots=True)
class RootHolders:
    """Say who holds root keys afterwards, and how many of them have to sign."""

    keys: Sequence[Key]
    threshold: int


@dataclass(frozen=True, slots=True)
class Change:
    """Say what is to be different. A team of None: nobody may sign for the model."""

    holders: RootHolders | None = None
    top: Mapping[TopLevel, Key] = field(default_factory=dict)
    rollouts: Key | None = None
    teams: Mapping[str, Key | None] = field(default_factory=dict)
    minimums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Hold which keys sign a role, and until when what they signed holds."""

    role: str
    keyids: tuple[str, ...]
    threshold: int
    expires: datetime | None
    severity: Severity


class KeyChanges:
    """Draft and take over changes of keys in a repository's folder."""

    def __init__(self, directory: Path, fleet: str) -> None:
        self._folder, self._fleet = files_of(directory), fleet

    def roles(self, now: datetime) -> list[RoleKeys]:
        """Return every role with its keys: those of the root, the rollouts, then the models'. A role without metadata has no expiry."""
        with self._folder.locked():
            root, targets = self._folder.newest("root", Root).signed, self._folder.newest("targets", Targets).signed
            delegated = dict((targets.delegations.roles or {}) if targets.delegations is not None else {})
            versions = self._folder.versions()
            found = []
            for role, named in [*((name, root.roles[name]) for name in ("root", "targets", "snapshot", "timestamp")), *delegated.items()]:
                expires = self._folder.newest_of_any_kind(role).signed.expires if versions.get(role) else None
                severity: Severity = expiry(role, expires, now).severity if expires is not None else "ok"
                found.append(RoleKeys(role, tuple(named.keyids), named.threshold, expires, severity))
            return found

    def root_keys(self) -> RootHolders:
        """Return the present holders of root keys."""
        with self._folder.locked():
            root = self._folder.newest("root", Root).signed
        return RootHolders([root.keys[one] for one in root.roles["root"].keyids], root.roles["root"].threshold)

    def draft(self, change: Change, *, now: datetime) -> Offer:
        """Return the new metadata, without signatures.

        Raises:
            Refused: KEY_NOT_AUTHORISED: fewer root keys than the threshold; RELEASE_UNKNOWN: no such model.
        """
        with self._folder.locked():
            roots = [
                Metadata[Root].from_bytes(self._folder.read(self._folder.path("root", one + 1)))
                for one in range(self._folder.version("root"))
            ]
            targets: Metadata[Targets] = self._folder.newest("targets", Targets)
        new_root = _changed_root(roots[-1].signed, change) if change.holders is not None or change.top else None
        wants_targets = "targets" in change.top or change.rollouts is not None or change.teams or change.minimums
        new_targets = _changed_targets(targets.signed, change) if wants_targets else None
        return Offer(self._fleet, tuple(roots), targets, _unsigned(new_root, now), _unsigned(new_targets, now))

    def take_over(self, offer: Offer, *, now: datetime) -> bool:
        """Put what has all its signatures into force; return whether anything changed. To take over the same again changes nothing.

        Raises:
            Refused: KEY_NOT_AUTHORISED: signatures are missing, which are named; TRUST_ROLLBACK: other metadata has been signed since the
                offer was made; TRUST_EXPIRED: the offer is too old.
        """
        missing = offer.missing()
        if missing:
            raise Refused(Code.KEY_NOT_AUTHORISED, "; ".join(f"{role}: {text}" for role, text in missing.items()))
        if offer.fleet != self._fleet:
            raise Refused(Code.SETTINGS_INVALID, f"the offer is for fleet {offer.fleet!r}, and this is {self._fleet!r}")
        if offer.expires() <= now:
            raise Refused(Code.TRUST_EXPIRED, f"what was offered expired at {offer.expires():%Y-%m-%d %H:%M}: make the offer anew")
        with self._folder.locked():
            steps = [(role, _bytes(document, [root for _, root in roots], role)) for role, document, roots in offer.documents()]
            left = [(role, data) for role, data in steps if not self._is_in_force(role, data, offer)]
            if any(role == "root" for role, _ in left) or offer.root is None:
                self._check_follows("root", offer.present_root)
            for role, data in left:
                self._folder.write(self._folder.path(role, self._folder.version(role) + 1), data)
            return bool(left)

    def _is_in_force(self, role: str, data: bytes, offer: Offer) -> bool:
        """Return whether this was taken over before.

        Raises:
            Refused: TRUST_ROLLBACK: it does not follow what is in force.
        """
        version = self._folder.version(role)
        wanted = next(document.signed.version for name, document, _ in offer.documents() if name == role)
        if version == wanted and _signed_part(self._folder.read(self._folder.path(role, version))) == _signed_part(data):
            return True
        if version + 1 != wanted:
            reason = f"the offer is for version {wanted} of {role}, and version {version} is in force: make the offer anew"
            raise Refused(Code.TRUST_ROLLBACK, reason)
        if role == "targets":
            self._check_follows(role, offer.present_targets)
        return False

    def _check_follows(self, role: str, present: Metadata[Any]) -> None:
        known = self._folder.newest_of_any_kind(role)
        if known.signed_bytes != present.signed_bytes:
            reason = f"{role} is another one than when the offer was made (version {known.signed.version}): make the offer anew"
            raise Refused(Code.TRUST_ROLLBACK, reason)


def _changed_root(before: Root, change: Change) -> Root:
    root = deepcopy(before)
    if change.holders is not None:
        keys = {key.keyid: key for key in change.holders.keys}
        if not 1 <= change.holders.threshold <= len(keys):
            reason = f"a threshold of {change.holders.threshold} needs as many root keys, found {len(keys)}"
            raise Refused(Code.KEY_NOT_AUTHORISED, reason)
        set_keys(root, "root", list(keys.values()), threshold=change.holders.threshold)
    for role, key in change.top.items():
        set_keys(root, role, [key])
    root.version += 1
    return root


def _changed_targets(before: Targets, change: Change) -> Targets:
    targets = deepcopy(before)
    if change.rollouts is not None:
        delegate_to(targets, ROLLOUTS, [change.rollouts], rollout_path("*"))
    known = list(targets.delegations.roles or {}) if targets.delegations is not None else []
    for model in (*change.teams, *change.minimums):
        if role_name(check_name("model", model)) not in known:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no model {model!r}")
    for model, key in change.teams.items():
        delegate_to(targets, role_name(model), [key] if key is not None else [], target_path(model, "*"))
    for model, version in change.minimums.items():
        targets.unrecognized_fields.setdefault(MINIMUM_FIELD, {})[model] = check_version(version)
    targets.version += 1
    return targets


def _unsigned(signed: Any, now: datetime) -> Any:
    """Return metadata without signatures, or None. Its life begins now, whenever the last holder signs."""
    if signed is None:
        return None
    signed.expires = (now + life(signed.type)).replace(microsecond=0)
    return Metadata(signed)


def _bytes(document: Metadata[Any], roots: Sequence[Root], role: str) -> bytes:
    """Return metadata as it is kept: without signatures of keys that nobody names."""
    named = {keyid for root in roots for keyid in root.roles[role].keyids}
    document.signatures = {keyid: one for keyid, one in document.signatures.items() if keyid in named}
    return document.to_bytes()


def _signed_part(data: bytes) -> bytes:
    return Metadata[Any].from_bytes(data).signed_bytes

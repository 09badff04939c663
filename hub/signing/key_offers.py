"""Carry metadata that names other keys from holder to holder in a file, so that each signs on their own machine.

The file holds the roots from the first to the present one, the new metadata, and the signatures so far. A holder's machine needs nothing
else: no fleet's folder, no network. What it shows of the change it reads from the metadata itself, and from no description in the file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import CanonicalJSONSerializer

from fleetcast import disk_room, durable
from fleetcast.counted import counted as number_of
from hub.signing.signatures import add_signature
from schemas.bundle import MINIMUM_FIELD, role_name
from schemas.errors import Code, Refused
from schemas.limits import ROOTS_MAX
from schemas.names import sha256
from schemas.patterns import reason_of

OFFER_BYTES_MAX = 4 * 1024 * 1024  # A targets role with 1,000 models and a key for each has 400 KB.
KIND = "fleetcast key offer"
VERSION = 1
SHORT = 12  # Digits of a key's id that people compare.


class _Form(BaseModel):
    """Describe the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    version: int = Field(ge=1)
    fleet: str = Field(max_length=64)
    roots: list[dict[str, Any]] = Field(min_length=1, max_length=ROOTS_MAX)
    present_targets: dict[str, Any]
    root: dict[str, Any] | None = None
    targets: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """Hold new metadata that waits for signatures, and what it is to follow."""

    fleet: str
    roots: tuple[Metadata[Root], ...]  # The chain from the first to the present one.
    present_targets: Metadata[Targets]
    root: Metadata[Root] | None
    targets: Metadata[Targets] | None

    @property
    def present_root(self) -> Metadata[Root]:
        """Return the root that is in force now."""
        return self.roots[-1]

    @property
    def next_root(self) -> Root:
        """Return the root that is in force afterwards."""
        return (self.root or self.present_root).signed

    def documents(self) -> "Iterator[tuple[str, Metadata[Any], list[tuple[str, Root]]]]":
        """Yield each new role with the roots whose keys have to sign it, and what each of these is."""
        if self.root is not None:
            yield "root", self.root, [("present", self.present_root.signed), ("new", self.root.signed)]
        if self.targets is not None:
            yield "targets", self.targets, [("new" if self.root is not None else "present", self.next_root)]

    def sign(self, signer: Signer) -> list[str]:
        """Add a key's signatures wherever the key is named, and return the names of the roles that it has signed.

        Raises:
            Refused: KEY_NOT_AUTHORISED: nothing in here is to be signed by it.
        """
        keyid, done = signer.public_key.keyid, list[str]()
        for role, document, roots in self.documents():
            if any(keyid in root.roles[role].keyids for _, root in roots):
                add_signature(document, signer)
                done.append(role)
        if not done:
            named = sorted({one[:SHORT] for role, _, roots in self.documents() for _, root in roots for one in root.roles[role].keyids})
            reason = f"key {keyid[:SHORT]} has nothing to sign here: this offer is for {', '.join(named)}"
            raise Refused(Code.KEY_NOT_AUTHORISED, reason)
        return done

    def merge(self, other: "Offer") -> None:
        """Add the signatures of another copy.

        Raises:
            Refused: SETTINGS_INVALID: it is of another offer.
        """
        if other.digest() != self.digest():
            reason = f"these are two offers, {self.digest()} and {other.digest()}: every holder has to sign a copy of the same one"
            raise Refused(Code.SETTINGS_INVALID, reason)
        for mine, theirs in ((self.root, other.root), (self.targets, other.targets)):
            if mine is not None and theirs is not None:
                mine.signatures.update(theirs.signatures)

    def digest(self) -> str:
        """Return what holders compare by telephone: the digest of all that is signed, in groups of four."""
        said = b"".join(sha256(CanonicalJSONSerializer().serialize(document.signed)) for _, document, _ in self.documents())
        text = sha256(said).hex()[:16]
        return "-".join(text[at : at + 4] for at in range(0, 16, 4))

    def check_from(self, pinned: bytes) -> None:
        """Check that the present root follows from one that the holder has kept.

        Raises:
            Refused: TRUST_SIGNATURE: it does not: this offer is another fleet's, or forged.
        """
        if not self._holds(pinned):
            reason = "the roots in this offer do not follow from your own root: it is another fleet's, or forged"
            raise Refused(Code.TRUST_SIGNATURE, reason)

    def _holds(self, pinned: bytes) -> bool:
        try:
            known = Metadata[Root].from_bytes(pinned).signed_bytes
        except (DeserializationError, ValueError):
            raise Refused(Code.SETTINGS_INVALID, "your own root is no root in TUF's form: root.json of the fleet's folder") from None
        return known in [root.signed_bytes for root in self.roots]

    def missing(self) -> dict[str, str]:
        """Return for each role that lacks signatures which keys could give them: empty when the offer is whole."""
        found: dict[str, str] = {}
        for role, document, roots in self.documents():
            for which, root in roots:
                named = root.roles[role]
                valid = root.get_verification_result(role, document.signed_bytes, document.signatures).signed
                if len(valid) < named.threshold:
                    left = ", ".join(one[:SHORT] for one in named.keyids if one not in valid) or "nobody"
                    of = f"{which} root holders" if role == "root" else f"{which} targets key"
                    need = named.threshold - len(valid)
                    found[f"{role} ({which})"] = (
                        f"{len(valid)} of {number_of(named.threshold, 'signature')} of the {of}; {need} more of {left}"
                    )
        return found

    def expires(self) -> datetime:
        """Return when the first of the new roles expires."""
        found: list[datetime] = [document.signed.expires for _, document, _ in self.documents()]
        return min(found)

    def changes(self) -> list[str]:
        """Return in words what is different afterwards."""
        return [
            *(f"{role}: version {before} -> {after}, expires {expires:%Y-%m-%d}" for role, before, after, expires in self._versions()),
            *self._differences(),
        ]

    def in_words(self) -> str:
        """Return in one sentence what is different afterwards."""
        return "; ".join(self._differences()) or f"{' and '.join(role for role, *_ in self._versions())} signed again with the same keys"

    def _versions(self) -> "Iterator[tuple[str, int, int, datetime]]":
        presents: dict[str, Metadata[Any]] = {"root": self.present_root, "targets": self.present_targets}
        for role, document, _ in self.documents():
            yield role, presents[role].signed.version, document.signed.version, document.signed.expires

    def _differences(self) -> list[str]:
        found: list[str] = []
        if self.root is not None:
            found += _root_changes(self.present_root.signed, self.root.signed)
        if self.targets is not None:
            found += _targets_changes(self.present_targets.signed, self.targets.signed)
        return found


def write(path: Path, offer: Offer) -> None:
    """Write an offer to a file, whole or not at all.

    Raises:
        Refused: the file cannot be written.
    """
    form = {
        "kind": KIND,
        "version": VERSION,
        "fleet": offer.fleet,
        "roots": [root.to_dict() for root in offer.roots],
        "present_targets": offer.present_targets.to_dict(),
        **{role: document.to_dict() for role, document, _ in offer.documents()},
    }
    try:
        durable.write(path, json.dumps(form, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise Refused(disk_room.code_of(error, Code.SETTINGS_INVALID), f"{path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Offer:
    """Read an offer. Every root in it is signed by its own keys and by those of the one before.

    Raises:
        Refused: SETTINGS_INVALID: it is unreadable, or no offer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(OFFER_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror}") from None
    if len(data) > OFFER_BYTES_MAX:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is longer than any offer: more than {OFFER_BYTES_MAX} bytes")
    try:
        form = _Form.model_validate_json(data)
        if form.kind != KIND or form.version != VERSION:
            raise Refused(Code.SETTINGS_INVALID, f"{path}: expected a {KIND} of version {VERSION}, found {form.kind!r} of {form.version}")
        return _offer(form)
    except Refused:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where, reason = ".".join(map(str, first["loc"])), reason_of(first)
        wrong = f"{where}: {reason}" if where else reason  # Text that is no JSON has no place.
        raise Refused(Code.SETTINGS_INVALID, f"{path} is no offer of keys: {wrong}") from None
    except (ValueError, KeyError, TypeError, AttributeError, DeserializationError, UnsignedMetadataError, RecursionError) as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is no offer of keys: {type(error).__name__}: {error}"[:300]) from None


def _offer(form: _Form) -> Offer:
    """Return an offer of which every part is what it is called."""
    roots: list[Metadata[Root]] = [Metadata.from_dict(one) for one in form.roots]
    for before, root in zip([roots[0], *roots], roots, strict=False):
        before.signed.verify_delegate("root", root.signed_bytes, root.signatures)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    targets: Metadata[Targets] = Metadata.from_dict(form.present_targets)
    _check_targets(roots, targets)
    new_root: Metadata[Root] | None = Metadata.from_dict(form.root) if form.root is not None else None
    new_targets: Metadata[Targets] | None = Metadata.from_dict(form.targets) if form.targets is not None else None
    parts: list[tuple[Metadata[Any] | None, type]] = [(one, Root) for one in (*roots, new_root)]
    parts += [(targets, Targets), (new_targets, Targets)]
    for document, kind in parts:
        if document is not None and not isinstance(document.signed, kind):
            raise ValueError(f"expected {kind.__name__}, found {type(document.signed).__name__}")
    if new_root is None and new_targets is None:
        raise ValueError("there is nothing to sign in it")
    return Offer(form.fleet, tuple(roots), targets, new_root, new_targets)


def _check_targets(roots: Sequence[Metadata[Root]], targets: Metadata[Targets]) -> None:
    """Check that the present targets role is genuine. After an interrupted change it may still be signed for the root before."""
    for root in roots[-1:-3:-1]:
        with suppress(UnsignedMetadataError):
            root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
            return
    raise ValueError("the present targets role is signed by other keys than the root names")


def _root_changes(before: Root, after: Root) -> list[str]:
    found: list[str] = []
    for role, named in after.roles.items():
        found += _key_changes(role, before.roles[role].keyids, named.keyids)
        if named.threshold != before.roles[role].threshold:
            found.append(f"{role}: threshold {before.roles[role].threshold} -> {named.threshold}")
    return found


def _targets_changes(before: Targets, after: Targets) -> list[str]:
    found: list[str] = []
    old, new = _roles(before), _roles(after)
    for role in sorted({*old, *new}):
        found += _key_changes(role, old.get(role, ()), new.get(role, ()))
    minimums: tuple[Mapping[str, str], Mapping[str, str]] = (
        before.unrecognized_fields.get(MINIMUM_FIELD, {}),
        after.unrecognized_fields.get(MINIMUM_FIELD, {}),
    )
    for model in sorted({*minimums[0], *minimums[1]}):
        if minimums[0].get(model) != minimums[1].get(model):
            found.append(f"{model}: oldest version {minimums[0].get(model, 'any')} -> {minimums[1].get(model, 'any')}")
    others = [
        name
        for name in sorted({*before.unrecognized_fields, *after.unrecognized_fields} - {MINIMUM_FIELD})
        if before.unrecognized_fields.get(name) != after.unrecognized_fields.get(name)
    ]
    return [*found, *(f"targets: {name} is different" for name in others)]


def _roles(targets: Targets) -> dict[str, Sequence[str]]:
    roles = targets.delegations.roles if targets.delegations is not None else None
    return {name: role.keyids for name, role in (roles or {}).items()}


def _key_changes(role: str, before: Sequence[str], after: Sequence[str]) -> list[str]:
    out, new = [one for one in before if one not in after], [one for one in after if one not in before]
    said = [f"{word} {', '.join(one[:SHORT] for one in keys)}" for word, keys in (("out", out), ("new", new)) if keys]
    return [f"{'team of ' if role.startswith(role_name('')) else ''}{role.removeprefix(role_name(''))}: {', '.join(said)}"] if said else []

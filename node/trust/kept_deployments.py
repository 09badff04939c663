"""Keep each model's signed deployments in a file of its own: one that is damaged or not understood says nothing of the others."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import structlog
from securesystemslib.signer import Key

from fleetcast import disk_room, durable
from node.trust.envelopes import opened
from schemas import codec
from schemas.deployments import Deployments, Envelope
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MODELS_MAX
from schemas.names import check_name

log = structlog.get_logger()

FOLDER = "deployments"


class KeptDeployments:
    """Hold the statements that a node has accepted. The caller holds the folder's lock, and names the keys that are trusted now."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._read: dict[tuple[bytes, frozenset[str]], Deployments] = {}  # Verified already: nothing is verified twice in one process.

    def accept(self, envelope: Envelope, keys: Mapping[str, Key], *, model: str, moment: datetime) -> Deployments:
        """Believe a statement, durably, if it is newer than or the same as the one that is believed.

        Serials count for one key only: an operator who takes the key from a thief also takes back the serials that the thief has raised.

        Raises:
            Refused: signed by another key, about another model, not understood, expired, or with a lower serial.
        """
        found = _verified(envelope, keys, model)
        raw = codec.encode(envelope)
        before = self._kept(model, keys)
        if before is not None and raw == before[0]:
            return before[1]
        if before is not None and before[2] == envelope.key:
            _check_serial(found, before[1])
        if found.expires <= moment.timestamp():
            at = datetime.fromtimestamp(found.expires, UTC)
            raise Refused(Code.TRUST_EXPIRED, f"deployments of {model}: they expired at {at:%Y-%m-%d %H:%M}")
        self._write(model, raw)
        self._read = {key: one for key, one in self._read.items() if one.model != model}
        self._read[raw, frozenset(keys)] = found
        return found

    def all(self, keys: Mapping[str, Key]) -> Mapping[str, Deployments]:
        """Return every statement that these keys have signed, by model, also those that have expired meanwhile."""
        names = sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        found = {name: kept[1] for name in names if (kept := self._kept(name, keys)) is not None}
        return MappingProxyType(found)

    def _kept(self, model: str, keys: Mapping[str, Key]) -> tuple[bytes, Deployments, bytes] | None:
        """Return the bytes of a kept statement, what they say, and the key that signed them."""
        try:
            with (self._folder / check_name("model", model)).open("rb") as file:
                raw = file.read(Envelope.bytes_max + 1)
            envelope = codec.decode(Envelope, raw)
            known = self._read.get((raw, frozenset(keys)))
            if known is None:
                known = self._read[raw, frozenset(keys)] = _verified(envelope, keys, model)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except Refused as refusal:  # Damaged, or signed by a key that was replaced: the broker has a newer one.
            log.warning("deployments.not_restored", model=model, code=str(refusal.code), reason=refusal.reason)
            return None
        return raw, known, envelope.key

    def _write(self, model: str, raw: bytes) -> None:
        with disk_room.refusing(f"no room on the disk for {self._folder}", errnos=disk_room.FULL_OR_READ_ONLY):
            durable.make_folder(self._folder)
            path = self._folder / model
            if not path.exists() and sum(1 for _ in self._folder.iterdir()) >= MODELS_MAX:
                raise Refused(Code.SCHEMA_TOO_LARGE, f"deployments of {model}: statements about {MODELS_MAX} other models are kept already")
            durable.write(path, raw)


def _verified(envelope: Envelope, keys: Mapping[str, Key], model: str) -> Deployments:
    try:
        found = codec.decode(Deployments, opened(envelope, "deployments", keys))
    except Refused as refusal:
        raise Refused(refusal.code, f"deployments of {model}: {refusal.reason}") from None
    if found.model != model:
        raise mismatch(Code.TRUST_MISMATCH, "model of a statement of deployments", expected=model, actual=found.model)
    return found


def _check_serial(found: Deployments, before: Deployments) -> None:
    """Refuse a serial that falls, and one that is said of two contents; a statement may be signed again with a later expiry."""
    model = found.model
    if found.serial < before.serial:
        raise mismatch(Code.TRUST_ROLLBACK, f"serial of {model}'s deployments", expected=f"{before.serial} or more", actual=found.serial)
    if found.serial > before.serial:
        return
    if found.deployments != before.deployments:
        raise Refused(Code.TRUST_MISMATCH, f"deployments of {model}: serial {found.serial} is trusted already, with other content")
    if found.expires < before.expires:
        raise mismatch(Code.TRUST_ROLLBACK, f"expiry of {model}'s deployments", expected=f"{before.expires} or later", actual=found.expires)

"""Checks the bundle on a topic that only the hub writes: what is wrong with one that is not what we published last.

Nodes do not depend on this: they verify everything themselves. It lets the hub warn people, and put its own bundle back.
"""

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle, role_name
from schemas.errors import Code, Refused

_UNREADABLE = (RepositoryError, DeserializationError, StorageError, ValueError, KeyError)


def judge_trust(payload: bytes, ours: TrustBundle) -> Refused:
    """Return what is wrong with a trust bundle that is not ours, or not our newest."""
    if not payload:
        return Refused(Code.TRUST_INCOMPLETE, "somebody has cleared the trust bundle")
    try:
        theirs = codec.decode(TrustBundle, payload)
    except Refused as refusal:
        return refusal
    try:
        root = Metadata[Root].from_bytes(ours.roots[-1]).signed
        stamp = Metadata[Timestamp].from_bytes(theirs.timestamp)
        root.verify_delegate("timestamp", stamp.signed_bytes, stamp.signatures)
    except _UNREADABLE:
        return Refused(Code.TRUST_SIGNATURE, "a trust bundle that is not signed by this fleet was put on its topic")
    newest = Metadata[Timestamp].from_bytes(ours.timestamp).signed.version
    return _older("trust bundle", stamp.signed.version, newest)


def judge_model(payload: bytes, ours: ModelBundle, trust: TrustBundle) -> Refused:
    """Return what is wrong with a model's bundle that is not ours, or not our newest."""
    if not payload:
        return Refused(Code.TRUST_INCOMPLETE, f"somebody has cleared the bundle of model {ours.model}")
    try:
        theirs = codec.decode(ModelBundle, payload)
    except Refused as refusal:
        return refusal
    try:
        targets = Metadata[Targets].from_bytes(trust.targets).signed
        role = Metadata[Targets].from_bytes(theirs.role)
        targets.verify_delegate(role_name(ours.model), role.signed_bytes, role.signatures)
    except _UNREADABLE:
        return Refused(Code.TRUST_SIGNATURE, f"a release that is not signed by the team of model {ours.model} was put on its topic")
    newest = Metadata[Targets].from_bytes(ours.role).signed.version
    return _older(f"bundle of model {ours.model}", role.signed.version, newest)


def _older(what: str, found: int, expected: int) -> Refused:
    if found < expected:
        return Refused(Code.TRUST_ROLLBACK, f"an older {what} was put on its topic: expected version {expected}, found {found}")
    # It is signed by the fleet's own keys, and not older: another hub has the same keys, or somebody stole them.
    return Refused(Code.TRUST_MISMATCH, f"another {what} of version {found} was put on its topic; is a second hub running?")

"""Checks the bundle on a topic that only the hub writes: what is wrong with one that is not what we published last.

Nodes do not depend on this: they verify everything themselves. It lets the hub warn people, and put its own bundle back.
"""

from securesystemslib.exceptions import StorageError, UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle, TrustRoles, TrustTime, role_name
from schemas.deployments import Deployments, Envelope, signed_bytes
from schemas.errors import Code, Refused

_UNREADABLE = (RepositoryError, DeserializationError, StorageError, VerificationError, UnverifiedSignatureError, ValueError, KeyError)
_ROLLOUTS = "rollouts"


def judge_trust(
    payload: bytes,
    ours: TrustBundle | TrustRoles,
    *,
    kind: type[TrustBundle | TrustRoles | TrustTime] = TrustBundle,
    what: str = "trust bundle",
) -> Refused:
    """Return what is wrong with trust metadata, of this kind, that is not ours, or not our newest."""
    if not payload:
        return Refused(Code.TRUST_INCOMPLETE, f"somebody has cleared the {what}")
    try:
        theirs = codec.decode(kind, payload)
    except Refused as refusal:
        return refusal
    try:
        root = Metadata[Root].from_bytes(ours.roots[-1]).signed
        stamp = Metadata[Timestamp].from_bytes(theirs.timestamp)
        root.verify_delegate("timestamp", stamp.signed_bytes, stamp.signatures)
    except _UNREADABLE:
        return Refused(Code.TRUST_SIGNATURE, f"a {what} that is not signed by this fleet was put on its topic")
    newest = Metadata[Timestamp].from_bytes(ours.timestamp).signed.version
    return _older(what, stamp.signed.version, newest)


def judge_deployments(payload: bytes, ours: bytes, model: str, trust: TrustBundle) -> Refused:
    """Return what is wrong with a model's deployments that are not ours, or not our newest; `ours` is empty when there are none."""
    if not payload:
        return Refused(Code.TRUST_INCOMPLETE, f"somebody has cleared the deployments of model {model}")
    try:
        theirs = codec.decode(Envelope, payload)
        said = codec.decode(Deployments, theirs.payload)
    except Refused as refusal:
        return refusal
    try:
        delegations = Metadata[Targets].from_bytes(trust.targets).signed.delegations
        keyid = theirs.key.hex()
        if delegations is None or keyid not in (delegations.roles or {})[_ROLLOUTS].keyids:
            raise KeyError(keyid)
        signature = Signature(keyid, theirs.signature.hex())
        delegations.keys[keyid].verify_signature(signature, signed_bytes("deployments", theirs.payload))
    except _UNREADABLE:
        return Refused(Code.TRUST_SIGNATURE, f"deployments of model {model} that this fleet did not sign were put on their topic")
    newest = codec.decode(Deployments, codec.decode(Envelope, ours).payload).serial if ours else 0
    return _older(f"statement of the deployments of {model}", said.serial, newest)


def judge_index(payload: bytes) -> Refused:
    """Return what is wrong with an index of deployments that is not our newest: nobody signs it, so nothing shows its author."""
    if not payload:
        return Refused(Code.TRUST_INCOMPLETE, "somebody has cleared the index of deployments")
    return Refused(Code.TRUST_MISMATCH, "another index of deployments was put on its topic; is a second hub running?")


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

"""Verify what the rollouts key has signed outside of TUF's roles: deployments of a model, settings of this node."""

from collections.abc import Mapping
from typing import Literal

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature

from schemas.deployments import Envelope, signed_bytes
from schemas.errors import Code, Refused


def opened(envelope: Envelope, purpose: Literal["deployments", "settings"], keys: Mapping[str, Key]) -> bytes:
    """Return what an envelope holds, if a key that the trusted delegation names has signed it for this purpose.

    Raises:
        Refused: TRUST_SIGNATURE: another key has signed it, or it was changed, or it was signed for something else.
    """
    keyid = envelope.key.hex()
    if keyid not in keys:
        known = ", ".join(sorted(key[:12] for key in keys)) or "none"
        raise Refused(Code.TRUST_SIGNATURE, f"{purpose}: signed by key {keyid[:12]}, trusted for this are {known}")
    try:
        keys[keyid].verify_signature(Signature(keyid, envelope.signature.hex()), signed_bytes(purpose, envelope.payload))
    except (UnverifiedSignatureError, VerificationError) as error:
        raise Refused(Code.TRUST_SIGNATURE, f"{purpose}: the signature of key {keyid[:12]} does not hold") from error
    return envelope.payload

"""Sign small documents that no snapshot lists: deployments of a model, settings of a node."""

from typing import Literal

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature, Signer

from schemas.deployments import Envelope, signed_bytes
from schemas.errors import Code, Refused


def seal(purpose: Literal["deployments", "settings", "presence"], payload: bytes, signer: Signer) -> Envelope:
    """Return a document in an envelope, signed for this purpose and no other."""
    signature = signer.sign(signed_bytes(purpose, payload))
    return Envelope(key=bytes.fromhex(signature.keyid), signature=bytes.fromhex(signature.signature), payload=payload)


def opened(purpose: Literal["presence"], envelope: Envelope, key: Key | None) -> bytes:
    """Return what an envelope holds, if this key has signed it for this purpose.

    Raises:
        Refused: TRUST_SIGNATURE: another has, or it was changed.
    """
    keyid = envelope.key.hex()
    if key is None:
        raise Refused(Code.TRUST_SIGNATURE, f"{purpose}: signed by key {keyid[:12]}, which signs nothing for this fleet")
    try:
        key.verify_signature(Signature(keyid, envelope.signature.hex()), signed_bytes(purpose, envelope.payload))
    except (UnverifiedSignatureError, VerificationError):
        raise Refused(Code.TRUST_SIGNATURE, f"{purpose}: the signature of key {keyid[:12]} does not hold") from None
    return envelope.payload

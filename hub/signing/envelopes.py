"""Sign small documents that no snapshot lists: deployments of a model, settings of a node."""

from typing import Literal

from securesystemslib.signer import Signer

from schemas.deployments import Envelope, signed_bytes


def seal(purpose: Literal["deployments", "settings"], payload: bytes, signer: Signer) -> Envelope:
    """Return a document in an envelope, signed for this purpose and no other."""
    signature = signer.sign(signed_bytes(purpose, payload))
    return Envelope(key=bytes.fromhex(signature.keyid), signature=bytes.fromhex(signature.signature), payload=payload)

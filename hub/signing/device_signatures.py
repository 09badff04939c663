"""Verify that a device signed what carries its name. Knows no store: the caller knows which key belongs to which node."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.receipt import Receipt, SealedReceipt


def verify_receipt(sealed: SealedReceipt, public_key: bytes) -> Receipt:
    """Return the receipt after checking its signature; `public_key` is DER SubjectPublicKeyInfo, ECDSA on P-256.

    Raises:
        Refused: the signature is not this key's, or the body is not a receipt.
    """
    if not is_signed(sealed.body, sealed.signature, public_key):
        raise Refused(Code.RECEIPT_SIGNATURE, "the receipt is not signed by the node's own key")
    return codec.decode(Receipt, sealed.body)


def is_signed(data: bytes, signature: bytes, public_key: bytes) -> bool:
    """Return whether this key signed the data; `public_key` is DER SubjectPublicKeyInfo, ECDSA on P-256.

    Raises:
        Refused: RECEIPT_SIGNATURE: the key is not of this kind.
    """
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise Refused(Code.RECEIPT_SIGNATURE, "the node's public key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
        raise mismatch(Code.RECEIPT_SIGNATURE, "kind of the node's key", expected="ECDSA on P-256", actual=found)
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True

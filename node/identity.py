"""The device's own key: made here, never leaves, signs receipts."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas import codec
from schemas.errors import Code, Refused
from schemas.receipt import Receipt, SealedReceipt


class Identity:
    """An ECDSA P-256 key, as hardware tokens of small devices have."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """The key at `path`, made on first use; readable by its owner only.

        Raises:
            Refused: what stands there is no such key.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = ec.generate_private_key(ec.SECP256R1())
            data = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            _write_durably(path, data)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, OSError) as error:
            raise Refused(Code.KEY_UNREADABLE, f"device key {path}: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Refused(Code.KEY_UNREADABLE, f"device key {path} is of kind {type(key).__name__}; ECDSA is needed")
        return cls(key)

    def seal(self, receipt: Receipt) -> SealedReceipt:
        """The receipt's exact bytes with our signature over them."""
        body = codec.encode(receipt)
        return SealedReceipt(body=body, signature=self._key.sign(body, ec.ECDSA(hashes.SHA256())))


def _write_durably(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

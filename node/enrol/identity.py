"""Hold the device's own key: it is made here and never leaves, signs receipts, and is what the device's certificate is for.

One key for both on purpose: so the hub knows from the enrolment whose receipts it reads (docs/decisions/0011).
"""

import contextlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcast import durable
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.receipt import Receipt, SealedReceipt

KEY_BYTES_MAX = 16 * 1024  # a PEM key is under 1 KiB


class Identity:
    """Hold an ECDSA P-256 key, as hardware tokens of small devices have."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """Return the key at `path`, made on first use; readable by its owner only.

        Raises:
            Refused: what stands there is no such key.
        """
        if not path.exists():
            durable.make_folder(path.parent, parents=True)
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            with contextlib.suppress(FileExistsError):  # When two processes make the key at once, the second takes the first one's.
                durable.create(path, pem)
        try:
            with path.open("rb") as file:
                key = serialization.load_pem_private_key(file.read(KEY_BYTES_MAX), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not replaced by a new one: the hub knows the old one, and somebody should know that it is gone.
            raise Refused(Code.KEY_UNREADABLE, f"device key {path} is damaged: not an unencrypted private key in PEM form") from None
        except OSError as error:
            raise Refused(Code.KEY_UNREADABLE, f"device key {path}: {os.strerror(error.errno or 0)}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            found = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lstrip("_")
            raise mismatch(Code.KEY_UNREADABLE, f"device key {path}", expected="ECDSA on P-256", actual=found)
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """Sign by ECDSA with SHA-256, in DER."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def request(self) -> bytes:
        """Return a certificate request, PKCS #10 in DER: it proves that we have the key, and names nobody, for the hub chooses names."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def seal(self, receipt: Receipt) -> SealedReceipt:
        """Return the receipt's exact bytes with our signature over them."""
        body = codec.encode(receipt)
        return SealedReceipt(body=body, signature=self.sign(body))

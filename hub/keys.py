"""Private keys on disk: made, encrypted, loaded to sign. The hub's only door to them; nothing here knows what is signed."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import CryptoSigner, Signer

from schemas.errors import Code, Refused

KEY_BYTES_MAX = 16 * 1024  # an encrypted PEM key is under 1 KiB


def create_key(path: Path, passphrase: bytes) -> None:
    """Make an ed25519 key, encrypted, readable by its owner only; an existing file is never overwritten.

    Raises:
        Refused: the file exists, or cannot be written.
    """
    data = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase)
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Refused(Code.KEY_UNREADABLE, f"key {path} could not be made: {error.strerror}") from error


def load_signer(path: Path, passphrase: bytes) -> Signer:
    """A signer of an encrypted (or plain) PEM key: ed25519, or ECDSA on P-256 or P-384 as hardware tokens have.

    Raises:
        Refused: KEY_UNREADABLE when the file is absent, unreadable or no such key; KEY_PASSPHRASE when the passphrase does not open it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise Refused(Code.KEY_UNREADABLE, f"key {path}: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except TypeError:  # cryptography's word for a passphrase given to a key that has none
        key = serialization.load_pem_private_key(data, None)
    except ValueError as error:
        if b"ENCRYPTED" in data and (
            "decrypt" in str(error).lower() or "password" in str(error).lower() or "padding" in str(error).lower()
        ):
            raise Refused(Code.KEY_PASSPHRASE, f"the passphrase does not open key {path}") from None
        raise Refused(Code.KEY_UNREADABLE, f"{path} is not a private key in PEM form") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise Refused(Code.KEY_UNREADABLE, f"key {path} is of kind {type(key).__name__}; ed25519 or ECDSA is needed")
    return CryptoSigner(key)

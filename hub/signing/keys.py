"""Make, encrypt and load private keys on disk. Only this module of the hub reads them; it does not know what they sign.

A key may also be on a token or in a key service: then a file with the same name and another ending says where
(hub/signing/key_references.py).
"""

import os
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from fleetcast import disk_room, durable
from hub.signing import key_references
from schemas.errors import Code, Refused, mismatch

KEY_BYTES_MAX = 16 * 1024  # An encrypted PEM key is under 1 KiB.
PASSPHRASE_BYTES_MAX = 1023  # OpenSSL's bound.
PEM = ".pem"
_CURVES = ("secp256r1", "secp384r1")


def create_key(path: Path, passphrase: bytes, kind: Literal["ed25519", "p256"] = "ed25519") -> None:
    """Make an encrypted key, readable by its owner only; an existing file is never overwritten. P-256 is for certificates.

    Raises:
        Refused: KEY_PASSPHRASE without a passphrase; KEY_UNREADABLE when the file exists or cannot be written. Nothing is left behind.
    """
    if not 0 < len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise Refused(
            Code.KEY_PASSPHRASE, f"key {path}: expected a passphrase of 1 to {PASSPHRASE_BYTES_MAX} bytes, found {len(passphrase)}"
        )
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase)
    )
    _make(path, data)


def create_tls_key(path: Path) -> None:
    """Make a P-256 key for a TLS connection, readable by its owner only. It is not encrypted: nobody can type a passphrase for a broker.

    Raises:
        Refused: as `create_key`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    _make(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def _make(path: Path, data: bytes) -> None:
    try:
        durable.create(path, data)
    except OSError as error:
        code = disk_room.code_of(error, Code.KEY_UNREADABLE)
        raise Refused(code, f"key {path} could not be made: {os.strerror(error.errno or 0)}") from error


def load_signer(path: Path, passphrase: bytes) -> Signer:
    """Return a signer for an encrypted (or plain) PEM key: ed25519, or ECDSA on P-256 or P-384 as hardware tokens have.

    If there is no such file, and a file that names a key elsewhere is beside it, that key signs; the passphrase is its PIN.

    Raises:
        Refused: KEY_UNREADABLE when the file is absent, unreadable or not such a key; KEY_PASSPHRASE when the passphrase is wrong.
    """
    reference = path.with_suffix(key_references.SUFFIX)
    if path.suffix == key_references.SUFFIX or (not path.exists() and reference.exists()):
        return key_references.open_key(reference, _read(reference), passphrase)
    key = _load(path, passphrase)
    _check_kind(path, key)
    return CryptoSigner(key)


def load_p256(path: Path, passphrase: bytes = b"") -> ec.EllipticCurvePrivateKey:
    """Return a key that signs certificates, or a server's own: ECDSA on P-256.

    Raises:
        Refused: as `load_signer`.
    """
    key = _load(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        found = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lstrip("_")
        raise mismatch(Code.KEY_UNREADABLE, f"key {path}", expected="ECDSA on P-256", actual=found)
    return key


def _load(path: Path, passphrase: bytes) -> PrivateKeyTypes:
    data = _read(path)
    encrypted = b"ENCRYPTED" in data
    if encrypted and not passphrase:
        raise Refused(Code.KEY_PASSPHRASE, f"key {path} is encrypted, and no passphrase was given")
    try:
        return serialization.load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # A wrong passphrase cannot be told from a damaged body. A truncated file can: it lacks its last line.
        if encrypted and b"-----END" in data:
            raise Refused(Code.KEY_PASSPHRASE, f"the passphrase does not open key {path}, or the file is damaged") from None
        raise Refused(Code.KEY_UNREADABLE, f"{path} is not a private key in PEM form") from None


def public_key(path: Path, passphrase: bytes = b"") -> Key:
    """Return the public half of a PEM public key (such as a team's) or private key.

    Raises:
        Refused: as `load_signer`.
    """
    data = _read(path)
    if path.suffix == key_references.SUFFIX:
        return key_references.parse(path, data)[1]
    if b"PRIVATE KEY" in data:
        return load_signer(path, passphrase).public_key
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise Refused(Code.KEY_UNREADABLE, f"{path} is not a key in PEM form") from None
    _check_kind(path, key)
    return SSlibKey.from_crypto(key)


def public_pem(key: Key) -> bytes:
    """Return a public key in PEM form, as `public_key` reads it."""
    text = str(key.keyval["public"])
    if key.keytype == "ed25519":
        return _pem(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))
    return _pem(serialization.load_pem_public_key(text.encode()))


def _pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _check_kind(path: Path, key: object) -> None:
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) else None
    if curve not in _CURVES and not isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        found = curve or type(key).__name__.lstrip("_")
        raise Refused(Code.KEY_UNREADABLE, f"key {path}: expected ed25519, or ECDSA on P-256 or P-384, found {found}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(KEY_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(Code.KEY_UNREADABLE, f"key {path}: {os.strerror(error.errno or 0)}") from None
    if len(data) > KEY_BYTES_MAX:
        raise Refused(Code.KEY_UNREADABLE, f"{path} is longer than any key: more than {KEY_BYTES_MAX} bytes")
    return data

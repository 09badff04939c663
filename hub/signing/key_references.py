"""Use keys that no file holds: on a token by PKCS#11, or in a key service. A small file names such a key by its URI and its public half.

securesystemslib signs. Its URIs are `hsm:2?label=fleet` (PKCS#11), `awskms:`, `azurekms:`, `gcpkms:` and `hv:`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from securesystemslib.exceptions import UnsupportedLibraryError, VerificationError
from securesystemslib.signer import HSMSigner, Key, Signature, Signer, SSlibKey

from schemas.errors import Code, Refused

T = TypeVar("T")

SUFFIX = ".uri"
MODULE_VARIABLE = "PYKCS11LIB"
_CHECKED = b"fleetcast: does this key sign?"
_WRONG_PIN = frozenset({"PinIncorrect", "PinInvalid", "PinLenRange", "PinLocked", "PinExpired"})


class _Scheme(NamedTuple):
    """Describe a kind of place that keys are in."""

    what: str
    package: str


SCHEMES = {
    "hsm": _Scheme("a PKCS#11 token", "fleetcast[hsm]"),
    "awskms": _Scheme("a key of AWS KMS", "securesystemslib[awskms]"),
    "azurekms": _Scheme("a key of Azure Key Vault", "securesystemslib[azurekms]"),
    "gcpkms": _Scheme("a key of Google Cloud KMS", "securesystemslib[gcpkms]"),
    "hv": _Scheme("a key of HashiCorp Vault", "securesystemslib[vault]"),
}


def is_uri(text: str) -> bool:
    """Return whether this names a key by a URI, and is no path of a file."""
    return text.partition(":")[0] in SCHEMES and ":" in text


def public_half(uri: str, pin: Callable[[], bytes]) -> SSlibKey:
    """Ask a PKCS#11 token for the public half of its key; the PIN is asked for only if the token hides it.

    Raises:
        Refused: SETTINGS_INVALID for another kind of URI, whose public half must be given; KEY_UNREADABLE when the token does not answer.
    """
    if not uri.startswith("hsm:"):
        kinds = ", ".join(SCHEMES)
        raise Refused(Code.SETTINGS_INVALID, f"only a token of an `hsm:` URI is asked for its public key ({kinds}): give it as a PEM file")
    keyid, _, query = uri.removeprefix("hsm:").partition("?")
    if keyid and not keyid.isdigit():
        raise Refused(Code.SETTINGS_INVALID, f"{uri}: expected hsm:NUMBER?label=TOKEN, found {keyid!r} for the number of the key")
    label = dict(parse_qsl(query)).get("label")
    return _asked(uri, lambda: HSMSigner.import_(int(keyid) if keyid else None, label, lambda _: pin().decode())[1])


def parse(path: Path, data: bytes) -> tuple[str, SSlibKey]:
    """Return the URI and the public half that a file names.

    Raises:
        Refused: KEY_UNREADABLE: it is not such a file.
    """
    uri, _, pem = data.partition(b"\n")
    try:
        text = uri.decode().strip()
        key = SSlibKey.from_crypto(serialization.load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm, UnsupportedLibraryError) as error:
        raise Refused(Code.KEY_UNREADABLE, f"{path}: expected a URI in the first line and a public key in PEM form below it") from error
    if not is_uri(text):
        raise Refused(Code.KEY_UNREADABLE, f"{path}: {text.partition(':')[0]!r} is none of {', '.join(SCHEMES)}")
    return text, key


def open_key(path: Path, data: bytes, pin: bytes) -> "Signer":
    """Return a signer for the key that a file names, after one signature that shows that the key is there and opens.

    Raises:
        Refused: KEY_UNREADABLE when a library, the token or the service is missing; KEY_PASSPHRASE when the PIN does not open it.
    """
    uri, key = parse(path, data)
    found = _RemoteKey(uri, _asked(uri, lambda: Signer.from_priv_key_uri(uri, key, lambda _: pin.decode())))
    try:
        key.verify_signature(found.sign(_CHECKED), _CHECKED)
    except VerificationError:
        raise Refused(Code.KEY_UNREADABLE, f"the key at {uri} is not the one whose public half is in {path}") from None
    return found


class _RemoteKey(Signer):
    """Sign far away, and report what goes wrong there as a refusal; after one wrong PIN no other attempt is made: tokens count them."""

    def __init__(self, uri: str, signer: Signer) -> None:
        self._uri, self._signer = uri, signer
        self._locked: Refused | None = None

    @property
    def public_key(self) -> Key:
        """Return the public half."""
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None) -> "_RemoteKey":
        """Refuse: `open_key` makes them."""
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Sign.

        Raises:
            Refused: as `open_key`.
        """
        if self._locked is not None:
            raise self._locked
        try:
            return _asked(self._uri, lambda: self._signer.sign(payload))
        except Refused as refusal:
            if refusal.code == Code.KEY_PASSPHRASE:
                self._locked = refusal
            raise


def _asked(uri: str, ask: Callable[[], T]) -> T:
    """Ask a token or a service, and say in a sentence what it lacks."""
    scheme = SCHEMES[uri.partition(":")[0]]
    if uri.startswith("hsm:") and not os.environ.get(MODULE_VARIABLE):
        mend = f"set {MODULE_VARIABLE} to the path of the token's PKCS#11 module, such as /usr/lib/softhsm/libsofthsm2.so"
        raise Refused(Code.KEY_UNREADABLE, f"{uri} is {scheme.what}, and nothing says how to reach it: {mend}")
    try:
        return ask()
    except UnsupportedLibraryError as error:
        reason = f"{uri} is {scheme.what}, and a library for it is missing ({error}): install '{scheme.package}'"
        raise Refused(Code.KEY_UNREADABLE, reason) from error
    except Exception as error:  # Each of these libraries has errors of its own, and some are loaded from a shared object.
        name = type(error).__name__
        if name in _WRONG_PIN:
            raise Refused(Code.KEY_PASSPHRASE, f"the passphrase is not the PIN of {uri} ({name})") from error
        raise Refused(Code.KEY_UNREADABLE, f"{uri}: {error or name}") from error

"""Sign metadata, and hold a key that may be replaced while its holder runs."""

from typing import Any

from securesystemslib.signer import Key, SecretsHandler, Signature, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from schemas.errors import Code, Refused


def add_signature(document: Metadata[Any], signer: Signer) -> None:
    """Sign metadata, beside the signatures that it has.

    Raises:
        Refused: the key is on a token or in a service that does not sign now.
    """
    try:
        document.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, Refused):
            raise error.__cause__ from None
        raise Refused(Code.KEY_UNREADABLE, f"key {signer.public_key.keyid[:12]}: {error}") from error


class ReplaceableSigner(Signer):
    """Sign with the key that is held now. All parts of a hub hold one of these for each role, so that a new key reaches all at once."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None) -> "ReplaceableSigner":
        """Return one for a key by its URI."""
        return cls(Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler))

    @property
    def public_key(self) -> Key:
        """Return the public half of the key that is held now."""
        return self._signer.public_key

    def replace(self, signer: Signer) -> None:
        """Hold another key from now on."""
        self._signer = signer

    def sign(self, payload: bytes) -> Signature:
        """Sign."""
        return self._signer.sign(payload)

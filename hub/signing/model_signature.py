"""Sign a release's files in the form of OpenSSF Model Signing 1.0, for readers outside of fleetcast; nodes do not read it.

It is a Sigstore bundle with a DSSE envelope around an in-toto statement, which lists the SHA-256 digest of every file. The project's own
tool verifies it with the signer's public key: `model_signing verify key`.
"""

import base64
import json
from collections.abc import Mapping

from securesystemslib.signer import Signer

from hub.signing.keys import public_pem
from schemas.errors import Code, Refused
from schemas.names import sha256

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def sign_files(name: str, files: Mapping[str, bytes], signer: Signer) -> bytes:
    """Return the bundle of a model whose files have these SHA-256 digests, by path.

    Raises:
        Refused: KEY_UNREADABLE: the key is not ECDSA, which is all that the project's tool verifies.
    """
    key = signer.public_key
    if key.keytype != "ecdsa":
        reason = f"OpenSSF Model Signing verifies ECDSA keys only, and key {key.keyid[:12]} is {key.keytype}"
        raise Refused(Code.KEY_UNREADABLE, f"{reason}: make one with `fleetcast keys make NAME --kind p256`, and give it by --key")
    ordered = sorted(files.items())
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256(b"".join(digest for _, digest in ordered)).hex()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest.hex()} for path, digest in ordered],
        },
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    signature = bytes.fromhex(signer.sign(_encoded(payload)).signature)
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": sha256(public_pem(key)).hex()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=1).encode()


def _encoded(payload: bytes) -> bytes:
    """Return what DSSE signs: the payload with its type and both lengths in front."""
    return b" ".join([b"DSSEv1", str(len(PAYLOAD_TYPE)).encode(), PAYLOAD_TYPE.encode(), str(len(payload)).encode(), payload])

"""Define how a device joins a fleet and stays in it: the documents of the hub's HTTPS endpoint, and the token that an operator carries.

The protocol follows EST (RFC 7030), with documents of ours. A device first fetches the authority's certificate over a connection that it
does
not trust, and compares it with the pin in its token. Only then does it send the token, over a connection that the pinned authority
vouches for. This module verifies no signature: node/enrol/certificates.py and hub/signing/certificate_authority.py do.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from schemas import limits
from schemas.document import Document
from schemas.errors import Code, Refused
from schemas.names import Cohort, Digest, FleetName, Label, NodeId, sha256
from schemas.quantities import Seconds

TOKEN_PREFIX = "ft1"  # noqa: S105  # the format's name
TOKEN_CHARACTERS_MAX = 128  # A token has 91 characters; a longer text is not examined.
SECRET_BYTES = 32  # The secret cannot be guessed, so a plain digest of it is safe to store.
# Age up to which a signed statement of time serves as the hub's nonce: the round trip of a slow link, with room.
CHALLENGE_SECONDS_MAX = 300

# Signed bytes begin with their purpose, so neither kind can pass as the other, nor as a certificate, which begins with 0x30.
STATEMENT_CONTEXT = b"fleetcast time statement v1\0"
RENEWAL_CONTEXT = b"fleetcast renewal v1\0"

Certificate = Annotated[bytes, Field(min_length=1, max_length=limits.CERTIFICATE_BYTES_MAX)]  # DER.
Request = Annotated[bytes, Field(min_length=1, max_length=limits.CSR_BYTES_MAX)]  # PKCS #10, DER.
Signature = Annotated[bytes, Field(min_length=1, max_length=128)]  # ECDSA P-256 with SHA-256, DER.
Text = Annotated[str, Field(max_length=limits.TEXT_MAX)]


class Endpoint(NamedTuple):
    """Describe one row of the table of HTTPS requests that the hub answers."""

    method: str
    path: str
    asks: str
    answers: str
    what: str


AUTHORITY_PATH = "/fleetcast/v1/authority"
TIME_PATH = "/fleetcast/v1/time"
ENROL_PATH = "/fleetcast/v1/enrol"
RENEW_PATH = "/fleetcast/v1/renew"
ENDPOINTS = (
    Endpoint("GET", AUTHORITY_PATH, "", "authority", "the fleet's root certificate and trust root, to be compared with the token's pin"),
    Endpoint("POST", TIME_PATH, "hello", "signed-statement", "what time it is, signed, bound to the device's nonce"),
    Endpoint("POST", ENROL_PATH, "enrolment-request", "enrolled", "a first certificate, for a single-use token"),
    Endpoint("POST", RENEW_PATH, "sealed-renewal", "enrolled", "a next certificate, for a signature of the device's key"),
)


@dataclass(frozen=True, slots=True)
class Token:
    """Hold what an operator carries to one device: the pin of the fleet, and a secret that is valid once."""

    pin: bytes  # Result of `pin_of` for the authority and the first root.
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Parse `ft1.<pin>.<secret>`, both base64url without padding.

        Raises:
            Refused: it is not a token.
        """
        given = text.strip()[: TOKEN_CHARACTERS_MAX + 1]
        try:
            _, pin, secret = given.split(".")
            found = cls(_unpadded(pin), _unpadded(secret))
        except (ValueError, binascii.Error):
            raise _no_token() from None
        if str(found) != given or len(found.pin) != 32 or len(found.secret) != SECRET_BYTES:
            raise _no_token()
        return found

    @property
    def digest(self) -> bytes:
        """Return what the hub stores in place of the secret."""
        return sha256(self.secret)

    def __str__(self) -> str:
        return ".".join((TOKEN_PREFIX, *(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (self.pin, self.secret))))


def pin_of(authority_key: bytes, root: bytes) -> bytes:
    """Return the pin of a fleet: it covers the authority's DER SubjectPublicKeyInfo and the SHA-256 of the first root.

    It covers the root too, so that a thief of the hub's issuing key cannot show a new device another fleet's publishers.
    """
    return sha256(sha256(authority_key) + root)


class AuthorityCertificate(Document):
    """Carry the fleet's root certificate and the digest of its first trust root. Neither proves anything until both match a pin."""

    schema_name = "authority"
    bytes_max = limits.CERTIFICATE_BYTES_MAX + 256

    certificate: Certificate
    root: Digest


class Hello(Document):
    """Ask what time it is, with a nonce, so that no old answer can be replayed."""

    schema_name = "hello"
    bytes_max = 256

    nonce: Digest  # Random.


class Statement(Document):
    """Carry the hub's time. Its signed bytes are also the hub's nonce in a renewal."""

    schema_name = "statement"
    bytes_max = 512

    fleet: FleetName
    nonce: Digest  # The device's nonce.
    at: Seconds


class SignedStatement(Document):
    """Carry the exact bytes of a `Statement`, the issuing key's signature over `STATEMENT_CONTEXT` and them, and its certificate."""

    schema_name = "signed-statement"
    bytes_max = limits.CERTIFICATE_BYTES_MAX + 1024

    body: Annotated[bytes, Field(min_length=1, max_length=512)]
    signature: Signature
    issuer: Certificate


class EnrolmentRequest(Document):
    """Ask for a device's first certificate. The name in the certificate request is ignored: the hub chooses it."""

    schema_name = "enrolment-request"
    bytes_max = limits.CSR_BYTES_MAX + 256

    secret: Annotated[bytes, Field(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    request: Request


class Renewal(Document):
    """Ask for a device's next certificate; the request's key is the present one, or the next one."""

    schema_name = "renewal"
    bytes_max = limits.CSR_BYTES_MAX + 1024

    node: NodeId
    statement: Annotated[bytes, Field(min_length=1, max_length=512)]  # The hub's recent statement.
    statement_signature: Signature
    request: Request


class SealedRenewal(Document):
    """Carry the exact bytes of a `Renewal`, and the signature of the device's present key over `RENEWAL_CONTEXT` and them.

    The certificate may have expired: the hub knows the device by its key.
    """

    schema_name = "sealed-renewal"
    bytes_max = limits.CSR_BYTES_MAX + 2048

    body: Annotated[bytes, Field(min_length=1, max_length=limits.CSR_BYTES_MAX + 1024)]
    signature: Signature


class Enrolled(Document):
    """Carry all that a device needs to be a node of the fleet. The device verifies it against the pinned authority before it keeps any."""

    schema_name = "enrolled"
    bytes_max = limits.ENROLMENT_BYTES_MAX

    fleet: FleetName
    node: NodeId
    certificate: Certificate
    issuer: Certificate
    authority: Certificate
    broker: Annotated[str, Field(max_length=256)]  # URL of the broker, mqtts://.
    cohort: Cohort | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] | None = None
    root: Annotated[bytes, Field(min_length=2, max_length=limits.TRUST_ROLE_BYTES_MAX // 2)]  # The first root, canonical JSON as signed.
    trust: Annotated[
        bytes, Field(min_length=1, max_length=limits.TRUST_BUNDLE_BYTES_MAX)
    ]  # An encoded `TrustBundle`; an older one cannot be shown to a new node.


class EnrolmentRefused(Document):
    """Say why the hub refused."""

    schema_name = "enrolment-refused"
    bytes_max = limits.TEXT_MAX * 4 + 256

    code: Annotated[str, Field(max_length=64)]
    reason: Text


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _no_token() -> Refused:
    # The text does not repeat the input: a mistyped token is still half a secret.
    return Refused(
        Code.ENROLMENT_TOKEN, f"this is not an enrolment token: it must look like {TOKEN_PREFIX}.<43 characters>.<43 characters>"
    )

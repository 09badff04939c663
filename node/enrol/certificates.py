"""Verify certificates and the hub's word about time: chains to its one authority, and nothing else. Opens no file.

Expiry is judged at a time that is given, not by this machine's clock, which may be wrong (node/core/trust/clock.py).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas import codec
from schemas.enrolment import STATEMENT_CONTEXT, AuthorityCertificate, Enrolled, SignedStatement, Statement, pin_of
from schemas.errors import Code, Refused, mismatch

# All that the library raises of bytes that are no certificate, or none that it knows.
_UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
    *(x509.ExtensionNotFound, x509.DuplicateExtension),
)


@dataclass(frozen=True, slots=True)
class Certified:
    """Describe what our own certificate says, verified up to the authority; seconds since 1970."""

    node: str
    public_key: bytes  # DER SubjectPublicKeyInfo
    begins: int
    ends: int


def check_pin(authority: AuthorityCertificate, pin: bytes) -> None:
    """Check whether this is the authority, and the trust root, that a token names.

    Raises:
        Refused: ENROLMENT_PIN when it is another's.
    """
    found = pin_of(_spki(_parse(authority.certificate, "the authority's certificate")), authority.root)
    if found != pin:
        # Somebody between us and the hub, another fleet's hub, or an authority that was made anew since.
        raise mismatch(Code.ENROLMENT_PIN, "pin of the hub's authority and trust root", expected=pin.hex(), actual=found.hex())


def certified(enrolled: Enrolled, *, at: int | None = None) -> Certified:
    """Return our certificate, as its chain proves it; with `at`, no certificate of it may have expired by then.

    Raises:
        Refused: CERTIFICATE_INVALID when a link of the chain does not hold.
    """
    certificate, issuer = _parse(enrolled.certificate, "the node's certificate"), _parse(enrolled.issuer, "the issuer's certificate")
    _check_issuer(issuer, _parse(enrolled.authority, "the authority's certificate"))
    _check_issued(certificate, issuer, "the node's certificate")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or names[0].value != enrolled.node:
        found = ", ".join(str(one.value) for one in names) or "no name"
        raise mismatch(Code.CERTIFICATE_INVALID, "name in the node's certificate", expected=enrolled.node, actual=found)
    if at is not None:
        for one in (certificate, issuer):
            if one.not_valid_after_utc.timestamp() <= at:
                ended = f"{one.not_valid_after_utc:%Y-%m-%d %H:%M}"
                raise mismatch(
                    Code.CERTIFICATE_INVALID, "end of a certificate", expected=f"after {datetime.fromtimestamp(at, UTC)}", actual=ended
                )
    begins, ends = (int(moment.timestamp()) for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    return Certified(enrolled.node, _spki(certificate), begins, ends)


def signed_time(signed: SignedStatement, *, authority: bytes, nonce: bytes) -> Statement:
    """Return the hub's word on what time it is, for the nonce that we drew; `authority` is believed.

    Raises:
        Refused: CERTIFICATE_INVALID when it was not signed by the authority's issuer, or for another nonce.
    """
    issuer = _parse(signed.issuer, "the issuer's certificate")
    _check_issuer(issuer, _parse(authority, "the authority's certificate"))
    key = issuer.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise mismatch(Code.CERTIFICATE_INVALID, "kind of the issuer's key", expected="ECDSA", actual=type(key).__name__)
        key.verify(signed.signature, STATEMENT_CONTEXT + signed.body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused(Code.CERTIFICATE_INVALID, "a statement of time that the fleet's issuer has not signed") from None
    statement = codec.decode(Statement, signed.body)
    if statement.nonce != nonce:
        raise Refused(Code.CERTIFICATE_INVALID, "a statement of time for another question: an old answer was given again")
    if issuer.not_valid_after_utc.timestamp() <= statement.at:
        raise Refused(Code.CERTIFICATE_INVALID, f"the fleet's issuer expired at {issuer.not_valid_after_utc:%Y-%m-%d}")
    return statement


def ends_of(certificate: bytes) -> int:
    """Return when a certificate expires, in seconds since 1970.

    Raises:
        Refused: CERTIFICATE_INVALID, it is none.
    """
    return int(_parse(certificate, "a certificate").not_valid_after_utc.timestamp())


def pem_of(*certificates: bytes) -> bytes:
    """Return certificates one after another, as TLS libraries read them."""
    return b"".join(_parse(one, "a certificate").public_bytes(serialization.Encoding.PEM) for one in certificates)


def _check_issuer(issuer: x509.Certificate, authority: x509.Certificate) -> None:
    _check_issued(issuer, authority, "the issuer's certificate")
    try:
        may = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except _UNREADABLE:
        may = False
    if not may:  # a device's own certificate comes from the same authority: it must not pass for the issuer's
        raise Refused(Code.CERTIFICATE_INVALID, "the issuer's certificate may not issue any")


def _check_issued(certificate: x509.Certificate, by: x509.Certificate, what: str) -> None:
    try:
        certificate.verify_directly_issued_by(by)
    except InvalidSignature:
        raise Refused(Code.CERTIFICATE_INVALID, f"{what} is not signed by who it says") from None
    except _UNREADABLE as error:
        raise Refused(Code.CERTIFICATE_INVALID, f"{what} was not issued by this fleet's authority: {error}") from None


def _parse(data: bytes, what: str) -> x509.Certificate:
    try:
        found = x509.load_der_x509_certificate(data)
        # The library reads these when they are asked for: what cannot be read is refused here, and not where it is used.
        _ = found.subject, found.public_key(), found.not_valid_before_utc, found.not_valid_after_utc
    except _UNREADABLE:
        raise Refused(Code.CERTIFICATE_INVALID, f"{what} is no certificate in DER form, or has a key of an unknown kind") from None
    return found


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

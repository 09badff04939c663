"""Run the fleet's certificate authority: a root that stays offline, and an issuer that the hub holds. Knows X.509 and nothing else.

Knows no database, no token and no passphrase; it is given keys (hub/signing/keys.py reads them). Nodes, brokers and the hub trust
the root. The issuer below it signs everything, so the root's key stays away from every connected machine.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hub.signing.metadata_files import write
from schemas.enrolment import STATEMENT_CONTEXT
from schemas.errors import Code, Refused, mismatch
from schemas.limits import CERTIFICATE_BYTES_MAX, CSR_BYTES_MAX

ROOT_DAYS = 20 * 365  # Devices pin the root, so it outlives them.
ISSUER_DAYS = 5 * 365  # A new issuer needs the root's key, but no visit to a device.
SERVER_DAYS, CLIENT_DAYS = 365, 365
BACKDATED = timedelta(minutes=5)  # Devices with clocks that lag a little still accept a new certificate.
ROOT_NAME, ISSUER_NAME = "ca.crt", "issuer.crt"
NAME_CHARACTERS_MAX = 64  # Upper bound of a common name in X.520.

Kind = Literal["node", "server", "client"]


@dataclass(frozen=True, slots=True)
class Issued:
    """Hold a certificate, and the data that is recorded about it."""

    name: str
    kind: Kind
    serial: str  # Hexadecimal.
    not_after: datetime
    certificate: bytes  # DER.


class Authority:
    """Issue certificates with the issuer's key, below the fleet's root."""

    def __init__(self, directory: Path, key: ec.EllipticCurvePrivateKey, *, fleet: str) -> None:
        """Load the authority from a fleet's folder.

        Raises:
            Refused: CERTIFICATE_INVALID when there is no authority, its certificate is invalid, or the key is another's.
        """
        self.fleet, self._key = fleet, key
        self._root, self._issuer = load_certificate(directory / ROOT_NAME), load_certificate(directory / ISSUER_NAME)
        if public_der(self._issuer) != _spki(key.public_key()):
            raise Refused(Code.CERTIFICATE_INVALID, f"the issuing key is not that of {directory / ISSUER_NAME}")
        try:
            self._issuer.verify_directly_issued_by(self._root)
        except (InvalidSignature, ValueError, TypeError):
            raise Refused(Code.CERTIFICATE_INVALID, f"{directory / ISSUER_NAME} was not issued by {directory / ROOT_NAME}") from None

    @property
    def root(self) -> bytes:
        """Return the root certificate, DER."""
        return self._root.public_bytes(serialization.Encoding.DER)

    @property
    def issuer(self) -> bytes:
        """Return the issuer's certificate, DER."""
        return self._issuer.public_bytes(serialization.Encoding.DER)

    @property
    def expires(self) -> datetime:
        """Return the time after which nothing more can be issued."""
        return self._issuer.not_valid_after_utc

    def node(self, name: str, public_key: bytes, *, now: datetime, days: float) -> Issued:
        """Return a device's certificate; `public_key` is DER SubjectPublicKeyInfo."""
        return self._issue(name, "node", public_key, (), now=now, life=timedelta(days=days))

    def client(self, name: str, public_key: bytes, *, now: datetime) -> Issued:
        """Return the certificate of a hub, a relay or a consumer."""
        return self._issue(name, "client", public_key, (), now=now, life=timedelta(days=CLIENT_DAYS))

    def server(self, names: Sequence[str], public_key: bytes, *, now: datetime, days: float = SERVER_DAYS) -> Issued:
        """Return a server's certificate; `names` are host names and IP addresses, and the first is its common name.

        Raises:
            Refused: NAME_INVALID for a name that is neither.
        """
        return self._issue(names[0], "server", public_key, names, now=now, life=timedelta(days=days))

    def sign(self, statement: bytes) -> bytes:
        """Return the issuing key's signature over a statement of time."""
        return self._key.sign(STATEMENT_CONTEXT + statement, ec.ECDSA(hashes.SHA256()))

    def signed(self, statement: bytes, signature: bytes) -> bool:
        """Return whether a statement has this authority's signature."""
        try:
            self._key.public_key().verify(signature, STATEMENT_CONTEXT + statement, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def revocation_list(self, revoked: Iterable[tuple[str, datetime]], *, number: int, earlier: bytes | None, now: datetime) -> bytes:
        """Return the list of revoked certificates, PEM; each entry is (serial in hexadecimal, time of revocation).

        It is valid as long as the issuer: a broker with an expired list refuses all clients, including the hub that would sign the next.
        """
        begins = now - BACKDATED
        if earlier is not None:  # Given two lists, OpenSSL takes the newer by its date, which counts whole seconds.
            begins = max(begins, x509.load_pem_x509_crl(earlier).last_update_utc + timedelta(seconds=1))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer.subject)
            .last_update(begins)
            .next_update(self._issuer.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_authority_key(self._issuer), critical=False)
        )
        for serial, since in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def chain_pem(self, certificate: bytes) -> bytes:
        """Return a certificate with the issuer's below it, as TLS servers and clients send them."""
        parts = (x509.load_der_x509_certificate(certificate), self._issuer)
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in parts)

    def _issue(self, name: str, kind: Kind, public_key: bytes, names: Sequence[str], *, now: datetime, life: timedelta) -> Issued:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX:
            raise mismatch(Code.NAME_INVALID, "name of a certificate", expected=f"1 to {NAME_CHARACTERS_MAX} characters", actual=len(name))
        ends = min(now + life, self._issuer.not_valid_after_utc)
        if ends <= now:
            raise Refused(Code.CERTIFICATE_INVALID, f"the issuer's own certificate expired at {ends:%Y-%m-%d}: fleetcast ca renew-issuer")
        key = serialization.load_der_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise mismatch(Code.CERTIFICATE_INVALID, "kind of a key", expected="ECDSA on P-256", actual=type(key).__name__)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(_name(name, self.fleet), self._issuer.subject, key, begins=now - BACKDATED, ends=ends)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(_authority_key(self._issuer), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Issued(name, kind, f"{made.serial_number:x}", ends, made.public_bytes(serialization.Encoding.DER))


def create(directory: Path, *, fleet: str, root: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    """Write the certificates of a new authority into a fleet's folder; existing ones are never overwritten.

    Raises:
        Refused: an authority exists already.
    """
    if (directory / ROOT_NAME).exists():
        raise Refused(Code.CERTIFICATE_INVALID, f"{directory / ROOT_NAME} exists: a fleet has one authority")
    subject = _name(f"{fleet} root", fleet)
    builder = _builder(subject, subject, root.public_key(), begins=now - BACKDATED, ends=now + timedelta(days=ROOT_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    made = builder.add_extension(_usage(signs_certificates=True), critical=True).sign(root, hashes.SHA256())
    issue_issuer(directory, root_certificate=made, root=root, issuer=issuer.public_key(), fleet=fleet, now=now)
    # The root is written last: without it there is no authority.
    write(directory / ROOT_NAME, made.public_bytes(serialization.Encoding.PEM), mode=0o644)


def issue_issuer(
    directory: Path,
    *,
    root_certificate: x509.Certificate,
    root: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePublicKey,
    fleet: str,
    now: datetime,
) -> None:
    """Write a certificate of the issuing key, signed by the root's key, and replace the earlier one.

    Raises:
        Refused: the key is another root's.
    """
    if public_der(root_certificate) != _spki(root.public_key()):
        raise Refused(Code.CERTIFICATE_INVALID, "the key is not that of the fleet's root certificate")
    ends = min(now + timedelta(days=ISSUER_DAYS), root_certificate.not_valid_after_utc)
    builder = _builder(_name(f"{fleet} issuer", fleet), root_certificate.subject, issuer, begins=now - BACKDATED, ends=ends)
    made = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_authority_key(root_certificate), critical=False)
        .sign(root, hashes.SHA256())
    )
    write(directory / ISSUER_NAME, made.public_bytes(serialization.Encoding.PEM), mode=0o644)


def requested_key(request: bytes) -> bytes:
    """Return the public key of a certificate request that is signed with it, DER SubjectPublicKeyInfo; the rest of a request is ignored.

    Raises:
        Refused: ENROLMENT_REQUEST when it is invalid, not signed by its own key, or has another kind of key.
    """
    if len(request) > CSR_BYTES_MAX:
        raise mismatch(Code.ENROLMENT_REQUEST, "bytes of a certificate request", expected=f"at most {CSR_BYTES_MAX}", actual=len(request))
    try:
        parsed = x509.load_der_x509_csr(request)
        key, signed = parsed.public_key(), parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise Refused(Code.ENROLMENT_REQUEST, "not a certificate request in DER form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
        raise mismatch(Code.ENROLMENT_REQUEST, "key of a certificate request", expected="ECDSA on P-256", actual=found)
    if not signed:
        raise Refused(Code.ENROLMENT_REQUEST, "a certificate request that is not signed with its own key")
    return _spki(key)


def load_certificate(path: Path) -> x509.Certificate:
    """Return a certificate from a PEM file.

    Raises:
        Refused: CERTIFICATE_INVALID when it is absent or invalid.
    """
    try:
        with path.open("rb") as file:
            return x509.load_pem_x509_certificate(file.read(2 * CERTIFICATE_BYTES_MAX))
    except OSError as error:
        raise Refused(Code.CERTIFICATE_INVALID, f"certificate {path}: {os.strerror(error.errno or 0)}") from None
    except ValueError:
        raise Refused(Code.CERTIFICATE_INVALID, f"{path} is not a certificate in PEM form") from None


def public_der(certificate: x509.Certificate) -> bytes:
    """Return a certificate's key, DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins.astimezone(UTC))
        .not_valid_after(ends.astimezone(UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str, fleet: str) -> x509.Name:
    # The organisation of a certificate is the fleet's name, which fits X.520's bound. A common name is cut: a root's is only for people.
    parts = [(NameOID.ORGANIZATION_NAME, fleet), (NameOID.COMMON_NAME, common[:NAME_CHARACTERS_MAX])]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,  # The issuer signs statements of time as well.
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise Refused(Code.NAME_INVALID, f"{name!r} is neither a host name nor an IP address") from None


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

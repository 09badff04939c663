"""Open the issuer with its key, and write the list of revoked certificates that brokers read, from the database's records."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from hub.database.enrolments import Enrolments
from hub.signing.certificate_authority import ROOT_NAME, Authority
from hub.signing.keys import load_p256
from hub.signing.metadata_files import write
from schemas.errors import Code, Refused

ISSUER_KEY = Path("online") / "issuer.pem"
LIST_NAME = Path("broker") / "tls" / "revoked.crl"


def open_authority(directory: Path, passphrase: Callable[[], bytes], *, fleet: str) -> Authority:
    """Return the fleet's issuer; a passphrase is asked for only if the key has one.

    Raises:
        Refused: the fleet has no authority, it is damaged, or the passphrase does not open the key.
    """
    check_authority(directory)
    return Authority(directory, load_p256(directory / ISSUER_KEY, passphrase()), fleet=fleet)


def check_authority(directory: Path) -> None:
    """Check that the fleet has an authority.

    Raises:
        Refused: it has none.
    """
    if not (directory / ROOT_NAME).exists():
        raise Refused(Code.CERTIFICATE_INVALID, f"{directory} has no certificate authority yet: fleetcast ca init")


def write_list(directory: Path, authority: Authority, enrolments: Enrolments, *, now: datetime) -> bool:
    """Write the revocation list into a fleet's folder if it would differ from the present one; return whether it was written."""
    path = directory / LIST_NAME
    revoked = {row.serial: datetime.fromtimestamp(row.revoked_at or 0, UTC) for row in enrolments.revoked()}
    earlier, number = None, 1
    if path.exists():
        earlier = path.read_bytes()
        parsed = x509.load_pem_x509_crl(earlier)
        same_issuer = parsed.next_update_utc == authority.expires
        if same_issuer and {f"{one.serial_number:x}" for one in parsed} == set(revoked):
            return False
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
    write(path, authority.revocation_list(revoked.items(), number=number, earlier=earlier, now=now), mode=0o644)
    return True

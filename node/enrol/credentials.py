"""Read the certificates that a device shows and believes, as facts. Reads no key; knows no broker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

PEM_BYTES_MAX: Final = 1024 * 1024  # a bundle of every public authority has 200 KiB


@dataclass(frozen=True, slots=True)
class Shown:
    """Hold a certificate's own words; seconds since 1970."""

    name: str  # the subject's common name
    not_before: int
    not_after: int


def read(path: str) -> Shown:
    """Return the first certificate of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no certificate.
    """
    with Path(path).open("rb") as file:
        found = x509.load_pem_x509_certificate(file.read(PEM_BYTES_MAX))
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Shown(
        str(names[0].value) if names else "", int(found.not_valid_before_utc.timestamp()), int(found.not_valid_after_utc.timestamp())
    )


def expires_at(path: str) -> int | None:
    """Return when a certificate ends; None where there is none, or it cannot be read."""
    try:
        return read(path).not_after if path else None
    except (OSError, ValueError):
        return None

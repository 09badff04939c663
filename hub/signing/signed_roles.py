"""Check a role that was signed elsewhere: it may differ from the present one in what was asked for, and in nothing else."""

from datetime import datetime, timedelta
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.api.serialization import DeserializationError

from hub.core.publish.metadata_expiry import life
from hub.signing.parsed_metadata import is_signed, parsed
from schemas.errors import Code, Refused
from schemas.limits import TRUST_ROLE_BYTES_MAX

CLOCK_SECONDS_MAX = 24 * 3600  # How much a publisher's clock may be before ours.


def read_role(data: bytes) -> Metadata[Targets]:
    """Return a role that came over a network.

    Raises:
        Refused: SCHEMA_TOO_LARGE, SCHEMA_MALFORMED.
    """
    if len(data) > TRUST_ROLE_BYTES_MAX:
        raise Refused(Code.SCHEMA_TOO_LARGE, f"a role of {len(data)} bytes, at most {TRUST_ROLE_BYTES_MAX} are allowed")
    try:
        found: Metadata[Any] = parsed(data)
    except (DeserializationError, RepositoryError):
        raise Refused(Code.SCHEMA_MALFORMED, "what was sent as a model's role is no TUF metadata") from None
    if not isinstance(found.signed, Targets):
        raise Refused(Code.SCHEMA_MALFORMED, f"expected metadata of the type targets, found {found.signed.type}")
    return found


def check_role(data: bytes, *, role: str, version: int, expected: Targets, targets: bytes, now: datetime) -> None:
    """Check that a role is the next version of the present one, lists what is expected, and is signed by those who may.

    `targets` is the role that names their keys.

    Raises:
        Refused: KEY_NOT_AUTHORISED, REQUEST_STALE where another version was signed meanwhile, or REQUEST_INVALID.
    """
    found = read_role(data).signed
    if not is_signed(role, data, by=targets):
        raise Refused(Code.KEY_NOT_AUTHORISED, f"the role {role} is not signed by {_whom(role)}")
    if found.version != version + 1:
        reason = (
            f"{role} has version {version} now, and what was sent was signed for version {found.version}: read it again, and sign again"
        )
        raise Refused(Code.REQUEST_STALE, reason)
    if found.targets != expected.targets:
        extra = sorted({*found.targets} ^ {*expected.targets})[:3]
        which = f": {', '.join(one[:100] for one in extra)}" if extra else ""
        raise Refused(Code.REQUEST_INVALID, f"the role must list the present releases with the change alone, and it differs{which}")
    if found.unrecognized_fields != expected.unrecognized_fields or found.delegations != expected.delegations:
        raise Refused(Code.REQUEST_INVALID, "the role may differ from the present one by the change only: it has other fields")
    if not now < found.expires <= now + life(role) + timedelta(seconds=CLOCK_SECONDS_MAX):
        reason = f"the role expires at {found.expires.isoformat()}, and it must do so within {life(role).days} days from now"
        raise Refused(Code.REQUEST_INVALID, f"{reason}; is the publisher's clock right?")


def _whom(role: str) -> str:
    return "a targets key of the fleet" if role == "targets" else "the team that the fleet has delegated the model to"

"""Turn python-tuf's errors into refusals with our codes."""

import contextlib
from collections.abc import Iterator

from tuf.api import exceptions as tuf_errors
from tuf.api.serialization import DeserializationError, SerializationError

from schemas.errors import Code, Refused


class OtherVersionError(tuf_errors.DownloadHTTPError):
    """Signal that the bundle has this role, but not the version that the rest of the bundle asks for."""


@contextlib.contextmanager
def as_refused(what: str) -> Iterator[None]:
    """Turn python-tuf's errors into ours; the order matters, since most of them derive from one."""
    try:
        yield
    except tuf_errors.ExpiredMetadataError as error:
        raise Refused(Code.TRUST_EXPIRED, f"{what}: {error}") from error
    except tuf_errors.UnsignedMetadataError as error:
        raise Refused(Code.TRUST_SIGNATURE, f"{what}: {error}") from error
    except tuf_errors.BadVersionNumberError as error:
        raise Refused(Code.TRUST_ROLLBACK, f"{what}: {error}") from error
    except (tuf_errors.LengthOrHashMismatchError, OtherVersionError) as error:
        raise Refused(Code.TRUST_MISMATCH, f"{what}: {error}") from error
    except (DeserializationError, SerializationError) as error:
        raise Refused(Code.SCHEMA_MALFORMED, f"{what}: {error}") from error
    except tuf_errors.DownloadLengthMismatchError as error:
        raise Refused(Code.SCHEMA_TOO_LARGE, f"{what}: {error}") from error
    except (tuf_errors.DownloadError, tuf_errors.RepositoryError) as error:  # not in the bundle, or dropped from the snapshot
        raise Refused(Code.TRUST_INCOMPLETE, f"{what}: {error}") from error

"""Choose the HTTP status of an error: 400 the request is wrong, 403 a foreign web page sent it, 404 no such model or version, 409 it is too
late for that, 413 too large, 415 of a type that a form has, 500 the model failed, 503 not now (with Retry-After), 504 it did not answer.
"""

from typing import Final

from schemas.errors import Code, FleetcastError, Refused

RETRY_SECONDS: Final = 1
STATUS: Final = {
    Code.REQUEST_INVALID: 400,
    Code.RELEASE_UNKNOWN: 404,
    Code.LABELS_RELEASE: 404,
    Code.LABELS_FUTURE: 400,
    Code.LABELS_OLD: 400,
    Code.LABELS_EXCESS: 400,
    Code.LABELS_CLOSED: 409,
    Code.SCHEMA_TOO_LARGE: 413,
    Code.REQUEST_FOREIGN: 403,
    Code.REQUEST_CONTENT_TYPE: 415,
    Code.WORKER_HUNG: 504,
}  # whatever else is refused here is the model's failure: 500


def status_of(error: FleetcastError) -> int:
    """Return the status of an expected error."""
    return STATUS.get(error.code, 500) if isinstance(error, Refused) else 503


def retry_after(error: FleetcastError | None = None) -> dict[str, str]:
    """Return the header that says when to repeat a request that was answered with 503."""
    return {"Retry-After": str(getattr(error, "retry_seconds", RETRY_SECONDS))}

"""Read forms: bounded, once, and only from pages of our own. What changes something carries a token that no other site can know."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import ClientDisconnect, Request

from hub.web.problems import Refusal
from schemas.errors import Code, Refused
from schemas.limits import KIB

BODY_BYTES_MAX: Final = 16 * KIB
BODY_SECONDS_MAX: Final = 30.0
FIELDS_MAX: Final = 20
CSRF: Final = "csrf"  # Name of the field.
_CLOSED: Final = {"connection": "close"}  # What is left of a body is not read.


def token_of(cookie: str, action: str) -> str:
    """Return what a form must carry: bound to the session by its cookie, which no page can read, and to what the form does."""
    return hmac.new(cookie.encode(), f"csrf {action}".encode(), hashlib.sha256).hexdigest()


def check_token(given: Mapping[str, str], cookie: str, action: str) -> None:
    """Check that a form is of this session and for this action.

    Raises:
        Refused: REQUEST_FOREIGN.
    """
    if not hmac.compare_digest(given.get(CSRF, "").encode(), token_of(cookie, action).encode()):
        raise Refused(Code.REQUEST_FOREIGN, "the form is not of this session, or its page is from before it")


def check_origin(request: Request) -> None:
    """Check that a form was sent from a page of this console.

    Raises:
        Refused: REQUEST_FOREIGN.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    host = request.headers.get("host", "")
    if (site is not None and site != "same-origin") or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
        raise Refused(Code.REQUEST_FOREIGN, "the form was sent from a page of another site, and was not read")


async def fields_of(request: Request) -> dict[str, str]:
    """Return the fields of a form, each of which is there once.

    Raises:
        Refusal: it is no form, is too large, or takes too long.
        Refused: a field is there twice, or there are too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(Code.REQUEST_CONTENT_TYPE, f"a form must be application/x-www-form-urlencoded, not {kind[:80] or 'of no type'}")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES_MAX:
                    reason = f"a form of more than {BODY_BYTES_MAX} bytes, which are allowed"
                    raise Refusal(Refused(Code.SCHEMA_TOO_LARGE, reason), headers=_CLOSED)
    except TimeoutError:
        reason = f"the form was not here after {BODY_SECONDS_MAX:g} s"
        raise Refusal(Refused(Code.REQUEST_INVALID, reason), status=408, headers=_CLOSED) from None
    except ClientDisconnect:
        raise Refusal(Refused(Code.REQUEST_INVALID, "the connection ended before the form did"), status=400, headers=_CLOSED) from None
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict", max_num_fields=FIELDS_MAX
        )
    except ValueError:
        raise Refused(Code.REQUEST_INVALID, f"the form cannot be read: it must be URL-encoded, with at most {FIELDS_MAX} fields") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(Code.REQUEST_INVALID, "a field of the form is there twice")
    return found

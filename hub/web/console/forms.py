"""Read forms: bounded, once, and only from pages of our own. What changes something carries a token that no other site can know."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from hub.web.guard import body_of
from schemas.errors import Code, Refused
from schemas.limits import KIB

BODY_BYTES_MAX: Final = 16 * KIB
FIELDS_MAX: Final = 64  # A start has some 25, and one for each parameter of the release, of which there are up to 16
CSRF: Final = "csrf"  # Name of the field.


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
    body = await body_of(request, "application/x-www-form-urlencoded", BODY_BYTES_MAX, noun="form")
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

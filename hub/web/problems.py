"""Answer with problem documents (RFC 9457): our code, what is wrong, and what mends it. A bug of ours is a reference, and no traceback."""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fleetcast.error_help import MEANINGS
from hub.core.blueprint.reading import InvalidBlueprint
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import TEXT_MAX
from schemas.patterns import reason_of

log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"
ERRORS_MAX: Final = 20  # Fields that one answer names.
STATUSES: Final[Mapping[str, int]] = {
    Code.REQUEST_INVALID: 422,
    Code.REQUEST_FOREIGN: 421,
    Code.REQUEST_CONTENT_TYPE: 415,
    Code.REQUEST_TOKEN: 401,
    Code.REQUEST_ROLE: 403,
    Code.REQUEST_UNKNOWN: 404,
    Code.REQUEST_STALE: 412,
    Code.REQUEST_REPEATED: 422,
    Code.REQUEST_CROWDED: 429,
    Code.SCHEMA_TOO_LARGE: 413,
    Code.RELEASE_UNKNOWN: 404,
    Code.NODE_UNKNOWN: 404,
    Code.NODE_FORGOTTEN: 404,
    Code.NAME_TAKEN: 409,
    Code.RELEASE_CONFLICT: 409,
    Code.NODE_ENROLLED: 409,
    Code.RELEASE_BREAKING: 409,
    Code.RELEASE_NEEDED: 409,
    Code.RELEASE_UNCHECKED: 409,
    Code.ROLLOUT_INVALID: 409,
    Code.BLUEPRINT_BUSY: 409,
    Code.BLUEPRINT_HELD: 409,
    Code.KEY_NOT_AUTHORISED: 403,
    Code.DISK_FULL: 507,
}  # Others are 422: something that was given is wrong.


# What these codes mean to somebody who asks a hub over its API. Elsewhere they are a node's, or a command's.
WORDS: Final[Mapping[str, tuple[str, str]]] = {
    Code.REQUEST_INVALID: (
        "the request is not one that the hub's API takes",
        "correct what the detail names, and send it again; docs/api.md describes each request",
    ),
    Code.REQUEST_FOREIGN: (
        "the request names another host than this hub",
        "ask under one of the hub's own names, or add this one to `web_hosts` in the hub's settings",
    ),
    Code.REQUEST_CONTENT_TYPE: ("the body has a type that is not taken here", "send it as the type that the detail names"),
    Code.NODE_UNKNOWN: ("the hub knows no node of this name", "compare the name with the list of nodes, GET /api/v1/nodes"),
    Code.NODE_FORGOTTEN: ("the node of this name was forgotten", "admit it again with `fleetcast nodes replace` if it is to come back"),
    Code.NODE_ENROLLED: (
        MEANINGS[Code.NODE_ENROLLED][0],
        "choose another name, or set `replace` to true if the new device is to be in the place of that one",
    ),
    Code.RELEASE_BREAKING: (
        MEANINGS[Code.RELEASE_BREAKING][0],
        "choose a release that takes and gives the same, or set `breaking` to true if this is intended",
    ),
    Code.RELEASE_NEEDED: (MEANINGS[Code.RELEASE_NEEDED][0], "first roll another release out"),
    Code.SETTINGS_INVALID: (MEANINGS[Code.SETTINGS_INVALID][0], "correct the field that the detail names"),
}
COMMAND: Final = re.compile(r"(`[^`]*`?|\bfleetcast(?:-node)? [^`;()]*)")  # Between backticks, or from its name on.
FIELDS: Final[Mapping[str, str]] = {"set": "parameters"}  # Options whose fields have another name.
WORDS_HEADER: Final = "fleetcast-words"
OPTIONS: Final = "options"  # What a command line sends in it: to be answered in options, where others are answered in fields.

Words = Callable[[str], str]


class FieldProblem(BaseModel):
    """Name one thing that is wrong with a request."""

    where: str
    reason: str


class Problem(BaseModel):
    """Say what is wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    mend: str = ""
    errors: list[FieldProblem] | None = None
    reference: str | None = None


class Refusal(Exception):
    """Carry a refusal with a status or headers of its own."""

    def __init__(self, refused: Refused, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(refused))
        self.refused, self.status, self.headers = refused, status, headers


def answer(
    code: str,
    reason: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[FieldProblem] | None = None,
    reference: str | None = None,
    words: Words | None = None,
) -> Response:
    """Return a problem document; it names fields, where no other words are asked for."""
    title, mend = meaning_of(code) or ("a bug in fleetcast, not in the request", "report it with the reference")
    found = Problem(
        type=f"urn:fleetcast:problem:{code}",
        title=title,
        status=status or STATUSES.get(code, 422),
        detail=(words or in_fields)(reason)[:TEXT_MAX],
        code=code,
        mend=mend,
        errors=list(errors) if errors is not None else None,
        reference=reference,
    )
    body = json.dumps(found.model_dump(exclude_none=True)).encode()  # Escaped: what a request has named may be no text.
    return Response(body, status_code=found.status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def meaning_of(code: str) -> tuple[str, str] | None:
    """Return what a code means to somebody who asks over the API, and what mends it."""
    return WORDS.get(code) or (MEANINGS[Code(code)] if code in MEANINGS else None)


def words_of(request: Request) -> Words:
    """Return what puts a sentence into the words of who asks: a command line's options stay options."""
    return str if request.headers.get(WORDS_HEADER, "") == OPTIONS else in_fields


def in_fields(text: str) -> str:
    """Name fields where a sentence names options of the command line; a whole command stays as it is."""
    parts = COMMAND.split(text)
    parts[::2] = [re.sub(r"(?<![\w-])--([a-z][a-z-]*)", _field, part) for part in parts[::2]]
    return "".join(parts)


def _field(option: re.Match[str]) -> str:
    return f"`{FIELDS.get(option[1], option[1].replace('-', '_'))}`"


def of_refused(refused: Refused, words: Words = in_fields) -> Response:
    """Return the answer to what was refused; it names each mistake of a blueprint."""
    if isinstance(refused, InvalidBlueprint):
        errors = [FieldProblem(where=where[:TEXT_MAX], reason=reason[:TEXT_MAX]) for where, reason in refused.places[:ERRORS_MAX]]
        return answer(refused.code, refused.reason, errors=errors, words=words)
    return answer(refused.code, refused.reason, words=words)


def install(app: FastAPI, methods: Callable[[str], Sequence[str]]) -> None:
    """Have every error of the application answered so; `methods` are those that a path takes."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101  # it is registered for it
        return of_refused(error, words_of(request))

    async def refusal(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)  # noqa: S101
        given = error.refused
        return answer(given.code, given.reason, status=error.status, headers=error.headers, words=words_of(request))

    async def unreachable(request: Request, error: Exception) -> Response:
        log.error("api.failed", path=request.url.path, reason=str(error))
        return bug("the hub's database does not answer; nothing was changed", 503, {"retry-after": "10"})

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        found = [FieldProblem(where=_where(one), reason=reason_of(one)[:TEXT_MAX]) for one in error.errors()[:ERRORS_MAX]]
        first = "; ".join(f"{one.where}: {one.reason}" for one in found[:3])
        return answer(Code.REQUEST_INVALID, f"the request is not as the API describes it: {first}", errors=found)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        text = {404: "there is no such resource", 405: f"{request.method} is not allowed here"}.get(error.status_code, str(error.detail))
        code = Code.REQUEST_UNKNOWN if error.status_code in {404, 405} else Code.REQUEST_INVALID
        headers = {"allow": ", ".join(methods(request.url.path))} if error.status_code == 405 else None
        return answer(code, text, status=error.status_code, headers=headers)

    async def crashed(request: Request, error: Exception) -> Response:
        reference = secrets.token_hex(4)
        log.error("api.crashed", path=request.url.path, reference=reference, exc_info=error)
        return bug(f"that is a bug in fleetcast; details are in the hub's log, by the reference {reference}", 500, reference=reference)

    for kind, handler in (
        (Refused, refused),
        (Refusal, refusal),
        (Unreachable, unreachable),
        (RequestValidationError, invalid),
        (HTTPException, http),
        (Exception, crashed),
    ):
        app.add_exception_handler(kind, handler)


def bug(text: str, status: int, headers: Mapping[str, str] | None = None, *, reference: str | None = None) -> Response:
    """Return the answer to what is not the asker's fault."""
    return answer("hub.failed", text, status=status, headers=headers, reference=reference)


def _where(error: Any) -> str:
    return ".".join(str(one)[:80] for one in error.get("loc", ()))[:TEXT_MAX]

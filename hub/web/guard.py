"""Let a request through to its route: by its Host, its token and the token's role, its query and the size of its body."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.core.enrol.throttle import Throttle
from hub.core.floods.connection_limit import origin_of
from hub.database.api_rows import TokenRow
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from hub.service.enrol.bounded_listener import connections_max
from hub.signing.tuf_repository import Repository
from hub.web import problems
from hub.web.event_stream import Places
from hub.web.problems import Refusal
from hub.web.roles import Right, may
from hub.web.server import CONNECTIONS_MAX
from schemas.errors import Code, Refused
from schemas.limits import KIB

BODY_BYTES_MAX: Final = 256 * KIB
BODY_SECONDS_MAX: Final = 30.0
KEY_CHARACTERS_MAX: Final = 64
LOOKUPS_MAX: Final = 4  # Secrets from addresses with too many failures that are looked up at one time; a hub has 40 threads.
SHOWN_ONCE: Final = frozenset({("POST", "/tokens"), ("POST", "/nodes/{node}/replacement")})  # Answers with a secret that is kept nowhere.
NO_KEY: Final = (
    "the answer has a secret that is kept nowhere, so that a repetition could not be answered alike: leave Idempotency-Key out, and where"
    " an answer was lost, make another one, and revoke what `fleetcast tokens list` or `fleetcast enroll list` shows besides"
)
Found = TypeVar("Found")
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(slots=True)
class Door:
    """Hold what requests are let in by."""

    fleet: OpenedFleet
    hosts: frozenset[str]
    monotonic: Callable[[], float] = time.monotonic
    failures: Throttle = field(default_factory=Throttle)
    places: Places = field(default_factory=lambda: Places(partial(connections_max, CONNECTIONS_MAX)))
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKUPS_MAX))

    def of_request(self, actor: str) -> OpenedFleet:
        """Return the fleet for one request: its signed metadata is read by one thread."""
        return replace(self.fleet, repository=Repository(self.fleet.directory / "trust")).acting(actor)

    async def looked_up(self, origin: str, look: Callable[[], Found | None]) -> Found | None:
        """Return what a secret lets in; None where it is wrong, which is counted against its address.

        A good secret is let in whatever else has come from its address: it has 256 random bits, which nobody guesses. Else anybody who
        shares an address with others, as behind a proxy, could lock all of them out. Of addresses with too many failures few secrets are
        looked up at one time, so that wrong ones take no thread from others.

        Raises:
            Refusal: REQUEST_CROWDED: it is wrong, and was not the first.
        """
        wait = self.failures.wait_seconds(origin, self.monotonic())
        if wait <= 0:
            found = await run_in_threadpool(look)
        else:
            async with self.lookups:
                found = await run_in_threadpool(look)
        if found is None and wait > 0:
            reason = "too many requests with bad tokens came from this address, and this one's is bad, too"
            raise Refusal(Refused(Code.REQUEST_CROWDED, reason), headers={"retry-after": str(int(wait) + 1)})
        if found is None:
            self.failures.failed(origin, self.monotonic())
        return found

    async def admit(self, request: Request, right: Right) -> TokenRow:
        """Return the token of a request that may do this.

        Raises:
            Refusal: it has no good token, or its role does not allow it.
        """
        origin, text = origin_of(request.client.host if request.client else ""), _bearer(request)
        challenge = {"www-authenticate": 'Bearer realm="fleetcast"'}
        if not text:  # Nothing was guessed.
            raise Refusal(Refused(Code.REQUEST_TOKEN, "the request has no token"), headers=challenge)
        token = await self.looked_up(origin, lambda: api_tokens.find(self.fleet, text))
        if token is None:
            raise Refusal(Refused(Code.REQUEST_TOKEN, "the token is unknown, expired or revoked"), headers=challenge)
        if not may(token.role, right):
            raise Refused(Code.REQUEST_ROLE, f"this needs the role {right}, and the token {token.name!r} has the role {token.role}")
        return token


def _bearer(request: Request) -> str:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def guarded(door: Door, rights: Mapping[tuple[str, str], Right], prefix: str) -> type[APIRoute]:
    """Return the class of routes that ask the door first; one that the table does not list cannot be made."""

    class Route(APIRoute):
        """Check a request before anything of it is parsed."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()
            method = next(iter(self.methods or ()))
            right = rights[method, self.path.removeprefix(prefix)]
            names = {one.alias for one in self.dependant.query_params}
            takes_body = self.body_field is not None

            async def handle(request: Request) -> Response:
                if right != "anybody":
                    request.state.token = token = await door.admit(request, right)
                    request.state.fleet = door.of_request(f"{api_tokens.ACTOR_PREFIX}{token.name}")
                _check_query(request, names)
                body = await body_of(request) if takes_body else b""
                _check_fields(body)
                request.state.digest = hashlib.sha256(f"{method} {request.url.path}\n".encode() + body).digest()
                request.state.key = _idempotency_key(request)
                if request.state.key is not None and (method, self.path.removeprefix(prefix)) in SHOWN_ONCE:
                    raise Refused(Code.REQUEST_INVALID, NO_KEY)
                return await inner(request)

            return handle

    return Route


def _check_query(request: Request, names: set[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    if unknown := sorted(set(given) - names):
        raise Refused(
            Code.REQUEST_INVALID, f"there is no parameter {unknown[0][:80]!r} here; there are {', '.join(sorted(names)) or 'none'}"
        )
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise Refused(Code.REQUEST_INVALID, f"parameter {twice[0]!r} is given twice")


def _check_fields(body: bytes) -> None:
    """Refuse a body that gives a field twice: parsers differ in which one they believe. What is no JSON is refused later."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(body, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen = set[str]()
    for name, _ in pairs:
        if name in seen:
            raise Refused(Code.REQUEST_INVALID, f"field {name[:80]!r} is given twice")
        seen.add(name)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        raise Refused(Code.REQUEST_INVALID, f"Idempotency-Key must be 1 to {KEY_CHARACTERS_MAX} printable ASCII characters")
    return key


async def body_of(request: Request, kind: str = "application/json", bytes_max: int = BODY_BYTES_MAX, *, noun: str = "body") -> bytes:
    """Read a body, never more of it in memory than is allowed; `noun` is what a refusal calls it.

    Raises:
        Refusal: it is of another type, too large, or takes too long.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise Refused(Code.REQUEST_CONTENT_TYPE, f"the {noun} must be {kind}, not {given[:80] or 'of no type'}")
    found, closed = bytearray(), {"connection": "close"}  # What is left of a body is not read.
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for part in request.stream():
                found += part
                if len(found) > bytes_max:
                    reason = f"a {noun} of more than {bytes_max} bytes, which are allowed"
                    raise Refusal(Refused(Code.SCHEMA_TOO_LARGE, reason), headers=closed)
    except TimeoutError:
        reason = f"the {noun} was not here after {BODY_SECONDS_MAX:g} s"
        raise Refusal(Refused(Code.REQUEST_INVALID, reason), status=408, headers=closed) from None
    except ClientDisconnect:
        reason = f"the connection ended before the {noun} did"
        raise Refusal(Refused(Code.REQUEST_INVALID, reason), status=400, headers=closed) from None
    request._body = bytes(found)  # As starlette keeps a body that was read.
    return request._body


class HostCheck:
    """Refuse requests under a name that is not the hub's: a web page that has its own name lead here would read what it may not."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], places: Places) -> None:
        self._app, self._hosts, self._places = app, hosts, places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and put what every answer carries into its headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                had = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in had]
                if self._places.are_scarce and b"connection" not in had:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not self._is_ours(given[0]):
            reason = f"the request is for host {', '.join(given)[:80]!r}, which is none of the hub's names: see `web_hosts`"
            await problems.answer(Code.REQUEST_FOREIGN, reason)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._hosts

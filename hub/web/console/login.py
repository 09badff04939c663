"""Sign people in and out: a token pasted once, or a link that holds once. Addresses that send wrong ones are slowed down."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hub.core.floods.connection_limit import origin_of
from hub.operations import console_sessions
from hub.operations.console_sessions import Session
from hub.web.console import forms, rendering
from hub.web.guard import Door

NEXT_CHARACTERS_MAX: Final = 2000
Handler = Callable[[Request], Awaitable[Response]]


def cookie_name(request: Request) -> str:
    """Return the name of the cookie. Without TLS, which is on loopback alone, a browser takes none with the prefix."""
    return "__Host-fleetcast" if request.url.scheme == "https" else "fleetcast"


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Put a session's cookie into a response: gone with the browser or with the session, whichever ends first."""
    secure = request.url.scheme == "https"
    response.set_cookie(cookie_name(request), value, path="/", secure=secure, httponly=True, samesite="strict")


def within(address: str) -> str:
    """Return an address of the console to go on to; the first page's where it leads elsewhere."""
    parts = urlsplit(address) if len(address) <= NEXT_CHARACTERS_MAX and address.isascii() and address.isprintable() else None
    is_ours = parts is not None and not parts.scheme and not parts.netloc and re.match(r"/(?![/\\])", address) and "\\" not in address
    return address if is_ours and parts is not None and parts.path not in {"/login", "/logout", "/live"} else "/"


def routes(door: Door, safely: Callable[[Handler], Handler]) -> list[Route]:
    """Return the routes by which people come and go."""

    async def shown(request: Request) -> Response:
        next_to, at, once = (request.query_params.get(name, "") for name in ("next", "at", "once"))
        back_to = within(next_to)
        cookie = request.cookies.get(cookie_name(request), "")
        if request.headers.get("sec-fetch-site") == "cross-site" and not once and not cookie:
            # The cookie does not come along from another site. This page leads on from our own, and then it does.
            return _page(door, {"bounce": back_to})
        session = await run_in_threadpool(console_sessions.find, door.fleet, cookie, looks=False) if cookie else None
        if isinstance(session, Session) and not once:
            return RedirectResponse(back_to, status_code=303, headers=dict(rendering.HEADERS))
        owner = await run_in_threadpool(console_sessions.link_owner, door.fleet, once) if once else None
        over_at = int(at) if re.fullmatch(r"\d{1,11}", at) else None
        values = {"next": back_to, "over_at": over_at, "once": once if owner is not None else "", "owner": owner, "is_late": bool(once)}
        return _page(door, {**values, "is_undone": request.query_params.get("undone") == "1"})

    async def sign_in(request: Request) -> Response:
        forms.check_origin(request)
        origin = origin_of(request.client.host if request.client else "")
        fields = await forms.fields_of(request)
        text, once, back_to = fields.get("token", "").strip(), fields.get("once", ""), within(fields.get("next", ""))
        begin = console_sessions.begin_by_link if once else console_sessions.begin_by_token
        cookie = await door.looked_up(origin, lambda: begin(door.fleet, once or text)) if once or text else None
        if cookie is None:
            return _page(door, {"next": back_to, "is_wrong": bool(text), "is_late": bool(once)}, status=401)
        answer = RedirectResponse(back_to, status_code=303, headers=dict(rendering.HEADERS))
        set_cookie(request, answer, cookie)
        return answer

    async def leaving(request: Request) -> Response:
        cookie = request.cookies.get(cookie_name(request), "")
        session = await run_in_threadpool(console_sessions.find, door.fleet, cookie, looks=False)
        if not isinstance(session, Session):
            return RedirectResponse("/login", status_code=303, headers=dict(rendering.HEADERS))
        return _page(door, {"leaves": session, "csrf": forms.token_of(cookie, "/logout")})

    async def sign_out(request: Request) -> Response:
        forms.check_origin(request)
        cookie = request.cookies.get(cookie_name(request), "")
        forms.check_token(await forms.fields_of(request), cookie, "/logout")
        await run_in_threadpool(console_sessions.end, door.fleet, cookie)
        answer = RedirectResponse("/login", status_code=303, headers=dict(rendering.HEADERS))
        answer.delete_cookie(cookie_name(request), path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")
        return answer

    return [
        Route("/login", safely(shown), methods=["GET"]),
        Route("/login", safely(sign_in), methods=["POST"]),
        Route("/logout", safely(leaving), methods=["GET"]),
        Route("/logout", safely(sign_out), methods=["POST"]),
    ]


_NOTHING: Final[dict[str, Any]] = {
    "bounce": "", "next": "/", "over_at": None, "once": "", "owner": None, "is_late": False, "is_wrong": False, "is_undone": False,
    "leaves": None, "csrf": "",
}  # fmt: skip


def _page(door: Door, values: dict[str, Any], status: int = 200) -> Response:
    whole = {**_NOTHING, "fleet_name": door.fleet.settings.fleet, "now": int(time.time()), **values}
    return HTMLResponse(rendering.page("login.html", whole), status_code=status, headers=dict(rendering.HEADERS))

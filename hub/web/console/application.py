"""Put the console together: its pages and questions, who may see them, and what every answer carries."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from hub.operations import console_sessions
from hub.operations.console_sessions import Over, Session
from hub.operations.snapshot import Snapshots
from hub.web.console import forms, login, rendering, waiting
from hub.web.console.last_change import last_change
from hub.web.console.live import Live
from hub.web.console.page import Answer, Asking, Done, Given, Page, Question, View
from hub.web.console.pages import PAGES, QUESTIONS
from hub.web.console.pages.fleet import wall_pages
from hub.web.console.pages.matters import count_of_matters
from hub.web.console.refusals import NotThere, Wrong, bug, may_not, no_right, of_refused
from hub.web.console.sentence import link, path, said
from hub.web.console.shared import Shared
from hub.web.guard import Door
from hub.web.problems import Refusal
from hub.web.roles import may
from schemas.errors import Code, Refused, Unreachable

log = structlog.get_logger()

REASON_CHARACTERS_MAX: Final = 500
WHY: Final = "reason"  # A parameter of a question: the reason that was typed before its asker had to sign in again.
ABOUT_THE_STATE: Final = frozenset({Code.ROLLOUT_INVALID, Code.NODE_UNKNOWN, Code.NODE_FORGOTTEN, Code.REQUEST_UNKNOWN})
LOADED_ANEW: Final = "x-fleetcast-look"  # A header of pages that a script loads anew: nobody has looked, and the session ends in time.
NOT_OF_A_TABLE: Final = frozenset({"cursor", "limit", "more"})  # A table is whole.
Handler = Callable[[Request], Awaitable[Response]]


class SignIn(Exception):
    """Carry where somebody goes who is not signed in: to sign in, and then back. `undone`: a form was sent, and nothing was done."""

    def __init__(self, back_to: str, over_at: int | None, *, undone: bool = False) -> None:
        super().__init__(back_to)
        self.back_to, self.over_at, self.undone = back_to, over_at, undone

    @property
    def address(self) -> str:
        """Return the address at which to sign in."""
        query = {"next": self.back_to, **({"at": str(self.over_at)} if self.over_at is not None else {})}
        return f"/login?{urlencode({**query, **({'undone': '1'} if self.undone else {})})}"


@dataclass(frozen=True)
class Console:
    """Hold what every request of the console needs."""

    door: Door
    shared: Shared
    live: Live

    async def session(self, request: Request, *, looks: bool = True) -> Session:
        """Return the session of a request.

        Raises:
            SignIn: it has none that is good.
        """
        cookie = request.cookies.get(login.cookie_name(request), "")
        found = await run_in_threadpool(console_sessions.find, self.door.fleet, cookie, looks=looks)
        if isinstance(found, Session):
            return found
        back_to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise SignIn(back_to, found.at if isinstance(found, Over) else None, undone=request.method == "POST")

    def frame(self, view: View, section: str, *, csrf: str = "") -> dict[str, Any]:
        """Return what the frame of every page shows."""
        return {
            "fleet_name": view.fleet.settings.fleet,
            "section": section,
            "view": view,
            "now": view.now,
            "role": view.role,
            "who": view.session.name if view.session is not None else "",
            "matters": count_of_matters(view),
            "csrf": csrf,
            "wall": view.query.get("wall") == "1",
            "wall_pages": wall_pages(view) if view.query.get("wall") == "1" else (),
        }

    def values(self, page: Page, view: View, answer: Answer) -> dict[str, Any]:
        """Return what the template of a page shows."""
        found = self.frame(view, page.section)
        shown = {name: getattr(answer, name) for name in ("sentence", "cli", "cli_besides", "lead", "needs", "crumbs", "refreshes")}
        plain = answer.sentence.striptags() if hasattr(answer.sentence, "striptags") else answer.sentence
        title = {"title": answer.title or plain, "may_not": lambda doing, right: may_not(view, doing, right)}
        kept = urlencode({name: value for name, value in view.query.items() if name in page.query - NOT_OF_A_TABLE})
        table = f"{view.address.partition('?')[0]}.csv{'?' if kept else ''}{kept}" if page.table is not None else ""
        return {**found, **shown, **title, "table_at": table, **answer.values}


def console(door: Door, snapshots: Snapshots) -> ASGIApp:
    """Return the console, ready to be served beside the API."""
    shared = Shared(snapshots, door.monotonic)
    own = Console(door, shared, Live(door.fleet.store))
    routes = [Route(f"/{name}", _asset(name)) for name in rendering.MEDIA]
    routes += login.routes(door, lambda handler: _safely(own, handler))
    routes += [Route("/live", _safely(own, lambda request: _live(own, request)), methods=["GET"])]
    for question in QUESTIONS:
        routes.append(Route(question.path, _safely(own, _asked(own, question)), methods=["GET"]))
        routes.append(Route(question.path, _safely(own, _answered(own, question)), methods=["POST"]))
    routes += [Route(page.path, _safely(own, _page(own, page)), methods=["GET"]) for page in PAGES]
    routes[:0] = [Route(f"{page.path}.csv", _safely(own, _table(own, page)), methods=["GET"]) for page in PAGES if page.table is not None]
    routes.append(Route("/{rest:path}", _safely(own, lambda request: _nowhere(own, request)), methods=["GET", "POST"]))
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


def _html(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(text, status_code=status, headers={**rendering.HEADERS, **(headers or {})})


def _asset(name: str) -> Handler:
    async def handle(request: Request) -> Response:
        headers = {**rendering.HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        if request.url.query != rendering.asset_address(name).partition("?")[2]:
            headers["cache-control"] = "no-cache"  # An address of another version: what it gets is not what it named.
        return Response(rendering.asset(name), media_type=rendering.MEDIA[name], headers=headers)

    return handle


def _check_query(request: Request, known: frozenset[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    unknown, twice = sorted(set(given) - known - {"wall"}), sorted({name for name in given if given.count(name) > 1})
    if unknown or twice:
        named = (unknown or twice)[0][:80]
        what = f"there is no parameter {named!r} on this page" if unknown else f"parameter {named!r} is there twice"
        raise Refused(Code.REQUEST_INVALID, what)


async def _view(own: Console, request: Request, asked: Page | Question, *, looks: bool = True) -> View | Response:
    """Return what somebody who is signed in sees by; or the page that says that they may not."""
    session = await own.session(request, looks=looks)
    if not may(session.role, asked.right):
        return await _wrong(own, request, no_right(asked.doing, asked.right, session), session)
    _check_query(request, asked.query)
    return View.of(request, own.door.of_request(session.actor), own.shared, session, int(time.time()))


def _page(own: Console, page: Page) -> Handler:
    async def handle(request: Request) -> Response:
        view = await _view(own, request, page, looks=LOADED_ANEW not in request.headers)
        if isinstance(view, Response):
            return view

        def made() -> tuple[str, int]:
            last_event = own.live.last_event(view.fleet)  # Before what is read, so that what comes between is sent.
            answer = page.load(view)
            values = own.values(page, view, answer)
            cookie = request.cookies.get(login.cookie_name(request), "")
            shown = {**values, "last_event": last_event, "form": lambda action: forms.token_of(cookie, action)}
            return rendering.page(page.template, shown), answer.status

        return _html(*await run_in_threadpool(made))

    return handle


def _table(own: Console, page: Page) -> Handler:
    """Return the handler of what a page shows, all of it, as a table that is sent while it is read."""

    async def handle(request: Request) -> Response:
        view = await _view(own, request, page)
        if isinstance(view, Response):
            return view
        assert page.table is not None  # noqa: S101  # else there is no such route
        table = await run_in_threadpool(page.table, view)
        return StreamingResponse(table.lines(), headers={**rendering.HEADERS, **table.headers})

    return handle


def _asked(own: Console, question: Question) -> Handler:
    async def handle(request: Request) -> Response:
        why = request.query_params.get(WHY, "")
        if WHY in request.query_params:  # It belongs to the form, and not to what the question is about.
            request = _without_reason(request)
        view = await _view(own, request, question)
        if isinstance(view, Response):
            return view
        given = {"why": why} if _is_reason(why) else {}
        return await _question(own, request, view, await run_in_threadpool(_ask, question, view), given=given)

    return handle


def _ask(question: Question, view: View) -> Asking:
    """Return what is asked.

    Raises:
        NotThere: what it is about is not there, or its state does not allow it. The page says who changed it last, and leads back to it.
    """
    try:
        return question.ask(view)
    except Refused as refused:
        wrong = of_refused(refused, names=view.params.values())
        back = link(f"To {question.subject}", path(*view.address.partition("?")[0].split("/")[1 : -question.levels]))
        said_last = last_change(view) if refused.code in ABOUT_THE_STATE else ""
        raise NotThere(replace(wrong, mend=said(said_last) if said_last else wrong.mend, back=back)) from None


async def _late(own: Console, request: Request, question: Question, view: View, fields: Mapping[str, str]) -> Response:
    """Ask again, as what was asked about has changed meanwhile."""
    asking = await run_in_threadpool(_ask, question, view)
    changed = f"{_changed(asking, fields)} {await run_in_threadpool(last_change, view)}".strip()
    return await _question(own, request, view, asking, stale=changed, status=412, given=fields)


async def _question(
    own: Console,
    request: Request,
    view: View,
    asking: Asking,
    *,
    stale: str = "",
    status: int = 200,
    given: Mapping[str, str] | None = None,
) -> Response:
    cookie = request.cookies.get(login.cookie_name(request), "")

    def made() -> str:
        values = own.frame(view, asking.section, csrf=forms.token_of(cookie, request.url.path))
        filled = [name for name, value in (given or {}).items() if value]
        asked = {"asking": asking, "stale": stale, "action": view.address, "given": given or {}, "filled": filled}
        return rendering.page(asking.template, {**values, **asking.values, **asked})

    return _html(await run_in_threadpool(made), status)


def _answered(own: Console, question: Question) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            session = await own.session(request)
        except SignIn as found:
            raise await _with_reason(request, found) from None
        if not may(session.role, question.right):
            return await _wrong(own, request, no_right(question.doing, question.right, session), session)
        forms.check_origin(request)
        _check_query(request, question.query)
        fields = await forms.fields_of(request)
        forms.check_token(fields, request.cookies.get(login.cookie_name(request), ""), request.url.path)
        shared = Shared(Snapshots(own.door.monotonic), own.door.monotonic) if question.reads_anew else own.shared
        view = View.of(request, own.door.of_request(session.actor), shared, session, int(time.time()))
        asking = await run_in_threadpool(_ask, question, view)
        if fields.get("etag", "") != asking.etag:
            return await _late(own, request, question, view, fields)
        try:
            return await _do(own, request, question, view, asking, fields)
        except Refused as refused:
            if refused.code == Code.REQUEST_STALE:
                own.shared.forget()
                return await _late(own, request, question, view, fields)
            if not asking.fields:
                raise
            labels = {one.name: one.label for one in asking.fields}
            wrong = of_refused(refused, names=view.params.values(), fields=labels)  # What somebody wrote stays in the form.
            return await _question(own, request, view, asking, stale=str(wrong.sentence), status=wrong.status, given=fields)

    return handle


async def _with_reason(request: Request, found: SignIn) -> SignIn:
    """Return where somebody goes whose session ended before a form was sent: back to its question, with the reason that was typed.

    Nothing else of the form is kept, for it may be out of date by then; and the reason is only where a page of ours has sent the form.
    """
    try:
        forms.check_origin(request)
        why = (await forms.fields_of(request)).get("why", "").strip()
    except (Refused, Refusal):
        return found
    joined = "&" if "?" in found.back_to else "?"
    back_to = f"{found.back_to}{joined}{urlencode({WHY: why})}" if why and _is_reason(why) else found.back_to
    return SignIn(back_to if login.within(back_to) == back_to else found.back_to, found.over_at, undone=True)


def _without_reason(request: Request) -> Request:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != WHY]
    return Request({**request.scope, "query_string": urlencode(kept).encode()}, request.receive)


def _is_reason(text: str) -> bool:
    return len(text) <= REASON_CHARACTERS_MAX and text.isprintable()


async def _do(own: Console, request: Request, question: Question, view: View, asking: Asking, fields: Mapping[str, str]) -> Response:
    """Do what a form asks for, and wait a while for the hub's answer.

    Raises:
        Refused: a field is wrong, or the hub refuses it.
    """
    reason = fields.get("why", "").strip()
    _check_given(asking, fields, reason)
    done: Done = await run_in_threadpool(question.do, view, Given(fields, reason, asking.etag))
    if done.number is not None and await waiting.answer_of(view.fleet, done.number) == "open":
        said = "The hub has not answered yet. It does this as soon as it runs."
        return await _wrong(own, request, Wrong(202, said, title="asked"), view.session)
    own.shared.forget()
    if done.template:
        values = {**await run_in_threadpool(own.frame, view, asking.section), **done.values}
        return _html(rendering.page(done.template, values))
    return RedirectResponse(done.location, status_code=303, headers=dict(rendering.HEADERS))


def _check_given(asking: Asking, fields: Mapping[str, str], reason: str) -> None:
    if not _is_reason(reason):
        raise Refused(Code.REQUEST_INVALID, f"a reason is one line of at most {REASON_CHARACTERS_MAX} printable characters")
    if asking.needs_reason and not reason:
        raise Refused(Code.REQUEST_INVALID, "this needs a reason, which goes to the audit log: go back and say why")
    if asking.type_name and fields.get("name", "") != asking.type_name:
        raise Refused(Code.REQUEST_INVALID, f"to do this, type {asking.type_name} exactly: it cannot be undone")
    for one in asking.fields:
        value = fields.get(one.name, "")
        if len(value) > one.characters_max or not value.isprintable() or (one.is_required and not value.strip()):
            raise Refused(Code.REQUEST_INVALID, f"{one.label}: give one line of at most {one.characters_max} printable characters")


def _changed(asking: Asking, fields: Mapping[str, str]) -> str:
    seen = fields.get("seen", "")[:200]
    if not asking.figure or not seen or seen == asking.figure:
        return "It has changed since you looked."
    return f"It has changed since you looked: {asking.figure} now, you saw {seen}."


async def _live(own: Console, request: Request) -> Response:
    session = await own.session(request, looks=False)
    cookie = request.cookies.get(login.cookie_name(request), "")
    return await own.live.answer(request, own.door, session, cookie, PAGES, own.values, own.shared)


async def _nowhere(own: Console, request: Request) -> Response:
    session = await own.session(request)
    return await _wrong(own, request, Wrong(404, "There is no such page.", title="no such page"), session)


async def _wrong(
    own: Console, request: Request, wrong: Wrong, session: Session | None, headers: Mapping[str, str] | None = None
) -> Response:
    def made() -> str:
        values: dict[str, Any] = {"wrong": wrong, "fleet_name": own.door.fleet.settings.fleet, "now": int(time.time())}
        if session is not None:
            view = View.of(request, own.door.fleet, own.shared, session, int(time.time()))
            try:
                values |= own.frame(view, "")
            except (Refused, Unreachable):  # The frame needs what is wrong.
                return rendering.page("bare_error.html", values)
            return rendering.page("error.html", values)
        return rendering.page("bare_error.html", values)

    return _html(await run_in_threadpool(made), wrong.status, headers)


def _safely(own: Console, handler: Handler) -> Handler:
    """Return a handler that answers every failure with a page."""

    async def handle(request: Request) -> Response:
        wrong, headers = Wrong(500, ""), dict[str, str]()
        try:
            return await handler(request)
        except SignIn as found:
            return RedirectResponse(found.address, status_code=303, headers=dict(rendering.HEADERS))
        except Refusal as refusal:
            wrong, headers = of_refused(refusal.refused, refusal.status, names=request.path_params.values()), dict(refusal.headers or {})
        except Refused as refused:
            wrong = of_refused(refused, names=request.path_params.values())
        except NotThere as found:
            wrong = found.wrong
        except Unreachable as error:
            log.error("console.failed", path=request.url.path, reason=str(error))
            wrong = Wrong(503, "The hub's database does not answer. Nothing was changed. Try again in a moment.", title="no database")
        except HTTPException as error:
            wrong = Wrong(error.status_code, str(error.detail))
        except Exception as error:
            reference = secrets.token_hex(4)
            log.error("console.crashed", path=request.url.path, reference=f"{reference[:4]}-{reference[4:]}", exc_info=error)
            wrong = bug(reference)
        try:
            session = await own.session(request, looks=False)
        except (SignIn, Refused, Unreachable):
            session = None
        return await _wrong(own, request, wrong, session, headers)

    return handle

"""Put API and console together: the API's routes, what guards them, and how it describes itself (OpenAPI)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hub.database.store import Store
from hub.operations import api_tokens
from hub.operations.publications import Publications
from hub.operations.snapshot import Snapshots
from hub.web import (
    blueprint_routes,
    byte_routes,
    deployment_routes,
    device_routes,
    fleet_routes,
    model_routes,
    node_routes,
    operations,
    plan_routes,
    problems,
    publication_routes,
    record_routes,
    removal_routes,
    rollout_routes,
    token_routes,
)
from hub.web.console.application import console
from hub.web.event_stream import EventFeed, EventStream
from hub.web.guard import Door, HostCheck, guarded
from hub.web.roles import ROUTES, methods_of
from schemas.patterns import in_words

PREFIX: Final = "/api/v1"
EVENT_PATTERN: Final = in_words(r"^\d{1,18}$", "id of an event", "a whole number")
AT_ONCE_MAX: Final = 4  # Threads that read and write for requests, so that many requests do not take the hub's processor from it.
SECURITY: Final = {"token": {"type": "http", "scheme": "bearer", "description": "A token of `fleetcast tokens make`."}}
PROBLEM: Final[dict[str, Any]] = {"model": problems.Problem, "description": "What is wrong, and what mends it (RFC 9457)."}


def application(door: Door) -> ASGIApp:
    """Return the API and the console, ready to be served."""
    snapshots = Snapshots(door.monotonic)
    return HostCheck(_Both(api(door, snapshots), console(door, snapshots)), door.hosts, door.places)


class _Both:
    """Pass a request on to the API, or to the console that has every other address."""

    def __init__(self, of_api: ASGIApp, of_console: ASGIApp) -> None:
        self._api, self._console = of_api, of_console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        is_page = scope["type"] == "http" and not scope["path"].startswith("/api/") and scope["path"] != "/api"
        await (self._console if is_page else self._api)(scope, receive, send)


def api(door: Door, snapshots: Snapshots | None = None) -> FastAPI:
    """Return the API without the check of the Host."""
    snapshots = snapshots or Snapshots(door.monotonic)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE_MAX
        yield

    app = FastAPI(
        title="fleetcast",
        version="1",
        description="What operators ask of a fleet and do to it. docs/api.md shows how to use it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    route_class = guarded(door, ROUTES, PREFIX)
    routers = (
        token_routes.router(route_class),
        fleet_routes.router(route_class, snapshots),
        model_routes.router(route_class),
        deployment_routes.router(route_class),
        rollout_routes.router(route_class, snapshots),
        node_routes.router(route_class, snapshots),
        device_routes.router(route_class),
        record_routes.router(route_class),
        byte_routes.router(route_class, snapshots),
        operations.router(route_class),
        plan_routes.router(route_class),
        blueprint_routes.router(route_class),
        removal_routes.router(route_class),
        publication_routes.router(route_class, Publications(door.fleet.directory)),
        _own(app, door, route_class),
    )
    for one in routers:
        _mount(app, one, route_class)
    problems.install(app, lambda path: methods_of(path.removeprefix(PREFIX)))
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _mount(app: FastAPI, router: APIRouter, route_class: Any) -> None:
    app.router.route_class = route_class
    app.include_router(router, prefix=PREFIX, responses={"default": PROBLEM})


def _own(app: FastAPI, door: Door, route_class: Any) -> APIRouter:
    """Return the routes that belong to no other file: the description, and the stream of events."""
    own, feed = APIRouter(route_class=route_class), EventFeed(door.fleet.store, door.places)

    @own.get("/openapi.json", tags=["api"])
    def openapi() -> dict[str, Any]:
        """Describe the API."""
        return app.openapi()

    @own.get(
        "/events/stream",
        tags=["events"],
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events, as they happen."}},
        response_class=Response,
    )
    async def stream(
        request: Request,
        last_event_id: Annotated[str | None, Header(max_length=20, pattern=EVENT_PATTERN, description="Id of the last event seen.")] = None,
    ) -> Response:
        """Follow events by server-sent events: those behind Last-Event-ID, or new ones. It ends after an hour; come again with the id."""
        feed.check_room()
        token = request.state.token

        async def is_good() -> bool:
            found = await run_in_threadpool(api_tokens.get_good, door.fleet, token.id)
            return found is not None

        return EventStream(feed.follow(int(last_event_id) if last_event_id is not None else None, is_good), door.places, "api")

    return own


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the description of the API, with what a role each route needs."""
    if app.openapi_schema is None:
        from fastapi.openapi.utils import get_openapi  # noqa: PLC0415

        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        found.setdefault("components", {})["securitySchemes"] = SECURITY
        for path, methods in found["paths"].items():
            for method, operation in methods.items():
                right = ROUTES[method.upper(), path.removeprefix(PREFIX)]
                operation["x-role"] = right
                if right != "anybody":
                    operation["security"] = [{"token": []}]
                operation["responses"].pop("422", None)  # As `default`: a problem.
                operation["responses"]["default"]["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for unused in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(unused, None)
        app.openapi_schema = found
    return app.openapi_schema


class _Nowhere:
    """Stand for a fleet where the API is only described."""

    directory = Path("nowhere")
    store = Store("sqlite://")


def described() -> dict[str, Any]:
    """Return the description of the API without a fleet."""
    return api(Door(_Nowhere(), frozenset())).openapi()  # type: ignore[arg-type]

"""Compare blueprints with the fleet, apply them, and show those that were applied."""

import asyncio
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from hub.core.blueprint.reading import Written, read
from hub.database.blueprint_rows import Blueprints
from hub.operations import blueprint, blueprint_asked
from hub.operations.blueprint import Options
from hub.operations.opened_fleet import OpenedFleet
from hub.web.blueprint_documents import ApplicationShown, BlueprintDiff, BlueprintShown, BlueprintText, RevisionShown
from hub.web.documents import Page
from hub.web.guard import body_of
from hub.web.pages import cursor_of, ended, key_of
from hub.web.parameters import WAIT_SECONDS, Cursor, Fleet, Limit, Wait
from schemas.errors import Code, Refused
from schemas.limits import BLUEPRINT_BYTES_MAX
from schemas.names import SHA256_PATTERN
from schemas.patterns import in_words

LOOK_SECONDS: Final = 0.1
YAML: Final = "application/yaml"  # RFC 9512
TEXT: Final[dict[str, Any]] = {"schema": {"type": "string", "maxLength": BLUEPRINT_BYTES_MAX}}
TAKES: Final[dict[str, Any]] = {"requestBody": {"required": False, "content": {YAML: TEXT}}}
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {202: {"model": ApplicationShown, "description": "It is not applied whole yet."}}
Number = Annotated[int, Path(ge=1, lt=2**31, description="Revision of the blueprint.")]
Revision = Annotated[int | None, Query(ge=1, lt=2**31, description="A revision that was applied, in place of a body.")]
FileName = Annotated[str, Query(max_length=200, description="Name by which answers call the body.")]
Breaking = Annotated[bool, Query(description="Go on even if programs would not work with the release that nodes get.")]
Supersede = Annotated[bool, Query(description="Begin rollouts even if another one of the deployment is left half-way.")]
Again = Annotated[bool, Query(description="Begin rollouts once more from which nodes went back.")]
Seen = Annotated[
    str | None, Query(pattern=SHA256_PATTERN, max_length=64, description="`seen` of a difference: make these changes, or none.")
]
APPLY_PATTERN = in_words("^[0-9a-f]{16}$", "id of an apply", "16 of 0-9 and a-f")
Which = Annotated[str, Path(pattern=APPLY_PATTERN, max_length=16, description="Id of the apply.")]


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of blueprints."""
    api = APIRouter(route_class=route_class)
    _reading(api)
    _applying(api, blueprint_asked.Applications())
    return api


def _reading(api: APIRouter) -> None:
    @api.get("/blueprint", response_model=BlueprintShown, tags=["blueprint"])
    def in_force(fleet: Fleet) -> Any:
        """Say which blueprint is in force, and whether the fleet is as it says."""
        return blueprint.drift_of(fleet)

    @api.get("/blueprint/present", response_model=BlueprintText, tags=["blueprint"])
    def present(fleet: Fleet) -> Any:
        """Return a blueprint of what is now: compared with the fleet, it shows no difference."""
        return {"blueprint": blueprint.exported(fleet)}

    @api.get("/blueprint/revisions", response_model=Page[RevisionShown], tags=["blueprint"])
    def revisions(fleet: Fleet, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the blueprints that were applied, the newest first."""
        before = key_of(cursor, [int])[0] if cursor is not None else None
        found = Blueprints(fleet.store.database).page(limit + 1, before=before)
        rows = [blueprint.revision_row(fleet, one, in_force=before is None and number == 0) for number, one in enumerate(found)]
        return ended(rows, lambda row: cursor_of([row["revision"]]), limit=limit)

    @api.get("/blueprint/revisions/{revision}", response_model=BlueprintText, tags=["blueprint"])
    def revision(fleet: Fleet, revision: Number) -> Any:
        """Return a blueprint as it was applied."""
        return {"blueprint": Blueprints(fleet.store.database).text(revision)}

    @api.post("/blueprint/diff", response_model=BlueprintDiff, response_model_exclude_unset=True, openapi_extra=TAKES, tags=["blueprint"])
    async def diff(
        request: Request,
        fleet: Fleet,
        revision: Revision = None,
        name: FileName = "the blueprint",
        breaking: Breaking = False,
        supersede: Supersede = False,
        again: Again = False,
    ) -> Any:
        """Say what applying a blueprint would change. Without a body or a revision it is the one in force. Nothing is changed."""
        text = await _text(request, revision)

        def work() -> dict[str, Any]:
            found = blueprint.plan(fleet, _written(fleet, text, revision, name), Options(breaking, supersede, again))
            return {**blueprint.as_row(fleet, found), "seen": blueprint_asked.digest_of(found)}

        return await run_in_threadpool(work)


def _applying(api: APIRouter, applications: blueprint_asked.Applications) -> None:
    @api.post("/blueprint/applications", response_model=ApplicationShown, responses=ACCEPTED, openapi_extra=TAKES, tags=["blueprint"])
    async def apply(
        request: Request,
        fleet: Fleet,
        revision: Revision = None,
        name: FileName = "the blueprint",
        seen: Seen = None,
        breaking: Breaking = False,
        supersede: Supersede = False,
        again: Again = False,
        wait: Wait = WAIT_SECONDS,
    ) -> Any:
        """Make the fleet what a blueprint says. To apply twice changes nothing; after a fault, apply again."""
        text = await _text(request, revision)
        if text is None and revision is None:
            raise Refused(Code.REQUEST_INVALID, f"there is nothing to apply: send a blueprint as {YAML}, or name a `revision`")

        def begin() -> blueprint_asked.Application:
            options = Options(breaking, supersede, again)
            found = blueprint.plan(fleet, _written(fleet, text, revision, name), options)
            blueprint_asked.check_seen(found, seen)
            return applications.begin(fleet, found, options)

        return await _answered(await run_in_threadpool(begin), wait)

    @api.get("/blueprint/applications/{application}", response_model=ApplicationShown, tags=["blueprint"])
    def application(fleet: Fleet, application: Which) -> Any:
        """Show an apply: what it has done so far, and how it ended."""
        return applications.get(application).row()


async def _answered(found: blueprint_asked.Application, wait: float) -> Response:
    until = time.monotonic() + wait
    while not found.ended.is_set() and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    shown = ApplicationShown(**found.row())
    where = {"location": f"/api/v1/blueprint/applications/{found.id}"}
    status = 202 if shown.state == "applying" else 200
    return Response(shown.model_dump_json(), status_code=status, media_type="application/json", headers=where)


async def _text(request: Request, revision: int | None) -> bytes | None:
    """Return the blueprint that was sent; None where none was.

    Raises:
        Refused: there is one, and a revision is named too.
    """
    if "content-type" not in request.headers and request.headers.get("content-length", "0") == "0":
        return None
    if revision is not None:
        raise Refused(Code.REQUEST_INVALID, "send a blueprint or name a revision, and not both")
    return await body_of(request, YAML, BLUEPRINT_BYTES_MAX, noun="blueprint")


def _written(fleet: OpenedFleet, text: bytes | None, revision: int | None, name: str) -> Written:
    if text is not None:
        return read(text, name=name)
    return blueprint.of_revision(fleet, revision) if revision is not None else blueprint_asked.in_force(fleet)

"""Take in releases that were signed elsewhere, and give publishers what they need to build one."""

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.packet_limit import packet_bytes_max
from hub.operations.publications import MISSING_SHOWN_MAX, Publication, Publications
from hub.web import documents
from hub.web.guard import body_of
from hub.web.parameters import WAIT_SECONDS, Fleet, Name, VersionName, Wait
from schemas import codec
from schemas.bundle import role_name
from schemas.errors import Code, Refused
from schemas.limits import PAYLOAD_BYTES_MAX, TRUST_ROLE_BYTES_MAX
from schemas.names import HEX_32_PATTERN, SHA256_PATTERN
from schemas.state import State

RAW: Final = "application/octet-stream"
ROLE_MEDIA_TYPE: Final = "application/json"
KEPT_MAX: Final = 64  # Publications whose end is remembered.
BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
TAKES_RAW: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": {RAW: BINARY}}}
GIVES_RAW: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {RAW: BINARY}, "description": "The bytes."}}
Number = Annotated[str, Path(pattern=HEX_32_PATTERN, max_length=32, description="Id of the publication.")]
Digest = Annotated[str, Path(pattern=SHA256_PATTERN, max_length=64, description="SHA-256 of the payload.")]


class _Finishing:
    """Store releases one after the other, in a thread of their own, and remember how each ended."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="api-publish")
        self._ends: dict[str, Future[Publication]] = {}

    def begin(self, number: str, work: Callable[[], Publication]) -> "Future[Publication]":
        """Begin, or return what was begun and has not ended."""
        found = self._ends.get(number)
        if found is None or found.done():
            for old in [one for one, end in self._ends.items() if end.done()][: max(0, len(self._ends) - KEPT_MAX)]:
                del self._ends[old]
            found = self._ends[number] = self._threads.submit(work)
        return found

    def end_of(self, number: str) -> "Future[Publication] | None":
        """Return what was begun last."""
        return self._ends.get(number)

    def forget(self, number: str) -> None:
        """Forget how it ended: something has changed since."""
        if (found := self._ends.get(number)) is not None and found.done():
            self._ends.pop(number, None)


def router(route_class: type[APIRoute], publications: Publications) -> APIRouter:
    """Return the routes of publishers."""
    api, finishing = APIRouter(route_class=route_class), _Finishing()

    @api.get("/models/{model}/publishing", response_model=documents.PublishingShown, tags=["publishing"])
    def publishing(fleet: Fleet, model: Name) -> Any:
        """Show what a publisher needs to build and sign the next release: the team's present role, and what nodes there are."""
        return _publishing(fleet, model)

    @api.get("/models/{model}/releases/{version}/manifest", response_class=Response, responses=GIVES_RAW, tags=["publishing"])
    def manifest(fleet: Fleet, model: Name, version: VersionName) -> Response:
        """Return the manifest of a release, as its team has signed it."""
        check_model(fleet.repository, model)
        return Response(fleet.repository.manifest(model, version), media_type=RAW)

    @api.get("/payloads/{payload}", response_class=Response, responses=GIVES_RAW, tags=["publishing"])
    def payload(fleet: Fleet, payload: Digest) -> Response:
        """Return a payload of a release: a new one is encoded against what nodes have."""
        digest = bytes.fromhex(payload)
        if not fleet.blocks.has(digest):
            raise Refused(Code.REQUEST_UNKNOWN, f"there is no payload {payload}")
        return Response(fleet.blocks.read(digest), media_type=RAW)

    @api.post("/publications", response_model=documents.PublicationShown, status_code=201, tags=["publishing"])
    def begin(fleet: Fleet, wish: documents.BeginPublication) -> Any:
        """Begin to publish a release. The same manifest goes on with the same publication."""
        try:
            document = base64.b64decode(wish.manifest, validate=True)
        except (binascii.Error, ValueError):
            raise Refused(Code.REQUEST_INVALID, "manifest is no base64") from None
        return _shown(publications.begin(fleet, wish.model, wish.version, document), finishing)

    @api.get("/publications/{publication}", response_model=documents.PublicationShown, tags=["publishing"])
    def publication(fleet: Fleet, publication: Number) -> Any:
        """Show a publication: which payloads are missing, or how it ended."""
        return _shown(publications.get(fleet, publication), finishing)

    @api.delete("/publications/{publication}", status_code=204, tags=["publishing"])
    def abandon(fleet: Fleet, publication: Number) -> Response:
        """Drop a publication with what has come of it. A release that is published stays."""
        publications.abandon(fleet, publication)
        return Response(status_code=204)

    @api.put("/publications/{publication}/payloads/{payload}", status_code=204, openapi_extra=TAKES_RAW, tags=["publishing"])
    async def put(request: Request, fleet: Fleet, publication: Number, payload: Digest) -> Response:
        """Store a payload. It is on the hub's disk when this answers; to send it again does nothing."""
        data = await body_of(request, RAW, PAYLOAD_BYTES_MAX)
        await run_in_threadpool(publications.put, fleet, publication, bytes.fromhex(payload), data)
        finishing.forget(publication)
        return Response(status_code=204)

    @api.post(
        "/publications/{publication}/release",
        response_model=documents.PublicationShown,
        responses={202: {"model": documents.PublicationShown, "description": "The hub has not stored all of it yet."}},
        openapi_extra=TAKES_RAW,
        tags=["publishing"],
    )
    async def finish(
        request: Request,
        fleet: Fleet,
        publication: Number,
        breaking: Annotated[bool, Query(description="Publish even if programs would not work with it.")] = False,
        wait: Wait = WAIT_SECONDS,
    ) -> Any:
        """Publish: the body is the next version of the model's role, signed by its team. To send it again does nothing."""
        role = await body_of(request, RAW, TRUST_ROLE_BYTES_MAX)
        await run_in_threadpool(publications.get, fleet, publication)
        end = finishing.begin(publication, lambda: publications.finish(fleet, publication, role, breaking=breaking))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(end)), wait)  # It raises what was refused.
        found = await run_in_threadpool(publications.get, fleet, publication)
        shown = documents.PublicationShown(**_shown(found, finishing))
        status = 202 if shown.state == "storing" else 200
        where = {"location": f"/api/v1/publications/{publication}"}
        return Response(shown.model_dump_json(), status_code=status, media_type="application/json", headers=where)

    return api


def _shown(one: Publication, finishing: _Finishing) -> dict[str, Any]:
    end, code, text = finishing.end_of(one.id), "", ""
    state = "done" if one.is_published else "open"
    if end is not None and not end.done():
        state = "storing"
    elif end is not None and not one.is_published and (error := end.exception()) is not None:
        state, text = "refused", str(getattr(error, "reason", error))
        code = str(getattr(error, "code", "hub.failed"))
    return {
        "id": one.id,
        "model": one.model,
        "version": one.version,
        "state": state,
        "missing": {digest.hex(): size for digest, size in list(one.missing.items())[:MISSING_SHOWN_MAX]},
        "missing_count": len(one.missing),
        "missing_bytes": sum(one.missing.values()),
        "received_bytes": one.received_bytes,
        "code": code,
        "text": text,
    }


def _publishing(fleet: OpenedFleet, model: str) -> dict[str, Any]:
    repository = fleet.repository
    check_model(repository, model)
    role, targets, root = repository.newest_role(role_name(model)), repository.newest_role("targets"), repository.newest_role("root")
    assert targets is not None  # noqa: S101  # every fleet has both from the start
    assert root is not None  # noqa: S101
    return {
        "fleet": fleet.settings.fleet,
        "roots": [_text(repository.root(version)) for version in range(1, root[0] + 1)],
        "targets": _text(targets[1]),
        "role": _text(role[1]) if role is not None else None,
        "role_version": role[0] if role is not None else 0,
        "releases": repository.releases(model),
        "packet_bytes_max": packet_bytes_max(fleet),
        "block_bytes_max": fleet.settings.block_bytes_max,
        "nodes": _kinds(fleet, model),
    }


def _kinds(fleet: OpenedFleet, model: str) -> list[dict[str, Any]]:
    kinds: Counter[tuple[str | None, bool, str | None]] = Counter()
    for row in fleet.store.counted_nodes():
        state = codec.decode(State, row.state)
        serving = next((slot.serving for slot in state.slots if slot.model == model and slot.serving is not None), None)
        arch = state.profile.arch if state.profile is not None else None
        kinds[arch, state.findings is not None, serving.hex() if serving is not None else None] += 1
    return [
        {"arch": arch, "reads_minors": reads, "serving": serving, "nodes": nodes} for (arch, reads, serving), nodes in kinds.most_common()
    ]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

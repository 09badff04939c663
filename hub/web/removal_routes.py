"""Remove releases and models, by roles that were signed where the keys are."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from hub.operations import removing
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.removing import Removal
from hub.signing.keys import load_signer
from hub.web.guard import body_of
from hub.web.parameters import Fleet, Name, VersionName
from hub.web.problems import Words, words_of
from hub.web.publication_routes import RAW, TAKES_RAW
from hub.web.removal_documents import RemovalShown, Removed
from schemas.errors import Refused
from schemas.limits import TRUST_ROLE_BYTES_MAX

OF_RELEASE: Final = "/models/{model}/releases/{version}/removal"
OF_MODEL: Final = "/models/{model}/removal"
Force = Annotated[bool, Query(description="Remove it even if a rollout names it.")]


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of removals."""
    api = APIRouter(route_class=route_class)

    @api.get(OF_RELEASE, response_model=RemovalShown, tags=["models"])
    def release_removal(request: Request, fleet: Fleet, model: Name, version: VersionName) -> Any:
        """Say what removing a release would do."""
        return _shown(removing.of_release(fleet, model, version), words_of(request))

    @api.post(OF_RELEASE, response_model=Removed, openapi_extra=TAKES_RAW, tags=["models"])
    async def remove_release(request: Request, fleet: Fleet, model: Name, version: VersionName, force: Force = False) -> Any:
        """Remove a release for good: the body is the next version of the model's role without it, signed by its team."""
        role = await body_of(request, RAW, TRUST_ROLE_BYTES_MAX)

        def work() -> dict[str, Any]:
            asked = removing.of_release(fleet, model, version)
            sign = lambda: fleet.repository.remove_signed_release(model, version, role, now=datetime.now(UTC))  # noqa: E731
            return _removed(fleet, asked, sign, force=force)

        return await run_in_threadpool(work)

    @api.get(OF_MODEL, response_model=RemovalShown, tags=["models"])
    def model_removal(request: Request, fleet: Fleet, model: Name) -> Any:
        """Say what removing a model would do."""
        return _shown(removing.of_model(fleet, model), words_of(request))

    @api.post(OF_MODEL, response_model=Removed, openapi_extra=TAKES_RAW, tags=["models"])
    async def remove_model(request: Request, fleet: Fleet, model: Name, force: Force = False) -> Any:
        """Remove a model for good: the body is the next version of the targets role without it, signed by a targets key of the fleet."""
        role = await body_of(request, RAW, TRUST_ROLE_BYTES_MAX)
        return await run_in_threadpool(
            lambda: _removed(fleet, removing.of_model(fleet, model), lambda: _undelegate(fleet, model, role), force=force)
        )

    return api


def _undelegate(fleet: OpenedFleet, model: str, role: bytes) -> None:
    now = datetime.now(UTC)
    fleet.repository.undelegate_signed(model, role, now=now)
    with suppress(Refused):  # The hub does it at its next turn, where its online key opens by a passphrase alone.
        fleet.repository.drop_rollouts(rollouts=load_signer(fleet.directory / "online" / "rollouts.pem", b""), now=now)


def _removed(fleet: OpenedFleet, asked: Removal, sign: Callable[[], None], *, force: bool) -> dict[str, Any]:
    asked.check(force=force)
    freed = removing.remove(fleet, asked, sign=sign)
    found = {"model": asked.model, "version": asked.version, "releases": len(asked.leaving)}
    return {**found, "freed_bytes": freed, "nodes_serving": asked.nodes_serving, "announced": True}


def _shown(asked: Removal, words: Words) -> dict[str, Any]:
    return {
        "model": asked.model,
        "version": asked.version,
        "releases": len(asked.leaving),
        "nodes_serving": asked.nodes_serving,
        "is_left": asked.is_left,
        "needed": words(asked.needed) or None,
        "question": asked.question,
    }

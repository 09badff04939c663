"""Show models and releases."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hub.operations.opened_fleet import check_model
from hub.operations.release_bytes import release_bytes
from hub.operations.release_rows import model_rows, release_rows
from hub.web import documents
from hub.web.byte_documents import NodeBytes
from hub.web.pages import page
from hub.web.parameters import Cursor, Fleet, Limit, Name, VersionName
from schemas.errors import Code, Refused


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of models and releases."""
    api = APIRouter(route_class=route_class)

    @api.get("/models", response_model=documents.Page[documents.ModelShown], tags=["models"])
    def models(fleet: Fleet, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the models, by name."""
        return page(model_rows(fleet), lambda row: [row["model"]], limit=limit, cursor=cursor)

    @api.get("/models/{model}", response_model=documents.ModelShown, tags=["models"])
    def model(fleet: Fleet, model: Name) -> Any:
        """Describe a model."""
        check_model(fleet.repository, model)
        return next(row for row in model_rows(fleet) if row["model"] == model)

    @api.get("/models/{model}/releases", response_model=documents.Page[documents.ReleaseShown], tags=["models"])
    def releases(fleet: Fleet, model: Name, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the releases of a model, by their version's text."""
        check_model(fleet.repository, model)
        rows = sorted(release_rows(fleet, model), key=lambda row: str(row["version"]))
        return page(rows, lambda row: [row["version"]], limit=limit, cursor=cursor)

    @api.get("/models/{model}/releases/{version}", response_model=documents.ReleaseShown, tags=["models"])
    def release(fleet: Fleet, model: Name, version: VersionName) -> Any:
        """Describe a release."""
        check_model(fleet.repository, model)
        found = [row for row in release_rows(fleet, model) if row["version"] == version]
        if not found:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}")
        return found[0]

    @api.get("/models/{model}/releases/{version}/bytes", response_model=documents.Page[NodeBytes], tags=["bytes"])
    def bytes_of_release(fleet: Fleet, model: Name, version: VersionName, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List what a release has cost each node since it first took it, by name: planned is received, reused and missing.

        Wasted bytes come on top. `state` is `serving` while the node serves the release, `served` once it serves another or none,
        `rolled_back` where it went back by itself, or the step of a transfer that is under way.
        """
        return page(release_bytes(fleet, model, version), lambda row: [row["node"]], limit=limit, cursor=cursor)

    return api

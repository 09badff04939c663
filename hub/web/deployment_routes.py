"""Show deployments, make them, change and remove them."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from hub.core.rollouts import commands
from hub.operations import rollouts
from hub.operations.deployed import facts_of, model_of, states_of
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.rollout_rows import deployment_rows
from hub.web import documents
from hub.web.operations import Queued, do, given_of, of_prepared, read, serial_of
from hub.web.parameters import ACCEPTED, WAIT_SECONDS, Fleet, IfMatch, Key, Name, Wait, etag
from schemas.errors import Code, Refused


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of deployments."""
    api = APIRouter(route_class=route_class)

    @api.get("/models/{model}/deployments", response_model=documents.Page[documents.DeploymentShown], tags=["deployments"])
    def deployments(fleet: Fleet, response: Response, model: Name) -> Any:
        """List the deployments of a model, in the order in which they decide."""
        check_model(fleet.repository, model)
        rows = deployments_of(fleet, model)
        response.headers["etag"] = etag(model_of(fleet.repository, model).serial)
        return {"items": rows, "total": len(rows)}

    @api.get("/models/{model}/deployments/{deployment}", response_model=documents.DeploymentShown, tags=["deployments"])
    def deployment(fleet: Fleet, response: Response, model: Name, deployment: Name) -> Any:
        """Describe a deployment. Its ETag is the serial of the model's signed statement."""
        check_model(fleet.repository, model)
        found = named(deployments_of(fleet, model), model, deployment)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.put("/models/{model}/deployments/{deployment}", response_model=documents.OperationShown, responses=ACCEPTED, tags=["deployments"])
    async def set_deployment(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        wish: documents.SetDeployment,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Make a deployment, or change its selector, priority or release."""

        def work() -> Queued:
            check_model(fleet.repository, model)
            given = {"name": deployment, **given_of(wish.model_dump(mode="json"))}
            return of_prepared(
                rollouts.set_deployment(fleet, model, read(commands.SetDeployment, given, serial_of(fleet, model, if_match)))
            )

        return await do(request, fleet, wait, work)

    @api.delete(
        "/models/{model}/deployments/{deployment}", response_model=documents.OperationShown, responses=ACCEPTED, tags=["deployments"]
    )
    async def remove_deployment(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        breaking: bool = False,
        supersede: bool = False,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Remove a deployment. Its nodes follow the next one that matches them."""

        def work() -> Queued:
            check_model(fleet.repository, model)
            given = given_of({"name": deployment, "breaking": breaking, "supersede": supersede})
            return of_prepared(
                rollouts.remove_deployment(fleet, model, read(commands.RemoveDeployment, given, serial_of(fleet, model, if_match)))
            )

        return await do(request, fleet, wait, work)

    return api


def deployments_of(fleet: OpenedFleet, name: str) -> list[dict[str, Any]]:
    """Return a row for each deployment of a model."""
    model = model_of(fleet.repository, name)
    rows = deployment_rows(model, facts_of(states_of(fleet.store.counted_nodes())))
    return [{**row, "serial": model.serial} for row in rows]


def named(rows: list[dict[str, Any]], model: str, deployment: str) -> dict[str, Any]:
    """Return the row of a deployment.

    Raises:
        Refused: REQUEST_UNKNOWN, naming those that there are.
    """
    for row in rows:
        if row["deployment"] == deployment:
            return row
    names = ", ".join(str(row["deployment"]) for row in rows) or "none"
    raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment} of {model}; there are {names}")

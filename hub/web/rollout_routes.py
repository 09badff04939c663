"""Show rollouts with their gates and nodes, start them, and act on them."""

import inspect
import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from hub.core.rollouts import commands
from hub.core.rollouts.node_filter import chosen
from hub.operations import rollouts as core
from hub.operations.nodes_shown import line_shown
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.rollout_rows import Rollouts
from hub.operations.snapshot import Snapshot, Snapshots
from hub.web import documents
from hub.web.deployment_routes import deployments_of, named
from hub.web.operations import Queued, do, given_of, of_prepared, read, serial_of
from hub.web.pages import page
from hub.web.parameters import ACCEPTED, WAIT_SECONDS, Cursor, Fleet, IfMatch, Key, Limit, ModelFilter, Name, Wait, Where, etag
from hub.web.roles import ACTIONS

SIMPLE: Mapping[str, type[commands.OfDeployment]] = {
    "halt": commands.Halt,
    "resume": commands.Resume,
    "back": commands.Rollback,
    "approve": commands.Approve,
    "retry": commands.Retry,
}
SAID = {
    "halt": "Halt a rollout. Nodes that have the release keep it.",
    "resume": "Resume a rollout after a halt.",
    "back": "Return each node of a rollout to its previous release.",
    "approve": "Approve the next stage of a rollout. It begins when its turn has come.",
    "retry": "Let the nodes that failed try once more.",
}


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:
    """Return the routes of rollouts."""
    api = APIRouter(route_class=route_class)

    @api.get("/rollouts", response_model=documents.Page[documents.RolloutShown], tags=["rollouts"])
    def rollouts(
        fleet: Fleet,
        model: ModelFilter = None,
        state: Annotated[str | None, Query(max_length=20, pattern="^(running|halted|done|rolled_back)$")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Any:
        """List the rollouts, by model and deployment: one for each deployment."""
        if model is not None:
            check_model(fleet.repository, model)
        rows = [row for row in Rollouts.read(fleet, model, snapshots.get(fleet).seen).rows() if state in {None, row["state"]}]
        rows.sort(key=lambda row: (row["model"], row["deployment"]))
        return page(rows, lambda row: [row["model"], row["deployment"]], limit=limit, cursor=cursor)

    @api.get("/rollouts/{model}/{deployment}", response_model=documents.RolloutShown, tags=["rollouts"])
    def rollout(fleet: Fleet, response: Response, model: Name, deployment: Name) -> Any:
        """Describe the rollout of a deployment: its stages, gates, and nodes by class."""
        found = _rollout(fleet, snapshots.get(fleet), model, deployment)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.get("/rollouts/{model}/{deployment}/gates", response_model=documents.Page[documents.GateShown], tags=["rollouts"])
    def gates(fleet: Fleet, model: Name, deployment: Name) -> Any:
        """List what each gate of a rollout says."""
        found = _rollout(fleet, snapshots.get(fleet), model, deployment)["gates"]
        return {"items": found, "total": len(found)}

    @api.get("/rollouts/{model}/{deployment}/nodes", response_model=documents.Page[documents.NodeLineShown], tags=["rollouts"])
    def rollout_nodes(fleet: Fleet, model: Name, deployment: Name, where: Where = None, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the nodes of a rollout by name, each with its class and why. In `where` the key `state` is the class."""
        check_model(fleet.repository, model)
        named(deployments_of(fleet, model), model, deployment)
        lines = [line for line in snapshots.get(fleet).lines if (line.model, line.deployment) == (model, deployment)]
        if where is not None:
            lines = chosen(lines, where, facts=lambda line: line.node.facts, state=lambda line: line.found.name)
        lines = sorted(lines, key=lambda line: line.node.name)
        found = page(lines, lambda line: [line.node.name], limit=limit, cursor=cursor)
        return {**found, "items": [line_shown(line) for line in found["items"]]}

    _actions(api)
    return api


def _actions(api: APIRouter) -> None:
    """Add the routes that change a rollout."""

    @api.post("/rollouts", response_model=documents.OperationShown, responses=ACCEPTED, tags=["rollouts"])
    async def start(
        request: Request,
        fleet: Fleet,
        wish: documents.StartRollout,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Start a rollout. It is refused where `fleetcast rollout start` refuses it."""
        return await do(request, fleet, wait, partial(_started, fleet, wish, if_match))

    for action in ACTIONS:

        async def act(
            request: Request,
            fleet: Fleet,
            model: Name,
            deployment: Name,
            wait: Wait = WAIT_SECONDS,
            if_match: IfMatch = None,
            idempotency_key: Key = None,
            *,
            action: Literal["halt", "resume", "back", "approve", "retry"],
        ) -> Any:
            def work() -> Queued:
                serial = serial_of(fleet, model, if_match)
                given = {"deployment": deployment, **({"if_serial": serial} if serial is not None else {})}
                return of_prepared(core.change(fleet, model, commands.read_as(SIMPLE[action], json.dumps(given))))

            return await do(request, fleet, wait, work)

        api.add_api_route(
            f"/rollouts/{{model}}/{{deployment}}/{action}",
            _bound(act, action),
            methods=["POST"],
            response_model=documents.OperationShown,
            responses=ACCEPTED,
            summary=action.capitalize(),
            description=SAID[action],
            operation_id=f"{action}_rollout",
            tags=["rollouts"],
        )

    @api.patch("/rollouts/{model}/{deployment}/parameters", response_model=documents.OperationShown, responses=ACCEPTED, tags=["rollouts"])
    async def set_parameters(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        wish: documents.SetParameters,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Change parameters of the release that is rolled out; no node moves."""

        def work() -> Queued:
            check_model(fleet.repository, model)
            serial = serial_of(fleet, model, if_match)
            version = core.version_in_force(fleet, model, deployment, wish.release)
            given = given_of({"version": version, "deployment": deployment, "parameters": wish.parameters, "unset": wish.unset})
            return of_prepared(core.set_parameters(fleet, model, read(commands.SetParameters, given, serial)))

        return await do(request, fleet, wait, work)


def _rollout(fleet: OpenedFleet, seen: Snapshot, model: str, deployment: str) -> dict[str, Any]:
    check_model(fleet.repository, model)
    return named(Rollouts.read(fleet, model, seen.seen).rows(), model, deployment)


def _bound(act: Any, action: str) -> Any:
    """Return an endpoint for one action, with a signature that does not show it."""
    bound = partial(act, action=action)
    found = inspect.signature(act)
    bound.__signature__ = found.replace(parameters=[one for one in found.parameters.values() if one.name != "action"])  # type: ignore[attr-defined]
    bound.__name__ = action  # type: ignore[attr-defined]
    return bound


def _started(fleet: OpenedFleet, wish: documents.StartRollout, if_match: str | None) -> Queued:
    check_model(fleet.repository, wish.model)
    serial = serial_of(fleet, wish.model, if_match)
    asked_for = core.start_of(wish.model_dump(mode="json")).model_copy(update={"if_serial": serial} if serial is not None else {})
    return of_prepared(core.start(fleet, wish.model, asked_for, require_check=wish.require_check))

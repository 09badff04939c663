"""Answer questions about the fleet: models, releases, deployments, rollouts, nodes, drift, alerts, events and changes."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.routing import APIRoute

from hub.core.rollouts.node_filter import chosen
from hub.operations import api_tokens
from hub.operations.deployed import facts_of, model_of, states_of
from hub.operations.drift_rows import drift_of
from hub.operations.events import event_row
from hub.operations.node_changes import settings_row
from hub.operations.nodes_shown import line_shown, node_shown, nodes_shown
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.release_rows import model_rows, release_rows
from hub.operations.rollout_rows import Rollouts, deployment_rows
from hub.operations.snapshot import Snapshot, Snapshots
from hub.operations.summary import summary_of
from hub.web import documents as shown
from hub.web.pages import CURSOR_CHARACTERS_MAX, cursor_of, ended, key_of, page
from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX
from schemas.names import NAME_PATTERN, VERSION_PATTERN

SCAN_MAX = 10_000  # Changes that one page looks through for those that were asked for.


def fleet_of(request: Request) -> OpenedFleet:
    """Return the fleet of a request, as its token's owner has it."""
    found: OpenedFleet = request.state.fleet
    return found


Fleet = Annotated[OpenedFleet, Depends(fleet_of)]
Name = Annotated[str, Path(max_length=64, pattern=NAME_PATTERN)]
VersionName = Annotated[str, Path(max_length=64, pattern=VERSION_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=500, description="Greatest number of rows.")]
Cursor = Annotated[str | None, Query(max_length=CURSOR_CHARACTERS_MAX, description="`next` of the page before.")]
Where = Annotated[str | None, Query(max_length=SELECTOR_CHARACTERS_MAX, description="Selector, such as site=jfk,state!=serving.")]
ModelFilter = Annotated[str | None, Query(max_length=64, pattern=NAME_PATTERN)]


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:  # noqa: C901, PLR0915  # a function for each route
    """Return the routes that change nothing."""
    api = APIRouter(route_class=route_class)

    @api.get("/token", response_model=shown.TokenShown, tags=["tokens"])
    def token(request: Request) -> Any:
        """Describe the token of this request."""
        return api_tokens.row_of(request.state.token, int(time.time()))

    @api.get("/fleet", response_model=shown.FleetShown, tags=["fleet"])
    def fleet(fleet: Fleet) -> Any:
        """Sum up the fleet: its nodes by class, its rollouts by state, and how many streams drift."""
        return summary_of(fleet, snapshots.get(fleet))

    @api.get("/models", response_model=shown.Page[shown.ModelShown], tags=["models"])
    def models(fleet: Fleet, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the models, by name."""
        return page(model_rows(fleet), lambda row: [row["model"]], limit=limit, cursor=cursor)

    @api.get("/models/{model}", response_model=shown.ModelShown, tags=["models"])
    def model(fleet: Fleet, model: Name) -> Any:
        """Describe a model."""
        check_model(fleet.repository, model)
        return next(row for row in model_rows(fleet) if row["model"] == model)

    @api.get("/models/{model}/releases", response_model=shown.Page[shown.ReleaseShown], tags=["models"])
    def releases(fleet: Fleet, model: Name, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the releases of a model, by their version's text."""
        check_model(fleet.repository, model)
        rows = sorted(release_rows(fleet, model), key=lambda row: str(row["version"]))
        return page(rows, lambda row: [row["version"]], limit=limit, cursor=cursor)

    @api.get("/models/{model}/releases/{version}", response_model=shown.ReleaseShown, tags=["models"])
    def release(fleet: Fleet, model: Name, version: VersionName) -> Any:
        """Describe a release."""
        check_model(fleet.repository, model)
        found = [row for row in release_rows(fleet, model) if row["version"] == version]
        if not found:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {model}@{version}")
        return found[0]

    @api.get("/models/{model}/deployments", response_model=shown.Page[shown.DeploymentShown], tags=["deployments"])
    def deployments(fleet: Fleet, response: Response, model: Name) -> Any:
        """List the deployments of a model, in the order in which they decide."""
        check_model(fleet.repository, model)
        rows = _deployments(fleet, model)
        response.headers["etag"] = etag(model_of(fleet.repository, model).serial)
        return {"items": rows, "total": len(rows)}

    @api.get("/models/{model}/deployments/{deployment}", response_model=shown.DeploymentShown, tags=["deployments"])
    def deployment(fleet: Fleet, response: Response, model: Name, deployment: Name) -> Any:
        """Describe a deployment. Its ETag is the serial of the model's signed statement."""
        check_model(fleet.repository, model)
        found = _named(_deployments(fleet, model), model, deployment)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.get("/rollouts", response_model=shown.Page[shown.RolloutShown], tags=["rollouts"])
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

    @api.get("/rollouts/{model}/{deployment}", response_model=shown.RolloutShown, tags=["rollouts"])
    def rollout(fleet: Fleet, response: Response, model: Name, deployment: Name) -> Any:
        """Describe the rollout of a deployment: its stages, gates, and nodes by class."""
        found = _rollout(fleet, snapshots.get(fleet), model, deployment)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.get("/rollouts/{model}/{deployment}/gates", response_model=shown.Page[shown.GateShown], tags=["rollouts"])
    def gates(fleet: Fleet, model: Name, deployment: Name) -> Any:
        """List what each gate of a rollout says."""
        found = _rollout(fleet, snapshots.get(fleet), model, deployment)["gates"]
        return {"items": found, "total": len(found)}

    @api.get("/rollouts/{model}/{deployment}/nodes", response_model=shown.Page[shown.NodeLineShown], tags=["rollouts"])
    def rollout_nodes(fleet: Fleet, model: Name, deployment: Name, where: Where = None, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the nodes of a rollout by name, each with its class and why. In `where` the key `state` is the class."""
        check_model(fleet.repository, model)
        _named(_deployments(fleet, model), model, deployment)
        lines = [line for line in snapshots.get(fleet).lines if (line.model, line.deployment) == (model, deployment)]
        if where is not None:
            lines = chosen(lines, where, facts=lambda line: line.node.facts, state=lambda line: line.found.name)
        lines = sorted(lines, key=lambda line: line.node.name)
        found = page(lines, lambda line: [line.node.name], limit=limit, cursor=cursor)
        return {**found, "items": [line_shown(line) for line in found["items"]]}

    @api.get("/nodes", response_model=shown.Page[shown.NodeShown], tags=["nodes"])
    def nodes(
        fleet: Fleet,
        where: Where = None,
        sort: Annotated[str, Query(max_length=20, pattern="^(node|state|last_seen|-last_seen)$")] = "node",
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Any:
        """List the nodes that count. In `where` the key `state` is the class; by `state` those come first that need somebody most."""
        seen = snapshots.get(fleet)
        keys, _ = seen.nodes(where, sort)
        after = key_of(cursor, [str, int, str]) if cursor is not None else None
        if after is not None and after[0] != sort:
            raise Refused(Code.REQUEST_INVALID, f"cursor is of a list in the order {after[0][:20]!r}: begin without one")
        left = keys if after is None else [key for key in keys if key > (after[1], after[2])]
        found = ended(left[: limit + 1], lambda key: cursor_of([sort, *key]), limit=limit, total=len(keys))
        return {**found, "items": nodes_shown(fleet, seen, [name for _, name in found["items"]])}

    @api.get("/nodes/{node}", response_model=shown.NodeShown, tags=["nodes"])
    def node(fleet: Fleet, node: Name) -> Any:
        """Describe a node: what it serves, what is wrong with it, and how far it has come in each deployment."""
        return node_shown(fleet, snapshots.get(fleet), node)

    @api.get("/nodes/{node}/settings", response_model=shown.SettingsShown, tags=["nodes"])
    def settings(fleet: Fleet, response: Response, node: Name) -> Any:
        """Show what the hub sets of a node, and what of it is in force there. The ETag is the serial of its settings."""
        found = settings_row(fleet, node)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.get("/drift", response_model=shown.Page[shown.DriftShown], tags=["drift"])
    def drift(fleet: Fleet, model: ModelFilter = None, cohort: ModelFilter = None) -> Any:
        """List what is tested for drift, lasting alarms first."""
        if model is not None:
            check_model(fleet.repository, model)
        rows = drift_of(fleet, model, cohort)
        return {"items": rows, "total": len(rows)}

    @api.get("/alerts", response_model=shown.Page[shown.AlertShown], tags=["alerts"])
    def alerts(fleet: Fleet, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the alerts, the newest first."""
        before = key_of(cursor, [int])[0] if cursor is not None else None
        found = ended(fleet.store.alerts_before(before, limit + 1), lambda row: cursor_of([row.id]), limit=limit)
        return {**found, "items": [_alert(row.id, row.alert) for row in found["items"]]}

    @api.get("/events", response_model=shown.Page[shown.EventShown], tags=["events"])
    def events(fleet: Fleet, after: Annotated[int, Query(ge=0, lt=2**62)] = 0, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List events, the oldest first: those with an id above `after`."""
        at = key_of(cursor, [int])[0] if cursor is not None else after
        found = ended(fleet.store.events(at, limit + 1), lambda row: cursor_of([row.id]), limit=limit)
        return {**found, "items": [event_row(row) for row in found["items"]]}

    @api.get("/audit", response_model=shown.Page[shown.ChangeShown], tags=["audit"])
    def audit(
        fleet: Fleet,
        actor: Annotated[str | None, Query(max_length=64)] = None,
        model: ModelFilter = None,
        node: ModelFilter = None,
        since: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Any:
        """List the changes of the fleet, the newest first, each with its actor. A page may have few rows and still name a next one."""
        before = key_of(cursor, [int])[0] if cursor is not None else None
        rows, scanned = list[dict[str, Any]](), 0
        while len(rows) <= limit and scanned < SCAN_MAX:
            changes = fleet.store.changes(since=since, limit=1000, before_id=before)
            for one in changes:
                before, scanned = one.id, scanned + 1
                nodes = {one.body.get("node"), one.body.get("name"), *one.body.get("nodes", ())}
                if actor in {None, one.actor} and model in {None, one.body.get("model")} and (node is None or node in nodes):
                    rows.append(_change(one))
                    if len(rows) > limit:
                        break
            if len(changes) < 1000 and len(rows) <= limit:
                return ended(rows, lambda row: "", limit=limit)
        if len(rows) > limit:
            return ended(rows, lambda row: cursor_of([row["id"]]), limit=limit)
        return {"items": rows, "next": cursor_of([before or 0])}

    return api


def etag(serial: int) -> str:
    """Return the ETag of what has this serial."""
    return f'"{serial}"'


def _deployments(fleet: OpenedFleet, name: str) -> list[dict[str, Any]]:
    model = model_of(fleet.repository, name)
    rows = deployment_rows(model, facts_of(states_of(fleet.store.counted_nodes())))
    return [{**row, "serial": model.serial} for row in rows]


def _named(rows: list[dict[str, Any]], model: str, deployment: str) -> dict[str, Any]:
    for row in rows:
        if row["deployment"] == deployment:
            return row
    names = ", ".join(str(row["deployment"]) for row in rows) or "none"
    raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment} of {model}; there are {names}")


def _rollout(fleet: OpenedFleet, seen: Snapshot, model: str, deployment: str) -> dict[str, Any]:
    check_model(fleet.repository, model)
    return _named(Rollouts.read(fleet, model, seen.seen).rows(), model, deployment)


def _alert(number: int, alert: Any) -> dict[str, Any]:
    moments: Callable[[int | None], str | None] = lambda at: None if at is None else datetime.fromtimestamp(at, UTC).isoformat()  # noqa: E731
    named = {name: getattr(alert, name) for name in ("kind", "model", "version", "cohort", "node", "code", "text", "actor")}
    return {"id": number, "at": moments(alert.at), "since": moments(alert.since), "signals": [one.name for one in alert.signals], **named}


def _change(event: Any) -> dict[str, Any]:
    named = {name: event.body.get(name) for name in ("model", "version", "serial", "node")}
    at = datetime.fromtimestamp(event.at, UTC).isoformat()
    return {"id": event.id, "at": at, "actor": event.actor, "kind": event.kind, "what": event.text, **named}

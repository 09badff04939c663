"""Do what is asked of the fleet: queue it for the hub as the command line does, and wait a while for the answer."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from hub.core.nodes import device_settings
from hub.core.nodes.device_settings import KIND, SetNodeSettings
from hub.core.rollouts import commands
from hub.database.api_rows import ApiRequests
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.rows import CommandRow
from hub.operations import api_tokens, forgetting, rollouts
from hub.operations.deployed import model_of
from hub.operations.node_changes import document_of, effect_of
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.rollouts import Prepared
from hub.web import documents as asked
from hub.web.problems import Refusal
from hub.web.reading import Fleet, Name
from hub.web.roles import ACTIONS
from schemas.errors import Code, Refused

WAIT_SECONDS = 10.0
LOOK_SECONDS = 0.2
Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the hub; then the operation is answered as it is.")]
IfMatch = Annotated[str | None, Header(max_length=100, description="ETag that was seen. Where it is another one by now, nothing is done.")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=64, description="The same at each repetition.")]
Work = Callable[[], tuple[str, commands.Command | SetNodeSettings, Sequence[str], Sequence[str]]]
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


def router(route_class: type[APIRoute]) -> APIRouter:  # noqa: C901  # a function for each route
    """Return the routes that change something."""
    api = APIRouter(route_class=route_class)
    accepted: dict[int | str, dict[str, Any]] = {202: {"model": asked.OperationShown, "description": "The hub has not answered yet."}}

    @api.get("/operations/{operation}", response_model=asked.OperationShown, tags=["operations"])
    def operation(fleet: Fleet, operation: Annotated[int, Path(ge=1, lt=2**62)]) -> Any:
        """Show what became of something that the hub was asked to do."""
        return _shown(fleet, operation)

    @api.post("/rollouts", response_model=asked.OperationShown, responses=accepted, tags=["rollouts"])
    async def start(
        request: Request, fleet: Fleet, wish: asked.StartRollout, wait: Wait = WAIT_SECONDS, idempotency_key: Key = None
    ) -> Any:
        """Start a rollout. It is refused where `fleetcast rollout start` refuses it."""
        return await _do(request, fleet, wait, partial(_started, fleet, wish))

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
            def work() -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
                serial = _serial(fleet, model, if_match)
                given = {"deployment": deployment, **({"if_serial": serial} if serial is not None else {})}
                return _of(rollouts.change(fleet, model, commands.read_as(SIMPLE[action], json.dumps(given))))

            return await _do(request, fleet, wait, work)

        api.add_api_route(
            f"/rollouts/{{model}}/{{deployment}}/{action}",
            _bound(act, action),
            methods=["POST"],
            response_model=asked.OperationShown,
            responses=accepted,
            summary=action.capitalize(),
            description=SAID[action],
            operation_id=f"{action}_rollout",
            tags=["rollouts"],
        )

    @api.patch("/rollouts/{model}/{deployment}/parameters", response_model=asked.OperationShown, responses=accepted, tags=["rollouts"])
    async def set_parameters(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        wish: asked.SetParameters,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Change parameters of the release that is rolled out; no node moves."""

        def work() -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
            check_model(fleet.repository, model)
            serial = _serial(fleet, model, if_match)
            version = rollouts.version_in_force(fleet, model, deployment, wish.release)
            given = _given({"version": version, "deployment": deployment, "parameters": wish.parameters, "unset": wish.unset})
            return _of(rollouts.set_parameters(fleet, model, _read(commands.SetParameters, given, serial)))

        return await _do(request, fleet, wait, work)

    @api.put("/models/{model}/deployments/{deployment}", response_model=asked.OperationShown, responses=accepted, tags=["deployments"])
    async def set_deployment(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        wish: asked.SetDeployment,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Make a deployment, or change its selector, priority or release."""

        def work() -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
            check_model(fleet.repository, model)
            given = {"name": deployment, **_given(wish.model_dump(mode="json"))}
            return _of(rollouts.set_deployment(fleet, model, _read(commands.SetDeployment, given, _serial(fleet, model, if_match))))

        return await _do(request, fleet, wait, work)

    @api.delete("/models/{model}/deployments/{deployment}", response_model=asked.OperationShown, responses=accepted, tags=["deployments"])
    async def remove_deployment(
        request: Request,
        fleet: Fleet,
        model: Name,
        deployment: Name,
        breaking: bool = False,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Remove a deployment. Its nodes follow the next one that matches them."""

        def work() -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
            check_model(fleet.repository, model)
            if model_of(fleet.repository, model).get(deployment) is None:
                raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment} of {model}")
            given = _given({"name": deployment, "breaking": breaking})
            return _of(rollouts.remove_deployment(fleet, model, _read(commands.RemoveDeployment, given, _serial(fleet, model, if_match))))

        return await _do(request, fleet, wait, work)

    @api.patch("/nodes/{node}/settings", response_model=asked.OperationShown, responses=accepted, tags=["nodes"])
    async def set_settings(
        request: Request,
        fleet: Fleet,
        node: Name,
        wish: asked.ChangeSettings,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Change what the hub sets of a node: labels, cohort, telemetry, display name, budgets."""

        def work() -> tuple[str, SetNodeSettings, Sequence[str], Sequence[str]]:
            forgetting.check_known(fleet, node)
            document = document_of(fleet.repository, node)
            serial = _matched(f"settings of node {node}", document.serial if document is not None else 0, if_match)
            return _settings(fleet, {"node": node, **_changes(wish), **({"if_serial": serial} if serial is not None else {})})

        return await _do(request, fleet, wait, work)

    @api.post("/node-settings", response_model=asked.OperationShown, responses=accepted, tags=["nodes"])
    async def set_settings_of_nodes(
        request: Request, fleet: Fleet, wish: asked.ChangeSettingsOfNodes, wait: Wait = WAIT_SECONDS, idempotency_key: Key = None
    ) -> Any:
        """Change what the hub sets of all nodes that a selector matches."""
        return await _do(request, fleet, wait, lambda: _settings(fleet, _changes(wish)))

    @api.delete("/nodes/{node}", response_model=asked.Forgotten, tags=["nodes"])
    def forget(fleet: Fleet, node: Name) -> Any:
        """Forget a node that is gone for good. It leaves every list, and its certificates are revoked."""
        found = forgetting.forget(fleet, node)
        return {"node": node, "certificates_revoked": found.certificates, "tokens_withdrawn": found.tokens}

    @api.get("/tokens", response_model=asked.Page[asked.TokenShown], tags=["tokens"])
    def tokens(fleet: Fleet) -> Any:
        """List the tokens, the newest first, without what would let anybody use them."""
        found = api_tokens.rows(fleet)
        return {"items": found, "total": len(found)}

    @api.post("/tokens", response_model=asked.TokenMade, status_code=201, tags=["tokens"])
    def make_token(fleet: Fleet, wish: asked.MakeToken) -> Any:
        """Make a token. It is shown in this answer only."""
        row, text = api_tokens.make(fleet, name=wish.name, role=wish.role, days=wish.days)
        return {**api_tokens.row_of(row, int(time.time())), "token": text}

    @api.delete("/tokens/{token}", response_model=asked.TokenShown, tags=["tokens"])
    def revoke_token(fleet: Fleet, token: Annotated[str, Path(pattern="^[0-9a-f]{8}$", max_length=8)]) -> Any:
        """Revoke a token by its id. It is refused from then on."""
        return api_tokens.row_of(api_tokens.revoke(fleet, token), int(time.time()))

    return api


def _bound(act: Any, action: str) -> Any:
    """Return an endpoint for one action, with a signature that does not show it."""
    import inspect  # noqa: PLC0415

    bound = partial(act, action=action)
    found = inspect.signature(act)
    bound.__signature__ = found.replace(parameters=[one for one in found.parameters.values() if one.name != "action"])  # type: ignore[attr-defined]
    bound.__name__ = action  # type: ignore[attr-defined]
    return bound


async def _do(request: Request, fleet: OpenedFleet, wait: float, work: Work) -> Any:
    """Check and queue what is asked, once for each key, and wait for the hub's answer."""
    token, key, digest = request.state.token.id, request.state.key, request.state.digest
    requests = ApiRequests(fleet.store.database)

    def queue() -> tuple[int, Sequence[str], Sequence[str]]:
        if key is not None and (known := requests.known(token, key, digest)) is not None:
            return known, (), ()
        model, command, warnings, notes = work()
        return requests.queue(model, command, token=token, key=key, digest=digest), warnings, notes

    number, warnings, notes = await run_in_threadpool(queue)
    until = time.monotonic() + wait
    while (row := await run_in_threadpool(_row, fleet, number)).state == "open" and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    where = f"/api/v1/operations/{number}"
    if row.state == "refused":
        raise Refusal(Refused(Code(row.code), row.text), headers={"location": where})
    found = asked.OperationShown(**{**_operation(row), "warnings": list(warnings), "notes": list(notes)})
    return Response(
        found.model_dump_json(), status_code=202 if row.state == "open" else 200, media_type="application/json", headers={"location": where}
    )


def _row(fleet: OpenedFleet, number: int) -> CommandRow | NodeCommand:
    found = fleet.store.command(number)
    if found is not None and found.kind == KIND:
        found_of_nodes = NodeCommands(fleet.store.database).get(number)
        if found_of_nodes is not None:
            return found_of_nodes
    if found is None:
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no operation {number}")
    return found


def _shown(fleet: OpenedFleet, number: int) -> dict[str, Any]:
    return _operation(_row(fleet, number))


def _operation(row: CommandRow | NodeCommand) -> dict[str, Any]:
    kind, model = (KIND, None) if isinstance(row, NodeCommand) else (row.kind, row.model)
    return {"id": row.id, "kind": kind, "model": model, "state": row.state, "code": row.code, "text": row.text, "actor": row.actor}


def _of(prepared: Prepared) -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
    return prepared.model, prepared.command, prepared.warnings, prepared.notes


def _serial(fleet: OpenedFleet, model: str, if_match: str | None) -> int | None:
    """Return the serial that must still be a model's when the hub obeys; None where any will do."""
    return _matched(f"deployments of {model}", model_of(fleet.repository, model).serial, if_match)


def _matched(what: str, now: int, if_match: str | None) -> int | None:
    """Return the serial of an If-Match that holds.

    Raises:
        Refused: REQUEST_STALE, naming both sides.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    seen = re.fullmatch(r'"(\d{1,18})"', if_match.strip())
    if seen is None:
        raise Refused(Code.REQUEST_INVALID, f'If-Match {if_match[:40]!r} must be one ETag as it was given, such as "7"')
    if int(seen[1]) != now:
        raise commands.stale(what, seen=int(seen[1]), now=now)
    return now


def _read(kind: type[Any], given: Mapping[str, Any], serial: int | None) -> Any:
    return commands.read_as(kind, json.dumps({**given, **({"if_serial": serial} if serial is not None else {})}))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: a hub of an earlier version refuses fields that it does not know."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value not in ([], {})}


def _started(fleet: OpenedFleet, wish: asked.StartRollout) -> tuple[str, commands.Command, Sequence[str], Sequence[str]]:
    check_model(fleet.repository, wish.model)
    asked_for = rollouts.start_of(wish.model_dump(mode="json"))
    return _of(rollouts.start(fleet, wish.model, asked_for, require_check=wish.require_check))


def _without_none(one: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in one.model_dump(mode="json").items() if value is not None}


def _changes(wish: asked.ChangeSettings) -> dict[str, Any]:
    budgets = {link: _without_none(one) for link, one in wish.budgets.items()}
    found = {**wish.model_dump(mode="json"), "budgets": budgets, "breaking": wish.breaking or None}
    return {name: value for name, value in found.items() if value is not None and value not in ([], {})}


def _settings(fleet: OpenedFleet, given: Mapping[str, Any]) -> tuple[str, SetNodeSettings, Sequence[str], Sequence[str]]:
    wish = device_settings.read(json.dumps(given))
    if not (wish.labels or wish.unset or wish.budgets or any(getattr(wish, name) is not None for name in device_settings.SCALARS)):
        raise Refused(Code.SETTINGS_INVALID, "there is nothing to set: give at least one setting, or one in `unset`")
    effect = effect_of(fleet, wish)
    notes = [f"this changes the settings of {len(effect.nodes)} of {effect.known} nodes"]
    keep = [f"{len(effect.keep_labels)} nodes accept no labels from the hub, by their own files"] if effect.keep_labels else []
    return "", wish, keep, notes

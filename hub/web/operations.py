"""Have the hub do what is asked: queue it as the command line does, once for each key, and wait a while for the answer."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from hub.core.nodes.device_settings import KIND, SetNodeSettings
from hub.core.rollouts import commands
from hub.database.api_rows import ApiRequests, AskedOnce
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.rows import CommandRow
from hub.operations.deployed import model_of
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.rollouts import Prepared
from hub.web import documents
from hub.web.parameters import Fleet
from hub.web.problems import Refusal, Words, words_of
from schemas.deployments import name_of
from schemas.errors import Code, Refused
from schemas.selectors import from_labels, parse

LOOK_SECONDS = 0.2


class Queued(NamedTuple):
    """Hold what is to be queued for the hub, and what there is to know besides."""

    model: str
    command: commands.Command | SetNodeSettings
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    deployment: str | None = None


Work = Callable[[], Queued]


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of operations."""
    api = APIRouter(route_class=route_class)

    @api.get("/operations/{operation}", response_model=documents.OperationShown, tags=["operations"])
    def operation(request: Request, fleet: Fleet, operation: Annotated[int, Path(ge=1, lt=2**62)]) -> Any:
        """Show what became of something that the hub was asked to do."""
        return _operation(row_of(fleet, operation), words_of(request))

    return api


async def do(request: Request, fleet: OpenedFleet, wait: float, work: Work) -> Any:
    """Check and queue what is asked, once for each key, and wait for the hub's answer."""
    token, key, digest = request.state.token.id, request.state.key, request.state.digest
    requests = ApiRequests(fleet.store.database)

    def queue() -> AskedOnce:
        if key is not None and (known := requests.known(token, key, digest)) is not None:
            return known
        found = work()
        return requests.queue(found.model, found.command, token=token, key=key, digest=digest, besides=_besides(found))

    number, besides = await run_in_threadpool(queue)
    until = time.monotonic() + wait
    while (row := await run_in_threadpool(row_of, fleet, number)).state == "open" and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    where = f"/api/v1/operations/{number}"
    if row.state == "refused":
        raise Refusal(Refused(Code(row.code), row.text), headers={"location": where})
    words = words_of(request)
    more = _shown_besides(besides, words) if besides is not None else _of_command(row)
    found = documents.OperationShown(**{**_operation(row, words), **more})
    return Response(
        found.model_dump_json(), status_code=202 if row.state == "open" else 200, media_type="application/json", headers={"location": where}
    )


def row_of(fleet: OpenedFleet, number: int) -> CommandRow | NodeCommand:
    """Return a command that was queued, in its newest state.

    Raises:
        Refused: there is none.
    """
    found = fleet.store.command(number)
    if found is not None and found.kind == KIND:
        found_of_nodes = NodeCommands(fleet.store.database).get(number)
        if found_of_nodes is not None:
            return found_of_nodes
    if found is None:
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no operation {number}")
    return found


def _operation(row: CommandRow | NodeCommand, words: Words) -> dict[str, Any]:
    kind, model = (KIND, None) if isinstance(row, NodeCommand) else (row.kind, row.model)
    return {"id": row.id, "kind": kind, "model": model, "state": row.state, "code": row.code, "text": words(row.text), "actor": row.actor}


def _besides(queued: Queued) -> str:
    return json.dumps({"warnings": list(queued.warnings), "notes": list(queued.notes), "deployment": queued.deployment})


def _shown_besides(kept: str, words: Words) -> dict[str, Any]:
    found = json.loads(kept)
    return {**found, **{name: [words(one) for one in found[name]] for name in ("warnings", "notes")}}


def _of_command(row: CommandRow | NodeCommand) -> dict[str, Any]:
    """Return what a command itself says: of a request that a hub of an earlier version took, no more is known."""
    wish = row.command if isinstance(row, CommandRow) else None
    match wish:
        case commands.Start():
            return {"deployment": wish.deployment or name_of((*parse(wish.where or ""), *from_labels(wish.labels)))}
        case commands.Halt() | commands.Resume() | commands.Rollback() | commands.Approve() | commands.Retry() | commands.SetParameters():
            return {"deployment": wish.deployment}
        case commands.SetDeployment() | commands.RemoveDeployment():
            return {"deployment": wish.name}
        case _:
            return {}


def of_prepared(prepared: Prepared) -> Queued:
    """Return what is to be queued, with what there is to know besides."""
    return Queued(prepared.model, prepared.command, prepared.warnings, prepared.notes, prepared.deployment or None)


def serial_of(fleet: OpenedFleet, model: str, if_match: str | None) -> int | None:
    """Return the serial that must still be a model's when the hub obeys; None where any will do."""
    return matched(f"deployments of {model}", model_of(fleet.repository, model).serial, if_match)


def matched(what: str, now: int, if_match: str | None) -> int | None:
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


def read(kind: type[Any], given: Mapping[str, Any], serial: int | None) -> Any:
    """Return a command, to be obeyed only while the serial is this one."""
    return commands.read_as(kind, json.dumps({**given, **({"if_serial": serial} if serial is not None else {})}))


def given_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: a hub of an earlier version refuses fields that it does not know."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value not in ([], {})}


def without_none(one: BaseModel) -> dict[str, Any]:
    """Return the fields that were given."""
    return {name: value for name, value in one.model_dump(mode="json").items() if value is not None}

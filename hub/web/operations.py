"""Have the hub do what is asked: queue it as the command line does, once for each key, and wait a while for the answer."""

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from hub.core.nodes.device_settings import KIND, SetNodeSettings
from hub.core.rollouts import commands
from hub.database.api_rows import ApiRequests
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.rows import CommandRow
from hub.operations.deployed import model_of
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.rollouts import Prepared
from hub.web import documents
from hub.web.parameters import Fleet
from hub.web.problems import Refusal, in_fields
from schemas.deployments import name_of
from schemas.errors import Code, Refused
from schemas.selectors import from_labels, parse

LOOK_SECONDS = 0.2
KEPT_MAX: Final = 1000  # Operations of which it is known what was answered besides; a client repeats a request at once.


class Queued(NamedTuple):
    """Hold what is to be queued for the hub, and what there is to know besides."""

    model: str
    command: commands.Command | SetNodeSettings
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    deployment: str | None = None


Work = Callable[[], Queued]


class Besides:
    """Remember what was answered besides, by operation, so that a request that is repeated is answered alike; a loop's alone."""

    def __init__(self, most: int = KEPT_MAX) -> None:
        self._kept, self._most = OrderedDict[int, dict[str, Any]](), most

    def keep(self, operation: int, found: dict[str, Any]) -> dict[str, Any]:
        """Keep what the first answer has, and return it; the oldest is forgotten where there is more than is allowed."""
        kept = self._kept.setdefault(operation, found)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return kept

    def of(self, operation: int) -> dict[str, Any] | None:
        """Return what was answered besides; None where this process has not answered, or has forgotten it."""
        return self._kept.get(operation)


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of operations."""
    api = APIRouter(route_class=route_class)

    @api.get("/operations/{operation}", response_model=documents.OperationShown, tags=["operations"])
    def operation(fleet: Fleet, operation: Annotated[int, Path(ge=1, lt=2**62)]) -> Any:
        """Show what became of something that the hub was asked to do."""
        return _shown(fleet, operation)

    return api


async def do(request: Request, fleet: OpenedFleet, wait: float, work: Work) -> Any:
    """Check and queue what is asked, once for each key, and wait for the hub's answer."""
    token, key, digest = request.state.token.id, request.state.key, request.state.digest
    requests = ApiRequests(fleet.store.database)

    def queue() -> tuple[int, Queued | None]:
        if key is not None and (known := requests.known(token, key, digest)) is not None:
            return known, None
        found = work()
        return requests.queue(found.model, found.command, token=token, key=key, digest=digest), found

    number, queued = await run_in_threadpool(queue)
    kept: Besides = request.app.state.besides
    besides = kept.of(number) if queued is None else kept.keep(number, _besides(queued))
    until = time.monotonic() + wait
    while (row := await run_in_threadpool(_row, fleet, number)).state == "open" and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    where = f"/api/v1/operations/{number}"
    if row.state == "refused":
        raise Refusal(Refused(Code(row.code), row.text), headers={"location": where})
    found = documents.OperationShown(**{**_operation(row), **(besides if besides is not None else _of_command(row))})
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


def _besides(queued: Queued) -> dict[str, Any]:
    warnings, notes = ([in_fields(one) for one in told] for told in (queued.warnings, queued.notes))
    return {"warnings": warnings, "notes": notes, "deployment": queued.deployment}


def _of_command(row: CommandRow | NodeCommand) -> dict[str, Any]:
    """Return what a command itself says: a hub that was started anew knows no more of an earlier request with the same key."""
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

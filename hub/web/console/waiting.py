"""Wait a while for the hub to do what a form asked for."""

import asyncio
import time
from typing import Final

from starlette.concurrency import run_in_threadpool

from hub.core.nodes.device_settings import KIND
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.rows import CommandRow
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused

WAIT_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.1


async def answer_of(fleet: OpenedFleet, number: int) -> str:
    """Return `done`, or `open` where the hub has not answered after a while.

    Raises:
        Refused: the hub refused it.
    """
    until = time.monotonic() + WAIT_SECONDS
    while (row := await run_in_threadpool(_row, fleet, number)).state == "open" and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    if row.state == "refused":
        raise Refused(Code(row.code), row.text)
    return row.state


def _row(fleet: OpenedFleet, number: int) -> CommandRow | NodeCommand:
    found = fleet.store.command(number)
    if found is None:
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no operation {number}")
    of_nodes = NodeCommands(fleet.store.database).get(number) if found.kind == KIND else None
    return of_nodes or found

"""Wait a while for the hub to do what a form asked for."""

import asyncio
import time
from typing import Final

from starlette.concurrency import run_in_threadpool

from hub.operations.opened_fleet import OpenedFleet
from hub.web.operations import row_of
from schemas.errors import Code, Refused

WAIT_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.1


async def answer_of(fleet: OpenedFleet, number: int) -> str:
    """Return `done`, or `open` where the hub has not answered after a while.

    Raises:
        Refused: the hub refused it.
    """
    until = time.monotonic() + WAIT_SECONDS
    while (row := await run_in_threadpool(row_of, fleet, number)).state == "open" and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
    if row.state == "refused":
        raise Refused(Code(row.code), row.text)
    return row.state

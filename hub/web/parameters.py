"""Define what several routes take: the fleet of a request, names in paths, pages, waits, and what a change was based on."""

from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request

from hub.operations.opened_fleet import OpenedFleet
from hub.web import documents
from hub.web.pages import CURSOR_CHARACTERS_MAX
from schemas.limits import SELECTOR_CHARACTERS_MAX
from schemas.names import NAME_PATTERN, VERSION_PATTERN

WAIT_SECONDS = 10.0


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
Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the hub; then the operation is answered as it is.")]
IfMatch = Annotated[str | None, Header(max_length=100, description="ETag that was seen. Where it is another one by now, nothing is done.")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=64, description="The same at each repetition.")]
ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": documents.OperationShown, "description": "The hub has not answered yet."}}


def etag(serial: int) -> str:
    """Return the ETag of what has this serial."""
    return f'"{serial}"'

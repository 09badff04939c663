"""Answer with a table as CSV where it is asked for: by `format=csv`, or by an Accept header that wants it and no JSON."""

from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from starlette.responses import StreamingResponse

from hub.operations.csv_exports import Table

Format = Annotated[
    Literal["json", "csv"] | None, Query(description="`csv`: the whole list as a table; `limit` and `cursor` do not count then.")
]
TABLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The list, or with `format=csv` all of it as a table."}
}


def wants_csv(request: Request, chosen: str | None) -> bool:
    """Return whether somebody asks for a table."""
    if chosen is not None:
        return chosen == "csv"
    accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
    return "text/csv" in accepted and "application/json" not in accepted


def csv_answer(table: Table) -> StreamingResponse:
    """Return a table, which is sent while it is read."""
    return StreamingResponse(table.lines(), headers=table.headers)

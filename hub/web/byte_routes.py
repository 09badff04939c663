"""Sum up what days have cost in bytes."""

import time
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute

from hub.operations import csv_exports
from hub.operations.byte_sums import By, begin_of, day_of, of_day, sums
from hub.operations.snapshot import Snapshots
from hub.web.byte_documents import DayShown
from hub.web.csv_answers import TABLE, Format, csv_answer, wants_csv
from hub.web.parameters import Fleet


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:
    """Return the route of bytes."""
    api = APIRouter(route_class=route_class)

    @api.get("/bytes", response_model=DayShown, responses=TABLE, tags=["bytes"])
    def day_bytes(
        request: Request,
        fleet: Fleet,
        day: Annotated[date | None, Query(description="A day of UTC, such as 2026-11-26. Without it: today.")] = None,
        by: By = "release",
        format: Format = None,
    ) -> Any:
        """Sum up the bytes that nodes have received on a day, by their receipts, and today also by their reports."""
        now = int(time.time())
        chosen = day_of(day.isoformat() if day is not None else None, now)
        found = of_day(fleet.store.database, snapshots.get(fleet).seen.nodes, day=begin_of(chosen), now=now)
        if wants_csv(request, format):
            return csv_answer(csv_exports.bytes_of(found, chosen.isoformat(), by))
        rows = [asdict(one) for one in sums(found.transfers, by)]
        return {"day": chosen.isoformat(), "by": by, "is_cut": found.is_cut, "items": rows}

    return api

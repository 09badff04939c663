"""Sum up the fleet."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hub.operations.snapshot import Snapshots
from hub.operations.summary import summary_of
from hub.web import documents
from hub.web.parameters import Fleet


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:
    """Return the routes of the fleet as a whole."""
    api = APIRouter(route_class=route_class)

    @api.get("/fleet", response_model=documents.FleetShown, tags=["fleet"])
    def fleet(fleet: Fleet) -> Any:
        """Sum up the fleet: its nodes by class, its rollouts by state, and how many streams drift."""
        return summary_of(fleet, snapshots.get(fleet))

    return api

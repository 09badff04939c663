"""Sum up the fleet."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hub.core.rollouts.node_class import CLASSES
from hub.operations.deployed import model_of
from hub.operations.drift_rows import drift_of
from hub.operations.snapshot import Snapshots
from hub.web import documents
from hub.web.parameters import Fleet


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:
    """Return the routes of the fleet as a whole."""
    api = APIRouter(route_class=route_class)

    @api.get("/fleet", response_model=documents.FleetShown, tags=["fleet"])
    def fleet(fleet: Fleet) -> Any:
        """Sum up the fleet: its nodes by class, its rollouts by state, and how many streams drift."""
        seen = snapshots.get(fleet)
        classes = Counter(line.found.name for line in seen.worst.values())
        models = [model_of(fleet.repository, name) for name in fleet.repository.models()]
        return {
            "fleet": fleet.settings.fleet,
            "as_of": datetime.fromtimestamp(seen.at, UTC).isoformat(),
            "nodes": len(seen.seen.nodes),
            "classes": {name: classes[name] for name in CLASSES},
            "undecided": len(seen.seen.nodes) - len(seen.worst),
            "models": len(models),
            "rollouts": dict(Counter(one.state for model in models for one in model.deployments)),
            "drifting": sum(row["alarm"] for row in drift_of(fleet, None, None)),
            "last_event": fleet.store.last_event_id(),
        }

    return api

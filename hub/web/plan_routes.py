"""Say what a rollout would cost before it sends anything."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hub.operations import planning
from hub.operations.rollouts import start_of
from hub.web import documents
from hub.web.parameters import Fleet


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the route of plans."""
    api = APIRouter(route_class=route_class)

    @api.post("/plan", response_model=documents.PlanShown, tags=["rollouts"])
    def plan(fleet: Fleet, wish: documents.PlanRollout) -> Any:
        """Compute the bytes of a rollout by site and link, and which nodes would change their deployment. Nothing is started."""
        fields = wish.model_dump(mode="json", exclude={"model", "rates_bit_s", "nodes"})
        rates: dict[str, float] = {**planning.RATES_BIT_S, **{str(link): rate for link, rate in wish.rates_bit_s.items()}}
        found, none_fits = planning.plan(fleet, wish.model, start_of(fields), rates_bit_s=rates)
        changes = [{"deployment": one["from"], "nodes": one["nodes"]} for one in found["changes"]]
        nodes = found["nodes"] if wish.nodes else []
        return {**found, "changes": changes, "nodes": nodes, "nodes_planned": len(found["nodes"]), "none_fits": none_fits}

    return api

"""Let devices in: new ones by tokens, and new hardware by the name of a node."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hub.operations import replacing
from hub.web.device_documents import EnrolmentTokens, MakeEnrolmentTokens, Replacement, ReplaceNode
from hub.web.parameters import Fleet, Name


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of devices."""
    api = APIRouter(route_class=route_class)

    @api.post("/nodes/{node}/replacement", response_model=Replacement, tags=["nodes"])
    def replace(fleet: Fleet, node: Name, wish: ReplaceNode) -> Any:
        """Give a node's name to new hardware: by a token where devices enrol, and elsewhere by its key, or to the first that comes."""
        digest = bytes.fromhex(wish.fingerprint) if wish.fingerprint is not None else None
        row = replacing.replace(fleet, node, fingerprint=digest, hours=wish.hours)
        return {**row, "warnings": replacing.unanswered(fleet) if "token" in row else []}

    @api.post("/enrolment-tokens", response_model=EnrolmentTokens, status_code=201, tags=["nodes"])
    def make_enrolment_tokens(fleet: Fleet, wish: MakeEnrolmentTokens) -> Any:
        """Make tokens that let one device each enrol by its name, once. They are shown in this answer only."""
        names = replacing.numbered(wish.node, wish.count)
        if not wish.replace:
            replacing.check_free(fleet, names)
        made = replacing.make_tokens(fleet, names, cohort=wish.cohort or "", labels=wish.labels, seconds=wish.seconds)
        return {"items": made, "warnings": replacing.unanswered(fleet)}

    return api

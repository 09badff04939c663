"""Show, make and revoke tokens of the API."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.routing import APIRoute

from hub.operations import api_tokens
from hub.web import documents
from hub.web.parameters import Fleet
from schemas.patterns import in_words

TOKEN_PATTERN = in_words("^[0-9a-f]{8}$", "id of a token", "8 of 0-9 and a-f")


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of tokens."""
    api = APIRouter(route_class=route_class)

    @api.get("/token", response_model=documents.TokenShown, tags=["tokens"])
    def token(request: Request) -> Any:
        """Describe the token of this request."""
        return api_tokens.row_of(request.state.token, int(time.time()))

    @api.get("/tokens", response_model=documents.Page[documents.TokenShown], tags=["tokens"])
    def tokens(fleet: Fleet) -> Any:
        """List the tokens, the newest first, without what would let anybody use them."""
        found = api_tokens.rows(fleet)
        return {"items": found, "total": len(found)}

    @api.post("/tokens", response_model=documents.TokenMade, status_code=201, tags=["tokens"])
    def make_token(fleet: Fleet, wish: documents.MakeToken) -> Any:
        """Make a token. It is shown in this answer only."""
        row, text = api_tokens.make(fleet, name=wish.name, role=wish.role, days=wish.days)
        return {**api_tokens.row_of(row, int(time.time())), "token": text}

    @api.delete("/tokens/{token}", response_model=documents.TokenShown, tags=["tokens"])
    def revoke_token(fleet: Fleet, token: Annotated[str, Path(pattern=TOKEN_PATTERN, max_length=8)]) -> Any:
        """Revoke a token by its id. It is refused from then on."""
        return api_tokens.row_of(api_tokens.revoke(fleet, token), int(time.time()))

    return api

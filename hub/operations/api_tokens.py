"""Make, list, find and revoke the tokens of the API. A token is shown once, when it is made; what is kept is its digest."""

import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

from hub.database.api_rows import ApiTokens, TokenRow
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused
from schemas.names import sha256

Role = Literal["viewer", "operator", "publisher", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
PREFIX: Final = "fct_"  # Scanners for leaked secrets find tokens by it.
SECRET_BYTES: Final = 32
TOKEN_CHARACTERS_MAX: Final = 128
NAME_CHARACTERS_MAX: Final = 48
NAME_PATTERN: Final = rf"[A-Za-z0-9][A-Za-z0-9._@+-]{{0,{NAME_CHARACTERS_MAX - 1}}}"  # Tokens of earlier versions may have other names.
DAYS_MAX: Final = 730
TOKENS_MAX: Final = 1000  # Tokens that are good at one time.
ACTOR_PREFIX: Final = "token:"  # Before a token's name where it is the actor, so that no person's name is taken for it.


def make(fleet: OpenedFleet, *, name: str, role: Role, days: int) -> tuple[TokenRow, str]:
    """Make a token, and return it with the text that its owner shows, which is kept nowhere.

    Raises:
        Refused: the name cannot be one or is in use, or there are too many tokens.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        allowed = "letters a-z and A-Z, digits and . _ @ + -, the first a letter or digit"
        raise Refused(Code.NAME_INVALID, f"a token's name must be 1 to {NAME_CHARACTERS_MAX} of {allowed}; it is {name[:80]!r}")
    tokens, now = ApiTokens(fleet.store.database), int(time.time())
    good = [one for one in tokens.all() if is_good(one, now)]
    if any(one.name == name for one in good):
        raise Refused(Code.NAME_TAKEN, f"a token is called {name!r} already: revoke it first, or choose another name")
    if len(good) >= TOKENS_MAX:
        raise Refused(Code.NAME_INVALID, f"there are {len(good)} tokens, and {TOKENS_MAX} are allowed: revoke some first")
    text = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    row = TokenRow(secrets.token_hex(4), name, role, sha256(text.encode()), now, fleet.store.database.actor, now + days * 86_400)
    tokens.add(row)
    return row, text


def find(fleet: OpenedFleet, text: str) -> TokenRow | None:
    """Return the token that this text is; None where there is none that is still good."""
    if not text.startswith(PREFIX) or len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        return None
    row = ApiTokens(fleet.store.database).by_digest(sha256(text.encode()))
    return row if row is not None and is_good(row, int(time.time())) else None


def get_good(fleet: OpenedFleet, token_id: str) -> TokenRow | None:
    """Return a token by its id; None where it is not good any more."""
    row = ApiTokens(fleet.store.database).get(token_id)
    return row if row is not None and is_good(row, int(time.time())) else None


def revoke(fleet: OpenedFleet, token: str) -> TokenRow:
    """Revoke a token by its id, or by the name of one that is still good.

    Raises:
        Refused: there is none.
    """
    tokens, now = ApiTokens(fleet.store.database), int(time.time())
    by_name = [one.id for one in tokens.all() if one.name == token and is_good(one, now)]
    row = tokens.revoke(by_name[0] if by_name else token)
    if row is None:
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no token {token!r}; `fleetcast tokens list` shows all")
    return row


def rows(fleet: OpenedFleet) -> Sequence[dict[str, Any]]:
    """Return every token that is kept, the newest first, without what would let anybody use it."""
    now = int(time.time())
    return [row_of(one, now) for one in ApiTokens(fleet.store.database).all()]


def row_of(one: TokenRow, now: int) -> dict[str, Any]:
    """Return what is shown of a token."""
    state = "revoked" if one.revoked_at is not None else "good" if is_good(one, now) else "expired"
    at = {"made": one.made_at, "expires": one.expires_at, "revoked": one.revoked_at}
    shown = {name: None if value is None else datetime.fromtimestamp(value, UTC).isoformat() for name, value in at.items()}
    return {"id": one.id, "name": one.name, "role": one.role, "state": state, "made_by": one.made_by, **shown}


def is_good(one: TokenRow, now: int) -> bool:
    """Return whether a token may still be used."""
    return one.revoked_at is None and now < one.expires_at

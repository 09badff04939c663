"""Sign people in to the console, by a token that they paste once or by a link that holds once, and find who a request is from."""

import secrets
import time
from dataclasses import dataclass, replace
from typing import Final

from hub.database.session_rows import LinkRow, SessionRow, Sessions
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from schemas.names import sha256

SECRET_BYTES: Final = 32
SECRET_CHARACTERS_MAX: Final = 64
IDLE_SECONDS: Final = 12 * 3600
SESSION_SECONDS: Final = 7 * 86_400
LINK_SECONDS: Final = 15 * 60
SESSIONS_MAX: Final = 200  # Sessions of one name.
TOUCH_SECONDS: Final = 60
VISIT_SECONDS: Final = 15 * 60  # A visit is over when its owner has not looked for this long.


@dataclass(frozen=True, slots=True)
class Session:
    """Hold a session that is good. `actor` is the name under which its owner changes the fleet."""

    digest: bytes
    name: str
    role: api_tokens.Role
    actor: str
    ends_at: int
    before_at: int | None


@dataclass(frozen=True, slots=True)
class Over:
    """Hold when a session ended that was good."""

    at: int


def make_link(fleet: OpenedFleet, *, name: str, role: api_tokens.Role = "admin") -> str:
    """Make what a link carries that signs its holder in once, within a quarter of an hour."""
    secret, now = secrets.token_urlsafe(SECRET_BYTES), int(time.time())
    row = LinkRow(sha256(secret.encode()), name, role, now + LINK_SECONDS)
    Sessions(fleet.store.database).add_link(row, now=now)
    fleet.store.add_event("token", f"a link to the console was made for {name}, {role}", {"name": name}, actor=name)
    return secret


def link_owner(fleet: OpenedFleet, secret: str) -> LinkRow | None:
    """Return whom a link would sign in; None where it was used, or its time is over."""
    if len(secret) > SECRET_CHARACTERS_MAX or not secret.isascii():
        return None
    row = Sessions(fleet.store.database).link(sha256(secret.encode()))
    return row if row is not None and time.time() < row.expires_at else None


def begin_by_link(fleet: OpenedFleet, secret: str) -> str | None:
    """Begin a session by a link, which is used up, and return the cookie's value."""
    row = link_owner(fleet, secret)
    if row is None or not Sessions(fleet.store.database).take_link(row.digest):
        return None
    return _begin(fleet, row.name, row.role, None)


def begin_by_token(fleet: OpenedFleet, text: str) -> str | None:
    """Begin a session by a token of the API, and return the cookie's value; None where the token is not good."""
    token = api_tokens.find(fleet, text)
    return _begin(fleet, token.name, token.role, token.id) if token is not None else None


def _begin(fleet: OpenedFleet, name: str, role: str, token: str | None) -> str:
    sessions, now, cookie = Sessions(fleet.store.database), int(time.time()), secrets.token_urlsafe(SECRET_BYTES)
    before = sessions.newest_of(name)
    sessions.end_old(made_before=now - SESSION_SECONDS, used_before=now - IDLE_SECONDS)
    row = SessionRow(sha256(cookie.encode()), name, role, token, now, now, now, before_at=before.looked_at if before is not None else None)
    sessions.add(row, kept_max=SESSIONS_MAX)
    how, actor = ("a link", name) if token is None else ("a token", f"{api_tokens.ACTOR_PREFIX}{name}")
    fleet.store.add_event("token", f"{name} signed in to the console by {how}, {role}", {"name": name}, actor=actor)
    return cookie


def find(fleet: OpenedFleet, cookie: str, *, looks: bool) -> Session | Over | None:
    """Return the session that a cookie names, or when it ended; `looks`: its owner looks at a page, which is noted now and then."""
    if not cookie or len(cookie) > SECRET_CHARACTERS_MAX or not cookie.isascii():
        return None
    sessions, now = Sessions(fleet.store.database), int(time.time())
    row = sessions.get(sha256(cookie.encode()))
    role = next((one for one in api_tokens.ROLES if row is not None and one == row.role), None)
    if row is None or role is None:
        return None
    ends_at = row.made_at + SESSION_SECONDS
    over_at = min(ends_at, row.used_at + IDLE_SECONDS)
    if row.token is not None:
        token = api_tokens.get_good(fleet, row.token)
        if token is None:
            over_at = min(over_at, now)
        else:
            ends_at = min(ends_at, token.expires_at)
    if now >= over_at:
        return Over(over_at)
    if looks and (now - row.looked_at >= TOUCH_SECONDS or now - row.used_at >= TOUCH_SECONDS):
        if now - row.looked_at >= VISIT_SECONDS:
            row = replace(row, before_at=row.looked_at)
        sessions.touch(row.digest, used_at=now, looked_at=now, before_at=row.before_at)
    actor = row.name if row.token is None else f"{api_tokens.ACTOR_PREFIX}{row.name}"
    return Session(row.digest, row.name, role, actor, ends_at, row.before_at)


def end(fleet: OpenedFleet, cookie: str) -> None:
    """Sign somebody out."""
    Sessions(fleet.store.database).end(sha256(cookie.encode()))

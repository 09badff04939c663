"""Define what the API takes and answers with where new hardware gets a node's name."""

from typing import Annotated

from pydantic import Field

from hub.web.documents import Asked, Shown

HOURS_MAX = 720


class ReplaceNode(Asked):
    """Let new hardware in by a node's name."""

    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64, description="SHA-256 of the device's key.")] | None = None
    hours: Annotated[int, Field(ge=1, le=HOURS_MAX, description="Time in which the new device must come.")] = 24


class Replacement(Shown):
    """Say how the new device is let in: by a token, which is shown in this answer only, or by a key."""

    node: str
    token: str | None = None
    expires: str | None = None
    command: str | None = None
    lets_in: str | None = None
    fingerprint: str | None = None
    until: str | None = None
    old_key: str | None = None
    warnings: list[str] = Field(default_factory=list)

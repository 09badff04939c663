"""Define what the API takes and answers with where devices are let in: new ones, and new hardware that gets a node's name."""

from typing import Annotated

from pydantic import Field

from hub.operations.replacing import COUNT_MAX, EXPIRES_DAYS_MAX
from hub.web.documents import Asked, Shown
from schemas import limits
from schemas.names import SHA256_PATTERN, Cohort, Label

HOURS_MAX = 720


class MakeEnrolmentTokens(Asked):
    """Make a token for a new device, or for each of several."""

    node: Annotated[Label, Field(description="Name of the node. With `count`, the beginning of the names.")]
    count: Annotated[int, Field(ge=1, le=COUNT_MAX, description="Make tokens for NODE-1 to NODE-COUNT.")] | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, description="Labels by which rollouts select it.")] = Field(
        default_factory=dict
    )
    cohort: Annotated[Cohort, Field(description="Cohort whose windows are added up with the node's.")] | None = None
    seconds: Annotated[int, Field(ge=1, le=EXPIRES_DAYS_MAX * 86_400, description="Lifetime of the tokens.")] = 86_400
    replace: Annotated[bool, Field(description="Replace an enrolled node: its certificate is revoked when the token is used.")] = False


class EnrolmentToken(Shown):
    """Hold a token that lets one device in by this name, once."""

    node: str
    token: str
    expires: str
    command: str


class EnrolmentTokens(Shown):
    """Hold the tokens that were made: they are shown in this answer only."""

    items: list[EnrolmentToken]
    warnings: list[str]


class ReplaceNode(Asked):
    """Let new hardware in by a node's name."""

    fingerprint: Annotated[str, Field(pattern=SHA256_PATTERN, max_length=64, description="SHA-256 of the device's key.")] | None = None
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

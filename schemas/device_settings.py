"""Define what the hub sets of one node: labels, cohort, budgets and telemetry. The site's own file bounds and overrides it."""

from typing import Annotated, Final, Literal

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact, Since
from schemas.names import Cohort, Digest, Label, NodeId
from schemas.patterns import in_words
from schemas.quantities import Count, Seconds

Settable = Literal["labels", "cohort", "budgets", "telemetry"]
SETTABLE: Final[tuple[Settable, ...]] = ("labels", "cohort", "budgets", "telemetry")
_CLOCK = r"(([01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)"
HOURS_PATTERN: Final = in_words(rf"^{_CLOCK}-{_CLOCK}$", "span of hours", "hours such as 22:00-05:00")


class LinkBudget(Fact):
    """Limit what one class of link is used for; a field that is left out sets nothing."""

    bytes_day_max: Count | None = None
    hours: Annotated[str, Field(max_length=16, pattern=HOURS_PATTERN)] | None = None  # Such as 22:00-05:00.
    full_download: bool | None = None


class DeviceSettings(Document):
    """Set what a node takes from its hub. `serial` only rises, so an older statement cannot be replayed."""

    schema_name = "device-settings"
    schema_minor = 1
    bytes_max = limits.NODE_SETTINGS_BYTES_MAX

    node: NodeId
    serial: Annotated[int, Field(ge=1, le=2**53)]
    expires: Seconds
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] | None = None
    cohort: Cohort | None = None
    telemetry: bool | None = None
    display_name: Annotated[str, Field(max_length=64)] | None = None
    budgets: Annotated[dict[Label, LinkBudget], Field(max_length=3)] | None = None  # By class of link: free, metered, roaming.
    # SHA-256 of a device's key that the hub does not believe, because another one counts under this name.
    key_refused: Annotated[Digest | None, Since(1)] = None

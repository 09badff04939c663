"""Define what the hub sets of one node: labels, cohort, budgets and telemetry. The site's own file bounds and overrides it."""

from typing import Annotated

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact
from schemas.names import Cohort, Label, NodeId
from schemas.quantities import Count, Seconds


class LinkBudget(Fact):
    """Limit what one class of link is used for; a field that is left out sets nothing."""

    bytes_day_max: Count | None = None
    hours: Annotated[str, Field(max_length=16)] | None = None
    full_download: bool | None = None


class DeviceSettings(Document):
    """Set what a node takes from its hub. `serial` only rises, so an older statement cannot be replayed."""

    schema_name = "device-settings"
    bytes_max = limits.NODE_SETTINGS_BYTES_MAX

    node: NodeId
    serial: Annotated[int, Field(ge=1, le=2**53)]
    expires: Seconds
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] | None = None
    cohort: Cohort | None = None
    telemetry: bool | None = None
    display_name: Annotated[str, Field(max_length=64)] | None = None
    budgets: Annotated[dict[Label, LinkBudget], Field(max_length=3)] | None = None  # by class of link: free, metered, roaming

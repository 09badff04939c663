"""Define a node's retained report about itself; the Will is the same document with status `lost`."""

from typing import Annotated, Final, Literal

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact, Since
from schemas.names import Cohort, Digest, Label, ModelName, NodeId, Version
from schemas.parameters import Setting
from schemas.quantities import Count, Seconds

REPORT_SECONDS: Final = 300  # How often a node reports at least, unless it says something else.
SlotState = Literal["idle", "fetching", "out_of_budget", "staged", "testing", "shadow", "probation", "active", "refused", "rolled_back"]

LinkClass = Literal["free", "metered", "roaming"]


class Slot(Fact):
    """Report one model on a node: the release that it serves, and the one that it is moving to."""

    model: ModelName
    state: SlotState
    serving: Digest | None = None
    serving_version: Version | None = None
    target: Digest | None = None
    target_version: Version | None = None
    last_good: Digest | None = None  # Release that is also on disk: another may be sent as a delta against it.
    code: Annotated[str, Field(max_length=64)] = ""  # Why it was refused, rolled back, or waits.
    bytes_planned: Count = 0
    bytes_received: Count = 0
    bytes_reused: Count = 0
    bytes_wasted: Count = 0
    variant: Label | None = None  # Variant that is served.
    parameters: Annotated[tuple[Setting, ...], Field(max_length=limits.PARAMETERS_MAX)] | None = None  # Parameters in force.


class Profile(Fact):
    """Describe the device, to select a variant."""

    arch: Label
    cores: Annotated[int, Field(ge=1, le=4096)]
    memory_bytes: Count
    providers: Annotated[tuple[Label, ...], Field(max_length=16)] = ()
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    runtimes: Annotated[tuple[Label, ...], Field(max_length=16)] | None = None


class TelemetryBudget(Fact):
    """Report how telemetry does. Exact counts of rows' traces stay on the device (schemas/disclosure.py)."""

    rho_spent: Annotated[float, Field(ge=0)]  # Privacy spent today, as zCDP rho. It leaves as 0: it would count the hours that had rows.
    rho_day_max: Annotated[float, Field(ge=0)]
    # Still read, no longer sent, as the four that follow.
    windows_waiting: Count = 0
    windows_withheld: Count = 0  # Windows that were not sent, because the budget was spent.
    windows_merged: Count | None = None  # Waiting windows that were added to another one, because there were too many.
    windows_dropped: Count | None = None  # Waiting windows that could be added to no other.
    # Intervals that rows arrived for after their window was closed; the number of rows is not reported.
    intervals_late: Count | None = None
    calibrating: Annotated[tuple[ModelName, ...], Field(max_length=limits.SLOTS_MAX)] | None = None  # Models without an own baseline yet.
    # It only grows; if it shrinks, an old ledger was put back. It leaves rounded up to a multiple of `disclosure.LEDGER_STEP`.
    ledger_entries: Count | None = None
    code: Annotated[str, Field(max_length=64)] | None = None  # Why nothing is sent.


FindingKind = Literal["trust", "rollout", "model", "release", "settings", "site"]


class Finding(Fact):
    """Report one thing that is wrong with the node now: a document that it refused, or a file of its own site.

    Kinds: `trust`, `model` and `settings` are what the hub retains on those topics, `rollout` and `release` one document in them, `site` a
    file or setting of the site.
    """

    kind: Label  # One of `FindingKind`, or one that a newer node knows.
    model: ModelName | None = None
    version: Annotated[str, Field(max_length=64)] | None = None  # The release that it is about, if it is about one.
    code: Annotated[str, Field(min_length=1, max_length=64)]
    reason: Annotated[str, Field(max_length=limits.FINDING_TEXT_MAX)] = ""


class SettingsInForce(Fact):
    """Report which of the hub's settings are in force on the node; `ignored` names those that its site does not accept."""

    serial: Annotated[int, Field(ge=1, le=2**53)]
    display_name: Annotated[str, Field(max_length=64)] = ""
    ignored: Annotated[tuple[Label, ...], Field(max_length=8)] = ()


class LeftOut(Fact):
    """Count what a state does not say, because it would be too large: the newest slots are said."""

    slots: Count = 0
    parameters: Count = 0  # Slots whose parameters are left out.
    reasons: Count = 0  # Findings whose reason is cut short.


class State(Document):
    """Report a node's state. `session` rises with every CONNECT: a Will of an older session is ignored."""

    schema_name = "state"
    schema_minor = 3
    bytes_max = limits.STATE_BYTES_MAX

    node: NodeId
    session: Annotated[int, Field(ge=1, le=2**53)]
    status: Literal["online", "disconnected", "lost"]
    at: Seconds
    software: Annotated[str, Field(max_length=64)] = ""
    public_key: Annotated[bytes, Field(max_length=256)] = b""  # DER SubjectPublicKeyInfo of the device's key.
    cohort: Cohort | None = None
    link: LinkClass | None = None  # Cost class of its link.
    profile: Profile | None = None
    packet_bytes_max: Count = 0
    root_version: Count = 0
    timestamp_version: Count = 0
    stale: bool = False  # Metadata has expired: the active release keeps serving, and nothing new is activated.
    slots: Annotated[tuple[Slot, ...], Field(max_length=limits.SLOTS_MAX)] = ()
    telemetry: TelemetryBudget | None = None
    # What is wrong now; absent if the node is older, or does not know that the hub reads it (`READS_FIELD`).
    findings: Annotated[tuple[Finding, ...] | None, Field(max_length=limits.NODE_FINDINGS_MAX), Since(1)] = None
    # How often it reports at least; absent if that is as usual, or like `findings`.
    report_seconds: Annotated[int | None, Field(ge=1, le=2**31), Since(1)] = None
    settings: Annotated[SettingsInForce | None, Since(2)] = None  # Absent if the hub has set nothing, or reads only older states.
    left_out: Annotated[LeftOut | None, Since(3)] = None  # Absent if everything is said, or the hub reads only older states.

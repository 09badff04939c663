"""What a node reports of itself, retained; the Will is the same document with status `lost`."""

from typing import Annotated, Literal

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact
from schemas.names import Cohort, Digest, Label, ModelName, NodeId, Version
from schemas.parameters import Setting
from schemas.quantities import Count, Seconds

SlotState = Literal["idle", "fetching", "out_of_budget", "staged", "testing", "shadow", "probation", "active", "refused", "rolled_back"]

LinkClass = Literal["free", "metered", "roaming"]


class Slot(Fact):
    """One model on a node: what it serves, and what it is busy becoming."""

    model: ModelName
    state: SlotState
    serving: Digest | None = None
    serving_version: Version | None = None
    target: Digest | None = None
    target_version: Version | None = None
    last_good: Digest | None = None  # on disk as well: a release may be sent as a delta against it
    code: Annotated[str, Field(max_length=64)] = ""  # why it was refused, rolled back, or waits
    bytes_planned: Count = 0
    bytes_received: Count = 0
    bytes_reused: Count = 0
    bytes_wasted: Count = 0
    variant: Label | None = None  # that is served
    parameters: Annotated[tuple[Setting, ...], Field(max_length=limits.PARAMETERS_MAX)] | None = None  # in force


class Profile(Fact):
    """What selects a variant."""

    arch: Label
    cores: Annotated[int, Field(ge=1, le=4096)]
    memory_bytes: Count
    providers: Annotated[tuple[Label, ...], Field(max_length=16)] = ()
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    runtimes: Annotated[tuple[Label, ...], Field(max_length=16)] | None = None


class TelemetryBudget(Fact):
    """What the node's windows have spent of today's privacy budget, as zCDP rho."""

    rho_spent: Annotated[float, Field(ge=0)]
    rho_day_max: Annotated[float, Field(ge=0)]
    windows_waiting: Count = 0
    windows_withheld: Count = 0  # not sent, because the budget was spent
    windows_merged: Count | None = None  # that waited, added to another one since there were too many
    windows_dropped: Count | None = None  # that waited, and could be added to no other
    intervals_late: Count | None = None  # that rows came for after their window was closed; how many rows is told to nobody
    calibrating: Annotated[tuple[ModelName, ...], Field(max_length=limits.SLOTS_MAX)] | None = None  # models without an own baseline yet
    ledger_entries: Count | None = None  # it only grows: whoever sees it shrink knows that an old one was put back
    code: Annotated[str, Field(max_length=64)] | None = None  # why nothing is sent


class State(Document):
    """`session` rises with every CONNECT: a Will of an older session is ignored."""

    schema_name = "state"
    bytes_max = limits.STATE_BYTES_MAX

    node: NodeId
    session: Annotated[int, Field(ge=1, le=2**53)]
    status: Literal["online", "disconnected", "lost"]
    at: Seconds
    software: Annotated[str, Field(max_length=64)] = ""
    public_key: Annotated[bytes, Field(max_length=256)] = b""  # DER SubjectPublicKeyInfo of the device's key
    cohort: Cohort | None = None
    link: LinkClass | None = None  # what its road costs
    profile: Profile | None = None
    packet_bytes_max: Count = 0
    root_version: Count = 0
    timestamp_version: Count = 0
    stale: bool = False  # metadata has expired: what is active keeps serving, nothing new is activated
    slots: Annotated[tuple[Slot, ...], Field(max_length=limits.SLOTS_MAX)] = ()
    telemetry: TelemetryBudget | None = None

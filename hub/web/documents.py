"""Define what the API takes and answers with. Unknown fields are refused; nothing is converted."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from hub.core.rollouts.tally import ClassName
from hub.operations.api_tokens import DAYS_MAX, NAME_CHARACTERS_MAX, Role
from schemas import limits
from schemas.deployments import PRIORITY_MAX
from schemas.names import Cohort, Label, ModelName, Version

T = TypeVar("T")
Selector = Annotated[str, Field(max_length=limits.SELECTOR_CHARACTERS_MAX, description="Selector of nodes, such as site=jfk,tier!=lab.")]
Times = Annotated[str, Field(max_length=200, description="Times of the week, such as Mon-Fri 22:00-05:00.")]
Parameter = float | Annotated[str, Field(max_length=limits.TEXT_MAX)] | dict[Label, str]


class Asked(BaseModel):
    """Be the base of what is sent to the API."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Shown(BaseModel):
    """Be the base of what the API answers with."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Shown, Generic[T]):
    """Hold some of a list. `next` is the cursor of the page behind it; absent where there is none."""

    items: list[T]
    next: str | None = None
    total: int | None = None


# What is asked


class GateTerms(Asked):
    """Say what must hold before the next stage; each has the default of `fleetcast rollout start`."""

    receipts_ratio_min: Annotated[float, Field(ge=0, le=1)] | None = None
    failures_ratio_max: Annotated[float, Field(ge=0, le=1)] | None = None
    soak_seconds: Annotated[int, Field(ge=0, le=30 * 24 * 3600)] | None = None
    silent_seconds: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] | None = None
    halt_on_drift: bool | None = None
    drift_tests_min: Annotated[int, Field(ge=0, le=2**31)] | None = None
    nodes_min: Annotated[int, Field(ge=1, le=2**31)] | None = None
    latency_ratio_max: Annotated[float, Field(gt=0, le=1000)] | None = None
    shadow_ratio_min: Annotated[float, Field(ge=0, le=1)] | None = None
    retries: Annotated[int, Field(ge=1, le=100)] | None = None
    retry_seconds: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] | None = None


class StartRollout(Asked):
    """Start a rollout."""

    model: ModelName
    version: Version
    deployment: ModelName | None = None
    where: Selector | None = None
    stages: Annotated[str, Field(max_length=2000, description="Such as 1,10,100, or 'canary: site=lab; 10; 100'.")] = "100"
    approve: Annotated[list[Annotated[int, Field(ge=1, le=100)] | Label], Field(max_length=limits.STAGES_MAX)] = []
    gate: GateTerms = GateTerms()
    node_bytes_max: Annotated[int, Field(ge=0, le=2**53)] | None = None
    full_download: bool | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    activate: Times | None = None
    fetch: Times | None = None
    deadline: Annotated[int, Field(ge=0, le=2**40, description="Seconds since 1970.")] | None = None
    parameters: Annotated[dict[Label, Parameter], Field(max_length=limits.PARAMETERS_MAX)] | None = None
    allow_empty: bool = False
    supersede: bool = False
    breaking: bool = False
    require_check: bool = False


class SetDeployment(Asked):
    """Make a deployment, or change it. What is absent stays as it is."""

    where: Selector | None = None
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX)] | None = None
    release: Version | None = None
    allow_empty: bool = False
    breaking: bool = False
    supersede: bool = False


class SetParameters(Asked):
    """Change parameters of the release that is rolled out."""

    parameters: Annotated[dict[Label, Parameter], Field(max_length=limits.PARAMETERS_MAX)] = {}
    unset: Annotated[list[Label], Field(max_length=limits.PARAMETERS_MAX)] = []
    release: Version | None = None


class BudgetOfLink(Asked):
    """Bound what a node may fetch over links of one kind."""

    bytes_day_max: Annotated[int, Field(ge=0, le=2**53)] | None = None
    hours: Times | None = None
    full_download: bool | None = None


class ChangeSettings(Asked):
    """Change what the hub sets of a node. `unset` takes settings back: the device's own file decides again."""

    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] = {}
    cohort: Cohort | None = None
    telemetry: bool | None = None
    display_name: Annotated[str, Field(max_length=64)] | None = None
    budgets: Annotated[dict[Literal["free", "metered", "roaming"], BudgetOfLink], Field(max_length=3)] = {}
    unset: Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=64)] = []
    breaking: bool = False


class ChangeSettingsOfNodes(ChangeSettings):
    """Change what the hub sets of all nodes that a selector matches."""

    where: Selector


class PreviewSettings(ChangeSettings):
    """Ask what a change of settings would do to a node, or to all nodes that a selector matches."""

    node: Label | None = None
    where: Selector | None = None


class MakeToken(Asked):
    """Make a token."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
    role: Role
    days: Annotated[int, Field(ge=1, le=DAYS_MAX)] = 90


class BeginPublication(Asked):
    """Begin to publish a release that was built and signed elsewhere."""

    model: ModelName
    version: Version
    manifest: Annotated[str, Field(max_length=limits.MANIFEST_BYTES_MAX * 4 // 3 + 4, description="The signed manifest, in base64.")]


class PlanRollout(Asked):
    """Ask what a rollout would cost."""

    model: ModelName
    version: Version
    deployment: ModelName | None = None
    where: Selector | None = None
    activate: Times | None = None
    fetch: Times | None = None
    deadline: Annotated[int, Field(ge=0, le=2**40, description="Seconds since 1970.")] | None = None
    rates_bit_s: Annotated[dict[Literal["free", "metered", "roaming"], Annotated[float, Field(gt=0, le=1e15)]], Field(max_length=3)] = {}
    nodes: Annotated[bool, Field(description="List each node.")] = False


# What is answered


class PublicationShown(Shown):
    """Describe a release that is being published. `missing` has some of the payloads that are still to come, each with its bytes."""

    id: str
    model: str
    version: str
    state: Literal["open", "storing", "done", "refused"]
    missing: dict[str, int]
    missing_count: int
    missing_bytes: int
    received_bytes: int
    code: str = ""
    text: str = ""


class NodesOfKind(Shown):
    """Count nodes that are alike for somebody who builds a release."""

    arch: str | None
    reads_minors: bool
    serving: str | None
    nodes: int


class PublishingShown(Shown):
    """Hold what a publisher needs to know of a fleet to build and sign a release. Metadata is as TUF has it, in base64."""

    fleet: str
    roots: list[str]
    targets: str
    role: str | None
    role_version: int
    releases: list[str]
    packet_bytes_max: int | None
    block_bytes_max: int
    nodes: list[NodesOfKind]


class PlanSite(Shown):
    """Say what a site fetches."""

    site: str
    nodes: int
    fetches: int
    behind_a_relay: int


class PlanLink(Shown):
    """Say what is fetched over links of one class."""

    link: str
    nodes: int
    fetches: int
    bit_per_second: int
    seconds_longest: float
    longest: str


class PlanChange(Shown):
    """Name nodes for which another deployment would decide."""

    deployment: str | None
    nodes: list[str]


class PlanShown(Shown):
    """Say what a rollout would cost before it sends anything."""

    release: str
    deployment: str
    bytes_planned: int
    bytes_reused: int
    nodes_planned: int
    nodes: list[dict[str, Any]]
    sites: list[PlanSite]
    links: list[PlanLink]
    variants: list[dict[str, Any]]
    drift: dict[str, Any]
    first_install: list[dict[str, Any]]
    breaks: list[dict[str, Any]]
    changes: list[PlanChange]
    notes: list[str]
    none_fits: str


class TokenShown(Shown):
    """Describe a token, without what would let anybody use it."""

    id: str
    name: str
    role: Role
    state: Literal["good", "expired", "revoked"]
    made: str
    made_by: str
    expires: str
    revoked: str | None = None


class TokenMade(TokenShown):
    """Hold a new token: it is shown this once."""

    token: str


class Classes(Shown):
    """Count nodes by class; the classes add up to the nodes that a deployment decides for."""

    serving: int
    moving: int
    waiting: int
    refused: int
    rolled_back: int
    unreachable: int
    expired: int


class TroubleShown(Shown):
    """Describe one thing that is wrong with the hub itself now; `look` is the command to look at."""

    code: str
    text: str
    since: str | None = None
    look: str


class FleetShown(Shown):
    """Sum up the fleet. `classes` and `undecided` add up to `nodes`."""

    fleet: str
    as_of: str
    nodes: int
    classes: Classes
    undecided: int
    models: int
    rollouts: dict[str, int]
    drifting: int
    troubles: list[TroubleShown] = []
    unsigned: list[str] = []  # Keys that were changed and have not signed: what is wrong, and what mends it.
    last_event: int


class ModelShown(Shown):
    """Describe a model."""

    model: str
    releases: int
    newest: str | None
    rollout: str | None
    nodes_serving: int


class ReleaseShown(Shown):
    """Describe a release."""

    model: str
    version: str
    release: str
    digest: str
    created: str
    parent: str | None
    bytes: int
    blocks: int | None
    variants: list[str]
    signals: int
    description: str
    nodes_serving: int
    needed_as: str | None
    removable: bool
    frees: int | None


class DeploymentShown(Shown):
    """Describe a deployment; a model's deployments decide in the order in which they are listed."""

    model: str
    deployment: str
    priority: int
    where: str
    release: str
    runs: str | None
    fallback: str | None
    state: str
    percent: int
    matched: int
    decided: int
    serial: int


class StageShown(Shown):
    """Describe a stage; `approve` is null where it waits for no approval, and false once it was given."""

    stage: str
    where: str
    approve: bool | None


class GateShown(Shown):
    """Say how one gate has judged."""

    gate: str
    outcome: str
    sentence: str
    figure: float | None
    limit: float | None
    required: bool


class RefusedShown(Shown):
    """Name a node that cannot take the release, and why."""

    node: str
    code: str
    reason: str


class RolloutShown(Shown):
    """Describe a rollout; `classes` adds up to the nodes that its deployment decides for."""

    model: str
    deployment: str
    where: str
    priority: int
    version: str
    digest: str
    rollout: str
    fallback: str | None
    state: str
    stage: str
    percent: int
    stages: list[StageShown]
    activate: str | None
    fetch: str | None
    deadline: str | None
    attempt: int
    serial: int
    nodes: int
    heard: int
    silent: int
    serving: int
    failed: int
    reason: str
    gates: list[GateShown]
    classes: Classes
    refused: list[RefusedShown]
    parameters: dict[str, Any]


class NodeLineShown(Shown):
    """Say how far a node has come in the deployment that decides for it, and why."""

    model: str
    deployment: str
    node: str
    state: Annotated[ClassName, Field(description="Class of the node.")]
    code: str
    sentence: str
    serves: str | None
    since: str | None
    heard: str | None


class NodeModelShown(Shown):
    """Say what a node does with one model, by its receipts and reports."""

    model: str
    serving_version: str | None
    serving_digest: str | None
    reported_version: Annotated[str | None, Field(description="What it reports since in place of that, not signed yet.")] = None
    state: str
    target_version: str | None
    code: str
    bytes_planned: int
    bytes_received: int
    bytes_reused: int
    bytes_wasted: int
    variant: str | None
    parameters: list[dict[str, Any]]
    evidence: dict[str, Any] | None


class NodeShown(Shown):
    """Describe a node. `state` is the class of the model that needs somebody most; null where no deployment decides for it."""

    node: str
    status: str
    duplicate_since: str | None
    duplicate_last_at: str | None
    other_key_since: str | None
    last_seen: str
    session: int
    cohort: str | None
    software: str
    display_name: str | None
    settings_serial: int | None
    settings_ignored: list[str]
    labels: dict[str, str]
    arch: str | None
    stale: bool
    left_out: dict[str, int] | None
    findings: list[dict[str, Any]]
    rho_spent_today: float | None
    rho_day_max: float | None
    models: list[NodeModelShown]
    state: ClassName | None
    code: str
    sentence: str
    deployments: list[NodeLineShown]


class SettingsShown(Shown):
    """Say what the hub sets of a node, and what of it is in force there."""

    node: str
    serial: int
    expires: str | None
    set: dict[str, Any]
    serial_in_force: int
    state: str
    ignored: list[str]
    labels: dict[str, str]
    cohort: str | None
    sends_telemetry: bool | None


class MoveShown(Shown):
    """Name a node for which another deployment would decide, and the releases of both."""

    model: str
    node: str
    before: str | None
    before_release: str | None
    after: str | None
    release: str | None


class EffectShown(Shown):
    """Say what a change of settings would do. `keep_labels` are nodes that take no labels from the hub, by their own files."""

    nodes: list[str]
    known: int
    keep_labels: list[str]
    moves: list[MoveShown]


class Forgotten(Shown):
    """Say what was done to forget a node."""

    node: str
    certificates_revoked: int
    tokens_withdrawn: int


class DriftShown(Shown):
    """Describe one release in one cohort over time: its evidence, and the signals that moved."""

    model: str
    version: str
    cohort: str
    about: str
    state: str | None
    reason: str | None
    alarm: bool
    since: str | None
    signals: list[dict[str, Any]]
    evidence: float | None
    evidence_needed: float | None
    newest: str | None
    newest_at: int
    windows: int
    tested_signals: int


class AlertShown(Shown):
    """Describe an alert, as it was published."""

    id: int
    at: str
    kind: str
    model: str | None
    version: str | None
    cohort: str | None
    node: str | None
    code: str
    text: str
    since: str | None
    signals: list[str]
    actor: str | None


class EventShown(Shown):
    """Describe what happened; `facts` is what a program wants to know of it."""

    id: int
    at: str
    kind: str
    text: str
    actor: str | None
    facts: dict[str, Any]


class ChangeShown(Shown):
    """Describe a change of the fleet: who did what to what."""

    id: int
    at: str
    actor: str | None
    kind: str
    what: str
    model: str | None
    version: str | None
    serial: int | None
    rollout: str | None
    node: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: Annotated[str | None, Field(description="What the hub says of the state that followed.")]
    why: Annotated[str | None, Field(description="What the actor gave as the reason.")]


class OperationShown(Shown):
    """Describe what the hub was asked to do: `open` until it has obeyed or refused."""

    id: int
    kind: str
    model: str | None
    state: Literal["open", "done", "refused"]
    code: str
    text: str
    actor: str | None
    deployment: Annotated[str | None, Field(description="Deployment that it is about, where it was checked just now.")] = None
    warnings: list[str] = []
    notes: list[str] = []

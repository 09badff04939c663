"""Judge an agent by the status that it leaves for commands beside it. Reads neither clock nor file."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from node.core.delivery.byte_quota import Policy
from node.core.trust.clock import is_known, trusted_now
from schemas import limits
from schemas.document import Fact
from schemas.names import Cohort, Digest, FleetName, Label, ModelName, NodeId
from schemas.quantities import Count, Seconds
from schemas.state import Finding, LinkClass, SettingsInForce, Slot, TelemetryBudget

WRITTEN_SECONDS_MAX = 30  # an agent that is well says so at least this often
SILENT_SECONDS_MAX = 120  # and is not well when it has not for this long: reading a large model back from a slow card takes a minute
Line = Annotated[str, Field(max_length=limits.TEXT_MAX)]


class WorkerProcess(Fact):
    """Hold a release whose model is loaded; `pid` is None while a worker that died is being replaced."""

    digest: Digest
    pid: Count | None = None


class AgentStatus(Fact):
    """Hold `status.json`, which stays when the agent ends. Times are the wall clock's."""

    node: NodeId
    fleet: FleetName
    pid: Count
    software: Line
    started_at: Seconds
    written_at: Seconds
    ended_at: Seconds | None = None  # Set by an agent that ended in order.
    listen: Line  # where local programs ask
    key: Digest | None = None  # SHA-256 of the device's public key, by which an operator lets new hardware in.

    online: bool
    since: Seconds  # the agent is connected, or is not
    reason: Line = ""  # why not, or why it was not the last time
    session: Count = 0
    denied: Count = 0  # subscriptions, since it is connected
    short_connections: Count = 0  # Connections in a row that the broker accepted and that ended soon.
    ended_connections: Count = 0  # Connections that ended in the last `ENDED_SECONDS`, however long they had lasted.
    link: LinkClass = "free"
    policy: Policy | None = None  # The link's budget.
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]  # In force, as all that follows.
    cohort: Cohort | None = None
    sends_telemetry: bool | None = None
    hub_settings: SettingsInForce | None = None  # None where the hub sets nothing.
    certificate_expires: Seconds | None = None

    root_version: Count = 0
    timestamp_version: Count = 0
    expires: Seconds | None = None  # When the first role expires.
    timestamp_expires: Seconds | None = None

    answered_at: Seconds  # when the serving thread last answered
    workers: Annotated[tuple[WorkerProcess, ...], Field(max_length=4 * limits.SLOTS_MAX)] = ()
    slots: Annotated[tuple[Slot, ...], Field(max_length=limits.SLOTS_MAX)] = ()
    # Ids of the rollouts that these slots followed last, by model, as logs and traces have them.
    rollouts: Annotated[dict[ModelName, Line], Field(max_length=limits.SLOTS_MAX, default_factory=dict)]
    telemetry: TelemetryBudget | None = None
    findings: Annotated[tuple[Finding, ...], Field(max_length=limits.NODE_FINDINGS_MAX)] = ()  # What is wrong now, as in the node's state.
    error: Line = ""  # the last message that was refused, or bug that was survived
    error_at: Seconds | None = None
    read_only: Line = ""  # why the disk takes nothing: the node serves what it has, keeps nothing, and is not connected

    supervised: bool = False  # started by a service manager
    inherited: bool = False  # its socket is the service manager's
    superseded: bool = False  # Set by the next agent at its start, until its own first status.
    watchdog_seconds: float | None = None


class Verdict(StrEnum):
    """Describe how a node is, in one word."""

    SERVING = "serving"
    IDLE = "idle"  # it runs, and there is nothing to serve yet
    NOT_SERVING = "not_serving"  # something is to be served, and is not
    NOT_TURNING = "not_turning"  # the process is there, and has been silent for too long
    NOT_RUNNING = "not_running"


def judge(status: AgentStatus | None, *, running: bool, now: int) -> Verdict:
    """Return how a node is by its last status. A node without a broker is well: it serves what it has."""
    if not running:
        return Verdict.NOT_RUNNING
    if status is None or status.ended_at is not None or status.superseded:
        return Verdict.IDLE  # it has only just begun
    if abs(now - status.written_at) > SILENT_SECONDS_MAX:
        return Verdict.NOT_TURNING
    served = [slot.serving for slot in status.slots if slot.serving is not None]
    if not served:
        return Verdict.IDLE
    alive = {worker.digest for worker in status.workers if worker.pid is not None}
    answers = status.written_at - status.answered_at <= SILENT_SECONDS_MAX
    return Verdict.SERVING if answers and alive.issuperset(served) else Verdict.NOT_SERVING


def superseded(status: AgentStatus) -> AgentStatus:
    """Return what is left of a status once another agent has begun: neither a connection nor a worker."""
    return status.model_copy(update={"superseded": True, "online": False, "workers": ()})


def is_stale(expires: int | None, *, wall: int, floor: int) -> bool:
    """Return whether trusted metadata is too old for anything new, or nobody can say because the clock is not to be believed."""
    return not is_known(wall, floor) or (expires is not None and expires <= trusted_now(wall, floor))


def is_fresh(status: AgentStatus | None, *, wall: int, floor: int) -> bool:
    """Return whether the node has trusted metadata that has not expired, by a clock that can be trusted."""
    return status is not None and status.expires is not None and not is_stale(status.expires, wall=wall, floor=floor)


def workers_of(status: AgentStatus | None) -> dict[bytes, int | None]:
    """Return the process that serves each release; None while one that died is being replaced."""
    return {worker.digest: worker.pid for worker in status.workers} if status is not None else {}

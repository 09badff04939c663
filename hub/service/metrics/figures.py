"""Define the figures of a hub that a monitoring system reads: one frozen picture, made by the loop, read by another thread.

Nothing here grows with the number of nodes, windows or days: nodes are counted by class, and a rollout is one row.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hub.core.rollouts.deployments import Model
from hub.core.rollouts.fleet import Node, heard
from hub.core.rollouts.listening import Listened
from schemas.errors import Code

ROLLOUTS_MAX = 1000  # Deployments that are shown one by one, those that move first: each is a dozen series.
STATUSES = ("online", "disconnected", "lost", "silent")
CODES = frozenset(map(str, Code))
UNKNOWN = "unknown"  # A node of a newer version may report codes that this hub does not know: they make no series.


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """Hold how far one deployment's rollout has come."""

    model: str
    deployment: str
    version: str
    rollout: str
    state: str
    percent: int
    stage: int
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """Hold what the hub counts. Times are the wall clock's."""

    gathered_at: float
    connected: bool = False
    connection_changed_at: float = 0.0
    listening: bool = False
    nodes: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[str, int] = field(default_factory=dict)
    rollouts: tuple[RolloutFigures, ...] = ()
    rollouts_left_out: int = 0
    messages: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    alerts: Mapping[str, int] = field(default_factory=dict)
    tests: Mapping[str, int] = field(default_factory=dict)
    wants: int = 0
    blocks: int = 0
    block_bytes: int = 0
    blocks_waiting: int = 0
    expires: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    database_bytes: int | None = None
    disk_free_bytes: int = 0
    cpu_seconds: float = 0.0


def nodes_by_status(nodes: Iterable[Node], *, listened: Listened, silent_seconds: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many nodes have each status, and how many report each code. A node that was not heard for long is `silent`."""
    statuses, codes = Counter[str](), Counter[str]()
    for node in nodes:
        is_heard = heard(node, listened=listened, silent_seconds=silent_seconds)
        statuses[node.status if is_heard or node.status != "online" else "silent"] += 1
        codes.update({one.code if one.code in CODES else UNKNOWN for one in node.state.findings or ()})
    return {status: statuses[status] for status in STATUSES}, dict(codes)


def rollout_figures(models: Iterable[Model]) -> tuple[tuple[RolloutFigures, ...], int]:
    """Return the rollouts to show, those that move first, and how many are left out."""
    order = {"running": 0, "halted": 1, "rolled_back": 2, "done": 3}
    found = sorted(
        ((order[one.deployment.state], one.model, one.name, one) for model in models for one in model.rollouts), key=lambda row: row[:3]
    )
    shown = tuple(
        RolloutFigures(
            model=one.model,
            deployment=one.name,
            version=one.deployment.release.version,
            rollout=one.deployment.rollout.hex(),
            state=one.deployment.state,
            percent=one.deployment.percent,
            stage=one.deployment.stage + 1,
            classes={
                "addressed": one.tally.addressed,
                "heard": one.tally.heard,
                "serving": one.tally.serving,
                "failed": one.tally.failed,
                "silent": one.tally.silent,
            },
        )
        for *_, one in found[:ROLLOUTS_MAX]
    )
    return shown, len(found) - len(shown)

"""Hold what a simulation found: the curve, the bytes, the waits, the nodes that never arrive. Times are seconds from the start."""

from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal["stage", "schedule", "window", "budget", "link", "activation", "retry"]
REASONS: Final[tuple[Reason, ...]] = ("stage", "schedule", "window", "budget", "link", "activation", "retry")
MEANINGS: Final[dict[Reason, str]] = {
    "stage": "no stage has reached it yet",
    "schedule": "it is off",
    "window": "times to fetch or to switch are closed",
    "budget": "its bytes of the day or its hours are over",
    "link": "it fetches",
    "activation": "it loads and tests the release",
    "retry": "it failed, and the pause before a retry runs",
}


@dataclass(frozen=True, slots=True)
class Milestone:
    """Hold when a share of all nodes serves the release; `seconds` is None where that is never."""

    percent: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """Hold what the hub did to the rollout, and when."""

    seconds: float
    text: str
    percent: int


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Hold what crossed the links of one class. `bytes` are of payloads; `wire_bytes` have overhead and repeated packets besides."""

    link: str
    nodes: int
    bytes: int
    wire_bytes: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """Hold how one group fared: how many serve the release, the median and last of their times, and the hours waited by reason."""

    group: str
    link: str
    nodes: int
    serving: int
    median_seconds: float | None
    last_seconds: float | None
    waited_hours: tuple[tuple[Reason, float], ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """Hold nodes that never arrive, and why."""

    group: str
    nodes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Compare the model with the cores, on the sample's own nodes: seconds from being reached to having fetched, by quantile, and bytes."""

    nodes: int
    rows: tuple[tuple[str, float, float], ...]  # what, by the cores, by the model

    @property
    def worst(self) -> float:
        """Return the largest relative difference."""
        return max((abs(model / core - 1) for _, core, model in self.rows if core), default=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold everything that is printed, drawn or written."""

    nodes: int
    sampled: int
    seed: int
    start: int
    state: str
    reason: str
    ended_seconds: float | None  # When the hub ended the rollout.
    simulated_seconds: float
    milestones: tuple[Milestone, ...]
    curve: tuple[tuple[float, float], ...]  # seconds, share of the nodes that serve it
    steps: tuple[Step, ...]
    links: tuple[LinkBytes, ...]
    groups: tuple[GroupOutcome, ...]
    waited_hours: tuple[tuple[Reason, float], ...]
    missing: tuple[Missing, ...]
    agreement: Agreement | None

"""Count what was asked of each model, whatever release answered: for a monitoring system. Knows no HTTP."""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from schemas.errors import Code, FleetcastError, Refused

LATENCY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CLIENTS_FAULT: Final = {Code.REQUEST_INVALID, Code.SCHEMA_TOO_LARGE, Code.RELEASE_UNKNOWN}

Outcome = Literal["answered", "abandoned", "refused", "failed", "busy"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("answered", "abandoned", "refused", "failed", "busy")


@dataclass(slots=True)
class ModelTraffic:
    """Hold counts of one model. They only grow while the model is served here."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    rows: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_SECONDS) + 1))  # Answered requests by bucket.
    seconds: float = 0.0

    def answered(self, rows: int, seconds: float) -> None:
        """Count an answered request."""
        self.outcomes["answered"] += 1
        self.rows += rows
        self.latencies[bisect_left(LATENCY_SECONDS, seconds)] += 1
        self.seconds += seconds


class Traffic:
    """Hold counts by model. A name that no model here has is counted, and never kept: clients choose it."""

    def __init__(self) -> None:
        self.models: dict[str, ModelTraffic] = {}
        self.unmatched = 0

    def of(self, model: str) -> ModelTraffic:
        """Return the counts of a model that is served here."""
        found = self.models.get(model)
        if found is None:
            found = self.models[model] = ModelTraffic()
        return found

    def failed(self, model: str, error: FleetcastError, served: Collection[str]) -> None:
        """Count a request without an answer; `served` are the models that are known here."""
        if model not in served:
            self.unmatched += 1
        else:
            self.of(model).outcomes[outcome_of(error)] += 1

    def forget_others(self, served: Collection[str]) -> None:
        """Drop counts of models that are served no more."""
        for model in [model for model in self.models if model not in served]:
            del self.models[model]


def outcome_of(error: FleetcastError) -> Outcome:
    """Return whose fault it is that a request has no answer: the client's, the release's, or nobody's."""
    if not isinstance(error, Refused):
        return "busy"
    return "refused" if error.code in CLIENTS_FAULT else "failed"

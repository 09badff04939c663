"""What a measurement is, and how the results are kept."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of `bench/results.json`; `peer_value` was measured in the same run, by the same command."""

    name: str
    value: float
    unit: str
    goal: str
    peer: str
    peer_value: float | None
    command: str = "make bench"


def write(figures: Sequence[Figure]) -> None:
    """Put these figures in place of those of the same names; others stay."""
    kept = {row["name"]: row for row in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])}
    kept.update({figure.name: asdict(figure) for figure in figures})
    RESULTS.write_text(json.dumps([kept[name] for name in sorted(kept)], indent=2) + "\n")


def median(values: Sequence[float]) -> float:
    """The figure to quote."""
    return float(statistics.median(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])

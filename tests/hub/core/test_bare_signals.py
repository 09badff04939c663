"""What has no reference is counted into octaves: a few percent more across an edge are no drift, and four times as much is."""

import numpy as np
import pytest

from hub.core.drift import detector, interval_significance
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import of_signals
from hub.core.drift.scores import least_of, scores_of_signal
from schemas.signals import Signal

EDGES = tuple(1000 * 2.0**octave for octave in range(-9, 2))
LATENCY = Signal(name="service:latency_ms", kind="numeric", side="service", tensor="latency_ms", edges=EDGES, counts=(0,) * 13)
ERRORS = Signal(name="e", kind="categorical", side="service", tensor="error", categories=("answered", "failed"), counts=(0, 0, 0))
KNOWN = of_signals([LATENCY, ERRORS], rows=1, blocks=1, rho=0.0, sigma2=10.0)
NODES, ROWS, OWN = 30, 1000, 8192


def intervals(factor: float, failed: float = 0.0, missing: float = 0.0, count: int = 20) -> list[Part]:
    """Differences of nodes that all answer in 62 ms, a hair below an edge, and then in so many times that, or say no time any more."""
    rng, before = np.random.default_rng(2), np.zeros(16)
    before[np.searchsorted(EDGES, 62, side="right")] = before[13] = 1.0
    found = []
    for start in range(count):
        counts = np.zeros(16)
        counts[np.searchsorted(EDGES, 62 * factor, side="right")] = 1.0 - missing
        counts[12] = missing
        counts[13], counts[14] = 1 - failed, failed
        noise = rng.normal(0, np.sqrt(10.0 * NODES), 16)
        difference = np.round(NODES * ROWS * (counts - before) + noise).astype(int)
        share = ROWS / OWN
        found.append(
            Part(
                start=start,
                seconds=1,
                windows=NODES,
                rows=float(NODES * ROWS),
                counts=tuple(difference.tolist()),
                calibrated=True,
                reference_rows=NODES * ROWS * share,
                noise_units=NODES * (1 + share**2),
            )
        )
    return found


@pytest.mark.parametrize(
    ("factor", "failed", "missing", "expected"),
    [
        (1.0, 0.0, 0.0, set()),
        (1.1, 0.0, 0.0, set()),
        (1.9, 0.0, 0.0, set()),
        (1.9, 0.0, 0.004, set()),  # sure as that little is among so many rows, and far as the rank is by a bin
        (4.0, 0.0, 0.0, {LATENCY.name}),
        (0.2, 0.0, 0.0, {LATENCY.name}),
        (1.0, 0.0, 1.0, {LATENCY.name}),
        (1.0, 0.0, 0.1, {LATENCY.name}),
        (1.0, 0.04, 0.0, {"e"}),
    ],
)
def test_an_alarm_of_latency_is_of_about_three_times_as_much_or_of_none(
    factor: float, failed: float, missing: float, expected: set[str]
) -> None:
    state, over_time = detector.fresh(KNOWN), set()
    alone = set()
    for part in intervals(factor, failed, missing):
        alone |= {one.name for one in interval_significance.alarmed(interval_significance.test_interval(part, KNOWN), 1e-4)}
        state, evidence = detector.step(state, part, KNOWN)
        if evidence >= np.log(detector.RUN_LENGTH):
            over_time |= {one.name for one in detector.named(detector.signals(state, KNOWN))}

    assert (expected, expected) == (alone, over_time)


def test_only_numbers_without_a_reference_have_a_least_shift_of_their_own() -> None:
    known = Signal(name="x", kind="numeric", side="input", tensor="x", edges=(1.0, 2.0), counts=(5, 5, 5, 0))

    assert least_of(LATENCY) == pytest.approx(1.5 * np.sqrt(12) / 12, rel=0.06)
    assert (least_of(known), least_of(ERRORS)) == (0.0, 0.0)


@pytest.mark.parametrize("edges", [1, 2, 3])
def test_however_few_its_bins_a_number_can_move_by_the_least(edges: int) -> None:
    few = LATENCY.model_copy(update={"edges": EDGES[:edges], "counts": (0,) * (edges + 2)})

    rank = scores_of_signal(few)[:-1, 0]

    assert least_of(few) < float(np.ptp(rank))

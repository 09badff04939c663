"""What counting costs a request, and how many bytes a window is."""

import os
import time

import numpy as np

from bench.figures import Figure, median
from hub.core.drift.intervals import add_up
from hub.core.drift.windows import Taken
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.privacy import BitSource, discrete_gaussian
from node.core.telemetry.privatise import noised
from node.core.telemetry.sketch import Sketch
from schemas import codec
from schemas.signals import Privacy

SIGNALS, ROWS, EPSILON = 20, 100, 1.0
ROUNDS, REQUESTS = 7, 2000
DRAWS, MERGED, BATCH = 20_000, 20_000, 256  # a batch is what a hub takes in at a time


def measure() -> list[Figure]:
    """Twenty numeric signals, one row a request; a hundred rows a window."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5000, SIGNALS))
    specs = [SignalSpec(name=f"x{j}", kind="numeric", side="input", tensor="X", column=j) for j in range(SIGNALS)]
    baseline = build_baseline([(spec, reference[:, j]) for j, spec in enumerate(specs)], np.repeat(np.arange(20), 250))
    sketch = Sketch(baseline, 3600)
    requests = [np.ascontiguousarray(row[None, :], np.float32) for row in rng.normal(size=(REQUESTS, SIGNALS))]
    costs, appends = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for request in requests:
            sketch.observe({"X": request}, {}, 1, 1_000_000.0)
        costs.append((time.perf_counter() - began) / REQUESTS * 1e6)
        kept: list[bytes] = []
        began = time.perf_counter()
        for request in requests:
            kept.append(request.tobytes())
        appends.append((time.perf_counter() - began) / REQUESTS * 1e6)
    merged, plain = _merge_per_s(baseline)
    return [
        Figure("telemetry.sampler_per_s", _sampler_per_s(), "draws/s", ">= 100000", "", None),
        Figure("telemetry.merge_per_s", merged, "windows/s a core, 20 signals", ">= 73500", "number by number", plain),
        Figure(
            "telemetry.cost_us", median(costs), "µs an inference, 20 signals", "<= 50", "keeping the raw row in a list", median(appends)
        ),
        Figure("telemetry.window_bytes", _window_bytes(baseline, rng), "bytes", "<= 200", "raw float32 rows", float(ROWS * SIGNALS * 4)),
    ]


def _sampler_per_s() -> float:
    sigma2, bits = sigma2_for(EPSILON, 1e-6, SIGNALS), BitSource(os.urandom)
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        discrete_gaussian(DRAWS, sigma2, bits)
        rates.append(DRAWS / (time.perf_counter() - began))
    return median(rates)


def _merge_per_s(baseline) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Windows a second added to an interval on one core: ours, and one number after another."""
    rng = np.random.default_rng(1)
    windows = list(rng.integers(-60, 60, size=(MERGED, baseline.bins)))
    lists = [row.tolist() for row in windows[: MERGED // 20]]
    taken = [Taken(0, 3600, ROWS, 1, None, counts) for counts in windows]
    groups = rng.integers(0, 256, size=MERGED).tolist()
    ours, plain = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for at in range(0, MERGED, BATCH):
            add_up(taken[at : at + BATCH], groups[at : at + BATCH])
        ours.append(MERGED / (time.perf_counter() - began))
        began = time.perf_counter()
        sums = [0] * baseline.bins
        for row in lists:
            sums = [a + b for a, b in zip(sums, row, strict=True)]
        plain.append(len(lists) / (time.perf_counter() - began))
    return median(ours), median(plain)


def _window_bytes(baseline, rng) -> float:  # type: ignore[no-untyped-def]
    numerator, denominator = sigma2_for(EPSILON, 1e-6, SIGNALS)
    privacy = Privacy(epsilon=EPSILON, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=3600)
    bits = BitSource(os.urandom)
    sizes = []
    for _ in range(50):
        sketch = Sketch(baseline, 3600)
        sketch.observe({"X": rng.normal(size=(ROWS, SIGNALS)).astype(np.float32)}, {}, ROWS, 1_000_000.0)
        window = noised(
            sketch.take(1_000_000 // 3600 * 3600).tolist(),
            baseline=baseline,
            privacy=privacy,
            bits=bits,
            window_id=os.urandom(16),
            release=os.urandom(8),
            start=997200,
        )
        sizes.append(len(codec.encode(window)))
    return median(sizes)

"""What counting costs a request, and how many bytes a window is."""

import os
import time

import numpy as np

from bench.figures import Figure, median
from hub.core.baseline import SignalSpec, build_baseline
from hub.core.noise import sigma2_for
from node.core.leaving import noised
from node.core.privacy import BitSource
from node.core.sketch import Sketch
from schemas import codec
from schemas.signals import Privacy

SIGNALS, ROWS, EPSILON = 20, 100, 1.0
ROUNDS, REQUESTS = 7, 2000


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
    return [
        Figure(
            "telemetry.cost_us", median(costs), "µs an inference, 20 signals", "<= 50", "keeping the raw row in a list", median(appends)
        ),
        Figure("telemetry.window_bytes", _window_bytes(baseline, rng), "bytes", "<= 800", "raw float32 rows", float(ROWS * SIGNALS * 4)),
    ]


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

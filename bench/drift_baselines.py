"""Which default a release's own baselines need: `python -m bench.drift_baselines`; decision 0021 quotes what it prints. About 4 minutes.

The whole life of a fleet whose only change is who is online: a hundred nodes, each a carrier at an airport, gather their own baselines and
send differences from then on, by the rules of the product (noise, rounding down to a power of two, nothing judged of who gathers). Real
rows, with the noise of twelve watched columns and of three signals of the service; and the bytes of a window with all that.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import drift_ours as ours
from bench import drift_streams as streams
from hub.core.drift import interval_significance
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, ordinary
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.signals import Model, declared
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import Own, noised, noisy
from node.core.telemetry.sketch import Sketch
from schemas import codec
from schemas.manifest import Limits, Tensor
from schemas.signals import Baseline, Privacy

ROWS = (None, 256, 512, 1024, 2048, 4096)  # that a node calibrates over; None: it has no baseline of its own
WINDOWS = 2_000  # in which nothing but who is online changes
SHIFTED_FOR, REPEATS = 30, 15  # windows that a shift is waited for, and fleets that it is put into
SHIFTS = (0.1, 0.25)
SERVICE = ("service:latency_ms", "service:error", "service:memory_mib")
SERVICE_SIGNALS = len(SERVICE)
COHORT_MIN = 20

Ints = NDArray[np.int64]


@dataclass
class Fleet:
    """A hundred nodes and the hub's detector: `step` is one interval."""

    wanted: int | None
    seed: int
    signals: int = len(streams.FEATURES) + SERVICE_SIGNALS
    known: Ordinary = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.baseline = _baseline()
        self.sigma2 = streams.sigma2_of(1.0, self.signals)
        self.known = ordinary(self.baseline, self.sigma2)
        self.nodes, self.scenarios = ours.mixes()
        self.gathered: list[Ints] = [np.zeros(self.known.size, np.int64) for _ in self.nodes]
        self.rows = [0.0] * len(self.nodes)
        self.own: dict[int, tuple[Ints, int, int]] = {}  # counts, rows that they say they are of, and those as a window tells them
        self.stream, self.at = ours.Stream(self.known), 0
        self.gathers: bool | None = None  # of the newest interval, as long as no node has a baseline: whether it would have been an alarm

    def step(self, bins: Ints) -> tuple[bool, bool]:
        """Whether it is an alarm alone, and over time."""
        names = list(self.scenarios)
        online = self.scenarios[names[int(self.rng.integers(len(names)))]]
        groups = _groups()
        plain: list[Ints] = []
        differences: list[Ints] = []
        shares: list[float] = []
        for node in online.tolist():
            rows = groups[self.nodes[node]]
            exact = streams.counted(bins[rows[self.rng.integers(0, len(rows), streams.NODE_ROWS)]], self.known.size)
            counts = exact + ours.noise(self.rng, self.sigma2, 1, self.known.size)
            if node in self.own:
                own, said, told = self.own[node]
                differences.append(np.round(counts - streams.NODE_ROWS / said * own).astype(np.int64))
                shares.append(streams.NODE_ROWS / told)
                continue
            plain.append(counts)
            if self.wanted is not None:
                self._gather(node, exact, counts)
        self.at += 1
        self.gathers = None
        if len(differences) >= COHORT_MIN:
            return self._judge(_differences(differences, shares, self.at))
        if len(plain) < COHORT_MIN:
            return False, False
        part = ours.plain(np.sum(plain, axis=0), start=self.at, windows=len(plain), signals=len(self.known.names))
        if self.wanted is None:
            return self._judge(part)
        self.gathers = bool(interval_significance.alarmed(interval_significance.test_interval(part, self.known)))
        return False, False

    def _judge(self, part: Part) -> tuple[bool, bool]:
        return bool(interval_significance.alarmed(interval_significance.test_interval(part, self.known))), self.stream.step(part)

    def _gather(self, node: int, exact: Ints, counts: Ints) -> None:
        self.gathered[node] = self.gathered[node] + exact
        self.rows[node] += counts.sum() / len(self.known.names)
        if self.wanted is not None and self.rows[node] >= self.wanted:
            own = self.gathered[node] + ours.noise(self.rng, self.sigma2, 1, self.known.size)
            said = max(1, round(own.sum() / len(self.known.names)))
            self.own[node] = own, said, 1 << (said.bit_length() - 1)


def _differences(counts: Sequence[Ints], shares: Sequence[float], at: int) -> Part:
    return Part(
        start=at,
        seconds=1,
        windows=len(counts),
        rows=float(len(counts) * streams.NODE_ROWS),
        counts=tuple(np.sum(counts, axis=0).tolist()),
        calibrated=True,
        reference_rows=streams.NODE_ROWS * sum(shares),
        noise_units=sum(1 + share**2 for share in shares),
    )


_kept: dict[str, object] = {}


def _baseline() -> Baseline:
    if "baseline" not in _kept:
        values = streams.joined()[list(streams.FEATURES)].to_numpy(np.float64)
        reference = values[np.random.default_rng(8).permutation(len(values))[: streams.REFERENCE_ROWS]]
        _kept["baseline"] = streams.baseline_of(reference, streams.FEATURES, None)
    return _kept["baseline"]  # type: ignore[return-value]


def _groups() -> dict[tuple[str, str], NDArray[np.intp]]:
    if "groups" not in _kept:
        _kept["groups"] = streams.joined().groupby(["carrier", "origin"]).indices
    return _kept["groups"]  # type: ignore[return-value]


def _bins(shift: float) -> Ints:
    baseline, values = _baseline(), streams.joined()[list(streams.FEATURES)].to_numpy(np.float64)
    for column in streams.SHIFTED:
        values[:, column] += shift * values[:, column].std()
    return streams.binned(baseline, values)


def measure(wanted: int | None) -> dict[str, float]:
    """Shares of windows that are alarms, in percent, and how soon a shift is found."""
    still = _bins(0.0)
    fleet = Fleet(wanted, seed=1)
    gathering = unlike = alone = over_time = 0
    for _ in range(WINDOWS):
        one, more = fleet.step(still)
        gathering += fleet.gathers is not None
        unlike += fleet.gathers is True
        alone += one
        over_time += more
    judged = WINDOWS - gathering
    found = {"gathering": float(gathering), "unlike": float(unlike), "alone": 100 * alone / judged, "over time": 100 * over_time / judged}
    for shift in SHIFTS:
        found[f"shift {shift}"] = _delay(wanted, still, _bins(shift))
    return found


def _delay(wanted: int | None, still: Ints, moved: Ints) -> float:
    """Median windows until a shift is found by either test, from when every node has calibrated on."""
    delays = []
    for seed in range(REPEATS):
        fleet = Fleet(wanted, seed=100 + seed)
        for _ in range(math.ceil((wanted or 0) / streams.NODE_ROWS * 1.8) + 10):
            fleet.step(still)
        fleet.stream = ours.Stream(fleet.known)
        delays.append(next((at for at in range(1, SHIFTED_FOR + 1) if any(fleet.step(moved))), SHIFTED_FOR + 1))
    return float(np.median(delays))


def window_bytes() -> dict[str, float]:
    """Median bytes on the wire of a window of twenty columns and a hundred rows, epsilon 1, of a node in calm service."""
    rng, bits = np.random.default_rng(0), BitSource(os.urandom)
    rows = rng.normal(size=(5000, 20))
    values = [(SignalSpec(f"x{at}", "numeric", "input", "X", at), rows[:, at]) for at in range(20)]
    tensor = Tensor(name="X", datatype="FP32", shape=(-1, 20))
    model = Model((tensor,), (), Limits(), calibrates=True)
    bare = [one.bare() for one in declared(model, SERVICE)[0]]
    found = {}
    for name, unreferenced, owns in (("20 columns", (), False), ("the same, own baseline", (), True), ("and the service", bare, True)):
        baseline = build_baseline(values, None, unreferenced=unreferenced, calibration_rows=1024)
        sigma2 = streams.sigma2_fraction(1.0, len(baseline.signals))
        privacy = Privacy(epsilon=1.0, delta=streams.DELTA, sigma2_numerator=sigma2[0], sigma2_denominator=sigma2[1], window_seconds=3600)

        def counts(many: int, baseline: Baseline = baseline) -> list[int]:
            sketch = Sketch(baseline, 3600)
            for _ in range(many):
                service = {"latency_ms": rng.lognormal(1.0, 0.3), "error": "answered", "memory_mib": 100.0}
                sketch.observe({"X": rng.normal(size=(1, 20)).astype(np.float32)}, {}, 1, 0.0, service)
            return list(sketch.take(0).tolist())

        own = Own(noisy(counts(1024), privacy, bits), np.full(baseline.bins, 1024)) if owns else None
        sizes = []
        for _ in range(30):
            window = noised(
                counts(streams.NODE_ROWS),
                baseline=baseline,
                privacy=privacy,
                bits=bits,
                window_id=os.urandom(16),
                release=os.urandom(8),
                start=0,
                own=own,
            )
            sizes.append(len(codec.encode(window)))
        found[name] = float(np.median(sizes))
    return found


def main() -> int:
    """Print the table."""
    table = Table(
        "rows", "windows not judged", "unlike the reference", "alone, %", "over time, %", *(f"{one} sd, windows" for one in SHIFTS)
    )
    for wanted in ROWS:
        found = measure(wanted)
        shifts = [f"{found[f'shift {shift}']:g}" if wanted else "alarms anyway" for shift in SHIFTS]
        cells = [f"{found[name]:.3g}" for name in ("gathering", "unlike", "alone", "over time")]
        table.add_row(str(wanted or "none"), *cells, *shifts)
        print(f"  {wanted}: {found}", file=sys.stderr, flush=True)
    Console(width=120).print(table)
    for name, size in window_bytes().items():
        print(f"bytes of a window, {name}: {size:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which default a release's own baselines need: `python -m bench.drift_baselines`; decision 0021 quotes what it prints. About 6 minutes.

The whole life of a fleet whose only change is who is online: a hundred nodes, each a carrier at an airport, gather their own baselines and
send differences from then on, by the rules of the product (noise, rounding down to a power of two, newcomers that are not judged). Real
rows; every row of the table is of the same rows, with the noise of twelve watched columns and of three signals of the service.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import drift_ours as ours
from bench import drift_streams as streams
from hub.core import drift
from hub.core.evidence import Part
from hub.core.ordinary import Ordinary, ordinary
from schemas.signals import Baseline

ROWS = (None, 256, 512, 1024, 2048, 4096)  # that a node calibrates over; None: it has no baseline of its own
WINDOWS = 2_000  # in which nothing but who is online changes
SHIFTED_FOR, REPEATS = 30, 15  # windows that a shift is waited for, and fleets that it is put into
SHIFTS = (0.1, 0.25)
SERVICE_SIGNALS = 3
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
        self.stream, self.at, self.calibrated = ours.Stream(self.known), 0, False

    def step(self, bins: Ints) -> tuple[bool, bool, bool]:
        """Whether it is an alarm alone, and over time; and whether it was judged by own baselines."""
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
        alone = over_time = False
        if len(differences) >= COHORT_MIN:
            self.calibrated = True
            alone, over_time = self._judge(_differences(differences, shares, self.at))
        if len(plain) >= COHORT_MIN and not self.calibrated:  # else they are newcomers: shown, and not judged
            counts = np.sum(plain, axis=0)
            alone, over_time = self._judge(ours.plain(counts, start=self.at, windows=len(plain), signals=len(self.known.names)))
        return alone, over_time, self.calibrated

    def _judge(self, part: Part) -> tuple[bool, bool]:
        return bool(drift.alarmed(drift.test_interval(part, self.known))), self.stream.step(part)

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
    first = {"windows": 0, "alarms": 0}
    then = {"windows": 0, "alone": 0, "over time": 0}
    for _ in range(WINDOWS):
        alone, over_time, calibrated = fleet.step(still)
        if wanted is not None and not calibrated:
            first["windows"] += 1
            first["alarms"] += alone or over_time
        else:
            then["windows"] += 1
            then["alone"] += alone
            then["over time"] += over_time
    found = {"calibrates": float(first["windows"]), "alarms meanwhile": float(first["alarms"])}
    found |= {name: 100 * then[name] / then["windows"] for name in ("alone", "over time")}
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
        delays.append(next((at for at in range(1, SHIFTED_FOR + 1) if any(fleet.step(moved)[:2])), SHIFTED_FOR + 1))
    return float(np.median(delays))


def main() -> int:
    """Print the table."""
    table = Table("rows", "windows to calibrate", "alarms meanwhile", "alone, %", "over time, %", *(f"{one} sd, windows" for one in SHIFTS))
    for wanted in ROWS:
        found = measure(wanted)
        shifts = [f"{found[f'shift {shift}']:g}" if wanted else "alarms anyway" for shift in SHIFTS]
        cells = [f"{found[name]:.3g}" for name in ("calibrates", "alarms meanwhile", "alone", "over time")]
        table.add_row(str(wanted or "none"), *cells, *shifts)
        print(f"  {wanted}: {found}", file=sys.stderr, flush=True)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

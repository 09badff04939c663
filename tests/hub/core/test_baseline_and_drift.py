"""No alarm without drift, an alarm with it, at the stated rates, through noise and ordinary days."""

import numpy as np
import pytest

from hub.core.drift import interval_significance, intervals, windows
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import ordinary
from hub.core.publish.baseline import SignalSpec, build_baseline
from schemas.analytics_messages import SignalDrift
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.signals import Baseline, Privacy
from schemas.window import Window, expected_counts, pack_counts, write_counts

pytestmark = pytest.mark.heavy

SIGMA2 = 357.0
SIGNALS = 4


def reference(rng: np.random.Generator, *, days: int = 0, spread: float = 0.0) -> Baseline:
    rows = 6000
    keys = np.repeat(np.arange(days), rows // days) if days else None
    shift = np.repeat(rng.normal(0, spread, (days, SIGNALS)), rows // days, axis=0) if days else 0.0
    values = rng.normal(size=(rows, SIGNALS)) + shift
    return build_baseline([(SignalSpec(f"s{j}", "numeric", "input", "X", j), values[:, j]) for j in range(SIGNALS)], keys)


def counted(baseline: Baseline, values: np.ndarray, rng: np.random.Generator, nodes: int) -> list[int]:
    found: list[int] = []
    for j, signal in enumerate(baseline.signals):
        ordinary = np.isfinite(values[:, j])
        bins = np.where(ordinary, np.searchsorted(signal.edges, values[:, j], side="right"), signal.bins - 1)
        counts = np.bincount(bins, minlength=signal.bins) + np.round(rng.normal(0, np.sqrt(nodes * SIGMA2), signal.bins))
        found.extend(int(count) for count in counts)
    return found


def found_of(baseline: Baseline, counts: list[int], nodes: int) -> tuple[SignalDrift, ...]:
    part = Part(start=0, seconds=3600, windows=nodes, rows=sum(counts) / len(baseline.signals), counts=tuple(counts))
    return interval_significance.test_interval(part, ordinary(baseline, SIGMA2))


def alarms(baseline: Baseline, rng: np.random.Generator, *, nodes: int, shift: float, trials: int, spread: float = 0.0) -> float:
    raised = 0
    for _ in range(trials):
        values = rng.normal(size=(100 * nodes, SIGNALS)) + rng.normal(0, spread, SIGNALS)
        values[:, 0] += shift
        raised += bool(interval_significance.alarmed(found_of(baseline, counted(baseline, values, rng, nodes), nodes)))
    return raised / trials


@pytest.mark.parametrize("nodes", [1, 10, 100])
def test_without_drift_there_are_no_more_alarms_than_alpha(nodes: int) -> None:
    rng = np.random.default_rng(nodes)

    rate = alarms(reference(rng), rng, nodes=nodes, shift=0.0, trials=400)

    assert rate <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 400)


def test_a_shift_of_half_a_deviation_is_seen_by_a_hundred_nodes_at_once() -> None:
    rng = np.random.default_rng(1)

    assert alarms(reference(rng), rng, nodes=100, shift=0.5, trials=50) >= 0.98


def test_ordinary_differences_between_days_are_no_drift_when_the_reference_has_days() -> None:
    rng = np.random.default_rng(2)

    with_days = alarms(reference(rng, days=30, spread=0.3), rng, nodes=50, shift=0.0, trials=150, spread=0.3)
    without = alarms(reference(rng), rng, nodes=50, shift=0.0, trials=50, spread=0.3)

    assert with_days <= 0.06
    assert without >= 0.5  # what every test without the term does


def test_the_alarm_names_the_signal_and_its_direction() -> None:
    rng = np.random.default_rng(3)
    baseline = reference(rng)
    values = rng.normal(size=(5000, SIGNALS))
    values[:, 2] -= 1.0

    raised = interval_significance.alarmed(found_of(baseline, counted(baseline, values, rng, 50), 50))

    assert [(one.name, one.direction) for one in raised] == [("s2", "lower")]
    assert "s2 is lower" in interval_significance.in_words(raised)


def test_the_size_of_a_shift_is_not_that_of_the_noise_in_a_bin_that_is_never_used() -> None:
    rng = np.random.default_rng(8)
    baseline = reference(rng)
    values = rng.normal(size=(5000, SIGNALS))
    values[:, 2] -= 1.0

    sizes = [interval_significance.alarmed(found_of(baseline, counted(baseline, values, rng, 50), 50))[0].size for _ in range(20)]

    assert 0.7 <= np.median(sizes) <= 1.6  # one standard deviation of the values; "other" alone has one of 30 in this noise


def test_a_flood_of_values_that_are_no_numbers_is_an_alarm() -> None:
    rng = np.random.default_rng(4)
    baseline = reference(rng)
    values = rng.normal(size=(5000, SIGNALS))
    values[:2000, 1] = np.nan

    raised = interval_significance.alarmed(found_of(baseline, counted(baseline, values, rng, 50), 50))

    assert [one.name for one in raised] == ["s1"]


def test_an_interval_without_rows_says_nothing() -> None:
    baseline = reference(np.random.default_rng(5))

    signals = found_of(baseline, [0] * sum(s.bins for s in baseline.signals), 3)

    assert {one.p_value for one in signals} == {1.0}


def test_a_constant_column_makes_a_baseline() -> None:
    baseline = build_baseline([(SignalSpec("c", "numeric", "input", "X"), np.ones(100))], None)

    assert sum(baseline.signals[0].counts) == 100


def test_the_same_reference_makes_the_same_baseline() -> None:
    assert reference(np.random.default_rng(6), days=10, spread=0.1) == reference(np.random.default_rng(6), days=10, spread=0.1)


# Which windows are believed


def manifest(baseline: Baseline) -> Manifest:
    block = Block(sha256(b"x"), 1)
    return Manifest(
        model="m",
        version="1.0.0",
        created=1,
        inputs=(Tensor(name="X", datatype="FP32", shape=(-1, SIGNALS)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
        variants=(Variant(name="v", files=(File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,)),)),),
        baseline=baseline,
        privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=357, sigma2_denominator=1, window_seconds=3600),
    )


BASELINE = reference(np.random.default_rng(9))
BINS = sum(signal.bins for signal in BASELINE.signals)


def window(counts: list[int], *, rows: int = 100, start: int = 7200, seconds: int = 3600) -> Window:
    packed = pack_counts(counts, expected_counts(BASELINE, rows)) if len(counts) == BINS else bytes(len(counts))
    return Window(id=bytes(16), release=bytes(8), start=start, seconds=seconds, rows=rows, counts=packed)


def test_a_plausible_window_is_believed_as_it_is() -> None:
    rng = np.random.default_rng(10)
    counts = [int(one + rng.normal(0, 18.9)) for one in expected_counts(BASELINE, 100)]

    assert windows.Reader(manifest(BASELINE)).read(window(counts), now=10_000).counts.tolist() == counts


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (window([10**9] * BINS), Code.WINDOW_ABSURD),
        (window([-500] * BINS), Code.WINDOW_ABSURD),
        (window([3000, *[0] * (BINS - 1)]), Code.WINDOW_ABSURD),
        (window(list(expected_counts(BASELINE, 5_000_000)), rows=5_000_000), Code.WINDOW_OVERWEIGHT),
        (window([0] * (BINS - 1)), Code.WINDOW_SHAPE),
        (window([11] * BINS, seconds=60), Code.WINDOW_SHAPE),
        (window([11] * BINS, start=7201), Code.WINDOW_SHAPE),
        (window([11] * BINS, start=3600 * 1000), Code.WINDOW_FUTURE),
    ],
)
def test_a_window_that_cannot_be_is_refused_with_its_code(bad: Window, code: Code) -> None:
    with pytest.raises(Refused) as refusal:
        windows.Reader(manifest(BASELINE)).read(bad, now=10_000)

    assert refusal.value.code is code


OWN = BASELINE.model_copy(update={"calibration_rows": 1024})


def difference(counts: list[int] | None = None, *, rows: int = 500, own_rows_log2: int = 10, **changes: int) -> Window:
    values = np.zeros(BINS, np.int64) if counts is None else np.array(counts, np.int64)
    privacy = manifest(OWN).privacy
    assert privacy is not None
    packed = write_counts(values, center=None, privacy=privacy)
    fields = {"id": bytes(16), "release": bytes(8), "start": 7200, "seconds": 3600, "rows": rows, "packed": packed}
    return Window(**{**fields, "own_rows_log2": own_rows_log2, **changes})  # type: ignore[arg-type]


def test_differences_say_how_much_noise_and_sampling_is_in_them() -> None:
    taken = windows.Reader(manifest(OWN)).read(difference(), now=10_000)

    assert (taken.calibrated, taken.reference_rows, taken.noise_units) == (True, 500 * 500 / 1024, 1 + (500 / 1024) ** 2)


def test_a_window_weighs_no_more_rows_than_its_own_baseline_supports() -> None:
    counts = [8000, -8000, *[0] * (BINS - 2)]

    taken = windows.Reader(manifest(OWN)).read(difference(counts, rows=16 * 1024), now=10_000)

    assert (taken.rows, taken.reference_rows) == (4 * 1024, 4 * 4 * 1024)
    assert taken.counts[:2].tolist() == pytest.approx([2000, -2000], abs=2)


def test_windows_that_were_added_up_say_how_many() -> None:
    taken = windows.Reader(manifest(OWN)).read(difference(seconds=4 * 3600, start=4 * 3600, units=3, rows=1500), now=20_000)

    assert (taken.noises, taken.seconds) == (3, 4 * 3600)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (difference([2000, *[0] * (BINS - 1)]), Code.WINDOW_ABSURD),
        (difference([140] * BINS), Code.WINDOW_ABSURD),
        (difference([-140] * BINS), Code.WINDOW_ABSURD),
        (difference(own_rows_log2=3), Code.WINDOW_ABSURD),
        (difference(seconds=3 * 3600, start=3 * 3600, units=3), Code.WINDOW_SHAPE),
        (difference(seconds=2 * 3600, units=3), Code.WINDOW_SHAPE),
        (difference(seconds=2 * 3600, start=3600, units=2), Code.WINDOW_SHAPE),
        (difference(seconds=128 * 3600, start=0, units=2), Code.WINDOW_SHAPE),
        (difference(rows=2_000_000), Code.WINDOW_OVERWEIGHT),
        (difference(rows=1_000_000, own_rows_log2=8), Code.WINDOW_OVERWEIGHT),
        (difference(rows=64 * 1024 + 1), Code.WINDOW_OVERWEIGHT),
        (difference([0] * (BINS - 1)), Code.WINDOW_SHAPE),
    ],
)
def test_differences_that_cannot_be_are_refused_with_their_code(bad: Window, code: Code) -> None:
    with pytest.raises(Refused) as refusal:
        windows.Reader(manifest(OWN)).read(bad, now=10_000)

    assert refusal.value.code is code


def test_differences_of_a_release_that_declares_no_calibration_are_refused() -> None:
    with pytest.raises(Refused, match="declares no calibration"):
        windows.Reader(manifest(BASELINE)).read(difference(), now=10_000)


def test_windows_add_up_and_say_their_noise() -> None:
    counts = expected_counts(BASELINE, 100)
    taken = windows.Reader(manifest(BASELINE)).read(window(list(counts)), now=10_000)
    once = intervals.add_up([taken], [0])

    twice = intervals.merge(once, intervals.add_up([taken], [1]), tested=False)
    whole = intervals.interval(twice, release=bytes(32), model="m", cohort="c", start=taken.start, seconds=taken.seconds, calibrated=False)
    merged = windows.merged_window(whole, manifest(BASELINE))

    assert merged.windows == 2
    assert abs(merged.rows - 200) <= 8  # expected counts are whole numbers
    assert merged.noise_sd == pytest.approx(np.sqrt(2 * (357 + 2)))  # steps of five


def test_many_windows_are_read_as_each_alone_and_the_wrong_ones_refused_in_their_places() -> None:
    rng = np.random.default_rng(11)
    privacy = manifest(OWN).privacy
    assert privacy is not None
    mixed = []
    for number in range(60):
        rows, own = int(rng.integers(0, 400)), number % 3 == 0
        expected = np.zeros(BINS) if own else np.array(expected_counts(OWN, rows))
        counts = np.round(expected + rng.normal(0, 18.9, BINS)).astype(np.int64)
        if number % 7 == 0:
            counts[int(rng.integers(BINS))] += 3000
        if own:
            mixed.append(difference(counts.tolist(), rows=rows))
        else:
            packed = write_counts(counts, center=np.array(expected_counts(OWN, rows)), privacy=privacy)
            fields = {"id": bytes(16), "release": bytes(8), "start": 7200, "seconds": 3600, "rows": rows, "packed": packed}
            mixed.append(Window(**fields))  # type: ignore[arg-type]
    mixed += [difference(own_rows_log2=2), difference(rows=2_000_000), difference(start=3600 * 1000)]
    reader = windows.Reader(manifest(OWN))

    def alone(one: Window) -> object:
        try:
            return reader.read(one, now=10_000).counts.tolist()
        except Refused as refusal:
            return str(refusal)

    found = [str(one) if isinstance(one, Refused) else one.counts.tolist() for one in reader.read_many(mixed, now=10_000)]

    assert found == [alone(one) for one in mixed]
    assert sum(isinstance(one, str) for one in found) == 12


def test_one_damaged_window_among_many_is_the_only_one_refused() -> None:
    good = difference()
    bad = good.model_copy(update={"packed": b"\xff\xff"})

    found = windows.Reader(manifest(OWN)).read_many([good, bad, good], now=10_000)

    assert [isinstance(one, Refused) for one in found] == [False, True, False]

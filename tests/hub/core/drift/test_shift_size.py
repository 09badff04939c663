"""How far a signal has moved: near the truth where it can be known, near nothing where it cannot, and its interval holds the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from hub.core.drift import detector, interval_significance, shift_size
from hub.core.drift.detector import Detector
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, of_signals
from hub.core.drift.shift_size import Size
from hub.core.publish.noise import sigma2_for
from schemas import codec
from tests.hub.core import drifting

pytestmark = pytest.mark.heavy

REFERENCE = 100_000
NODES, ROWS = 6, 100  # a small fleet: a hundred rows an hour and node
EDGES = ndtri(np.arange(1, drifting.BINS) / drifting.BINS)  # eight equal bins of a normal number


def sigma2(signals: int) -> float:
    """The variance of a window's noise at epsilon 1."""
    numerator, denominator = sigma2_for(1.0, 1e-6, signals)
    return numerator / denominator


def two_classes(share: float = 0.5) -> Ordinary:
    """A label of two classes, one of twelve signals: `other` is never seen, and its noise is that of every bin."""
    counts = [round(REFERENCE * (1 - share)), round(REFERENCE * share), 0]
    return of_signals([drifting.signal("label", counts, kind="categorical")], rows=REFERENCE, blocks=1, rho=0.0, sigma2=sigma2(12))


def a_number(*, sigma2: float) -> Ordinary:
    """A normal number of eight equal bins."""
    return drifting.flat(1, rows=REFERENCE // drifting.BINS * drifting.BINS, sigma2=sigma2)


def hour_of(
    rng: np.random.Generator, shares: np.ndarray, ordinary: Ordinary, *, nodes: int = NODES, rows: int = ROWS, start: int = 0
) -> Part:
    """An hour of so many rows a node, with the noise of each node's window."""
    counts = rng.multinomial(nodes * rows, shares) + drifting.noise(rng, ordinary.sigma2, nodes, (len(shares),))
    return drifting.part(counts[None], start=start, windows=nodes)


def shifted(shift: float) -> np.ndarray:
    """Shares of a normal number that is higher by so many standard deviations."""
    return np.append(np.diff(np.concatenate([[0.0], ndtr(EDGES - shift), [1.0]])), 0.0)


def size_of(part: Part, ordinary: Ordinary) -> Size:
    (found,) = shift_size.estimate(shift_size.counted(part, ordinary), ordinary)
    return found


def test_two_classes_of_a_small_fleet_move_by_points_and_not_by_deviations() -> None:
    rng, ordinary = np.random.default_rng(1), two_classes()
    found = [size_of(hour_of(rng, np.array([0.33, 0.67, 0.0]), ordinary), ordinary) for _ in range(100)]

    assert {one.unit for one in found} == {"share"}
    assert np.mean([one.low <= 0.17 <= one.high for one in found]) >= 0.9
    assert 0.10 <= np.median([one.value for one in found]) <= 0.20
    assert max(one.value for one in found) <= 0.4  # it was 9 standard deviations


@pytest.mark.parametrize("signals", [1, 12])
def test_a_quiet_hour_of_few_rows_has_moved_by_about_nothing(signals: int) -> None:
    rng = np.random.default_rng(2)
    label, number = two_classes(), a_number(sigma2=sigma2(signals))
    labels = [size_of(hour_of(rng, np.array([0.5, 0.5, 0.0]), label), label) for _ in range(200)]
    numbers = [size_of(hour_of(rng, shifted(0.0), number), number) for _ in range(200)]

    for found in (labels, numbers):
        assert np.mean([one.low == 0.0 for one in found]) >= 0.85
        assert float(np.median([one.value for one in found])) == 0.0
    assert max(one.value for one in labels) <= 0.2
    assert max(one.value for one in numbers if one.unit == "sd") <= 0.7


@pytest.mark.parametrize("shift", [-2.0, -0.5, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("hours", [1, 8])
def test_the_interval_of_a_shift_holds_the_truth_nine_times_in_ten(shift: float, hours: int) -> None:
    rng, ordinary, trials = np.random.default_rng(abs(int(100 * shift)) + hours), a_number(sigma2=sigma2(12)), 200
    held, values = 0, []
    for _ in range(trials):
        parts = [hour_of(rng, shifted(shift), ordinary, nodes=20, start=hour) for hour in range(hours)]
        found = shift_size.estimate(shift_size.together([shift_size.counted(one, ordinary) for one in parts]), ordinary)[0]
        if found.unit == "sd":
            held += found.low <= abs(shift) <= found.high
            values.append(math.copysign(found.value, found.effect))
        else:  # led by chance in another direction: then the largest change of a share
            held += found.low <= np.abs(shifted(shift) - shifted(0.0)).max() <= found.high

    assert held >= 0.85 * trials
    assert abs(float(np.median(values)) - shift) <= 0.15


@pytest.mark.parametrize("moved", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("categories", [2, 12])
def test_the_interval_of_a_share_holds_the_truth_nine_times_in_ten(moved: float, categories: int) -> None:
    rng, trials = np.random.default_rng(categories), 200
    shares = np.full(categories, 1 / categories)
    counts = np.append(np.round(shares * REFERENCE).astype(int), 0)
    ordinary = of_signals(
        [drifting.signal("label", counts.tolist(), kind="categorical")], rows=int(counts.sum()), blocks=1, rho=0.0, sigma2=sigma2(12)
    )
    now = np.append(shares, 0.0)
    now[0], now[1:-1] = now[0] + moved, now[1:-1] - moved / (categories - 1)
    found = [size_of(hour_of(rng, now, ordinary, nodes=20), ordinary) for _ in range(trials)]

    assert np.mean([one.low <= moved <= one.high for one in found]) >= 0.85
    assert all(one.low <= one.value <= one.high for one in found)


def test_what_is_known_of_the_reference_only_roughly_is_in_the_interval() -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(200):
        counts = rng.multinomial(400, shifted(0.0))
        ordinary = of_signals([drifting.signal("x", counts.tolist())], rows=400, blocks=1, rho=0.0, sigma2=0.0)
        part = drifting.part(rng.multinomial(100_000, shifted(0.0))[None], windows=20)
        held += size_of(part, ordinary).low == 0.0

    assert held >= 170


def test_ordinary_differences_between_days_are_no_size() -> None:
    rng = np.random.default_rng(6)
    effects = drifting.dependent(rng, 260, 0.3, 1, 0.3)
    counts = drifting.drawn(rng, effects, 1000)
    ordinary = drifting.with_blocks(counts[:60], 1000)
    found = [size_of(drifting.part(one), ordinary) for one in counts[60:]]

    assert np.mean([one.low == 0.0 for one in found]) >= 0.8


def test_own_baselines_are_wrong_in_the_same_way_in_every_interval() -> None:
    rng, ordinary, held, trials = np.random.default_rng(7), a_number(sigma2=4.0), 0, 200
    rows, own_rows, hours = 100, 512, 24
    for _ in range(trials):
        own = [rng.multinomial(own_rows, shifted(0.0)) + drifting.noise(rng, 4.0, 1, (9,)) for _ in range(8)]
        parts = []
        for hour in range(hours):
            share = rows / own_rows
            counts = sum(rng.multinomial(rows, shifted(0.0)) + drifting.noise(rng, 4.0, 1, (9,)) - share * one for one in own)
            parts.append(
                Part(
                    start=hour,
                    seconds=1,
                    windows=8,
                    rows=8 * rows,
                    counts=tuple(int(one) for one in np.round(counts)),
                    calibrated=True,
                    reference_rows=8 * rows * share,
                    noise_units=8 * (1 + share**2),
                )
            )
        held += shift_size.estimate(shift_size.together([shift_size.counted(one, ordinary) for one in parts]), ordinary)[0].low == 0.0

    assert held >= 0.85 * trials


def test_values_that_are_missing_are_a_share_of_the_rows() -> None:
    rng, ordinary = np.random.default_rng(8), a_number(sigma2=sigma2(12))
    now = 0.6 * shifted(0.0) + 0.4 * np.eye(9)[8]
    found = size_of(hour_of(rng, now, ordinary, nodes=20), ordinary)

    assert (found.unit, found.direction) == ("share", "shape")
    assert found.low <= 0.4 <= found.high


def test_accuracy_moves_by_points() -> None:
    rng = np.random.default_rng(9)
    ordinary = of_signals([drifting.signal("accuracy", [10_000, 90_000, 0])], rows=REFERENCE, blocks=1, rho=0.0, sigma2=4.0)
    found = size_of(hour_of(rng, np.array([0.26, 0.74, 0.0]), ordinary, nodes=20), ordinary)

    assert (found.unit, found.direction) == ("share", "lower")
    assert found.low <= 0.16 <= found.high


def test_how_far_beyond_the_last_edge_cannot_be_told() -> None:
    ordinary = a_number(sigma2=0.0)
    counts = np.array([[0, 0, 0, 0, 0, 0, 0, 6000, 0]])
    found = size_of(drifting.part(counts, windows=20), ordinary)

    assert (found.high, found.direction) == (shift_size.SDS_MAX, "higher")
    assert 2.5 <= found.low <= found.value
    assert shift_size.in_words(found.value, found.low, found.high, found.unit).endswith(" or more)")


@given(st.lists(st.integers(-(10**6), 10**6), min_size=9, max_size=9), st.integers(1, 100), st.floats(0, 1e4))
def test_whatever_was_counted_has_a_size_within_its_interval(counts: list[int], windows: int, noise: float) -> None:
    ordinary = a_number(sigma2=noise)
    found = size_of(Part(start=0, seconds=1, windows=windows, rows=float(sum(counts)), counts=tuple(counts)), ordinary)

    assert 0.0 <= found.low <= found.value <= found.high
    assert math.isfinite(found.effect)


def test_the_past_and_its_intervals_added_up_give_the_same_size() -> None:
    rng, ordinary = np.random.default_rng(10), a_number(sigma2=sigma2(12))
    state, parts = detector.fresh(ordinary), []
    for hour in range(20):
        parts.append(hour_of(rng, shifted(0.3 if hour >= 10 else 0.0), ordinary, nodes=20, start=hour))
        state, _ = detector.step(state, parts[-1], ordinary)

    (signal,) = detector.signals(state, ordinary)
    since = [shift_size.counted(one, ordinary) for one in parts if one.start >= signal.since]
    (expected,) = shift_size.estimate(shift_size.together(since), ordinary)
    assert (signal.moved.unit, signal.moved.direction) == (expected.unit, expected.direction)
    assert (signal.moved.value, signal.moved.low, signal.moved.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-5
    )


def test_a_state_of_the_hub_before_goes_on_and_has_sizes() -> None:
    rng, ordinary = np.random.default_rng(11), a_number(sigma2=sigma2(12))
    state = detector.fresh(ordinary)
    for hour in range(10):
        state, _ = detector.step(state, hour_of(rng, shifted(1.0), ordinary, start=hour), ordinary)
    before = codec.decode(Detector, codec.encode(state.model_copy(update={"chance": b""})))

    assert before.fits(ordinary)
    (old,), (new,) = detector.signals(before, ordinary), detector.signals(state, ordinary)
    assert old.moved.value == pytest.approx(new.moved.value, rel=0.1)
    after, _ = detector.step(before, hour_of(rng, shifted(1.0), ordinary, start=10), ordinary)
    assert after.fits(ordinary)


def test_a_size_that_an_earlier_hub_gave_is_left_unsaid() -> None:
    old = interval_significance.SignalDrift(name="label", p_value=1e-9, p_adjusted=1e-9, effect=0.1, size=9.0, direction="shape")

    assert interval_significance.in_words([old]) == "label has changed its shape (p 1e-09)"
    assert interval_significance.alarmed([old, old.model_copy(update={"size": 0.01})]) == (old,)

"""At most one false alarm in a thousand intervals, in all weathers; what is real is found soon, named, dated and measured."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hub.core.drift import detector, e_values
from hub.core.drift.detector import RECENT, RUN_LENGTH, Detector
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, of_signals
from schemas import codec
from tests.hub.core import drifting
from tests.hub.core.drifting import SECONDS

pytestmark = pytest.mark.heavy

ALARM = math.log(RUN_LENGTH)
ROWS, SPREAD = 816, 0.15


def alarms(ordinary: Ordinary, counts: NDArray[np.int64], *, windows: int = 1) -> list[int]:
    """The intervals, of [intervals, signals, bins], at which a stream is an alarm."""
    state, found = detector.fresh(ordinary), []
    for at, one in enumerate(counts):
        state, log_evidence = detector.step(state, drifting.part(one, start=at, windows=windows), ordinary)
        if log_evidence >= ALARM:
            found.append(at)
            state = detector.restarted(state)
    return found


def test_the_evidence_of_every_component_less_the_time_is_a_martingale(monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration of all intervals of two rows in three bins: after t intervals, and what came late of one, the mean of R is t."""
    monkeypatch.setattr(e_values, "EFFECT_MIN", 0.0)
    counts = (5 * 10**14, 3 * 10**14, 2 * 10**14)  # so many that the reference's own error, which is tolerated too, is nothing
    ordinary = of_signals([drifting.signal("s", counts)], rows=10**15, blocks=1, rho=0.0, sigma2=0.0)
    possible = [np.bincount(rows, minlength=3) for rows in itertools.product(range(3), repeat=2)]
    chances = [float(np.prod(ordinary.shares[0][list(rows)])) for rows in itertools.product(range(3), repeat=2)]

    mean = np.zeros(10 * ordinary.components)
    for chosen in itertools.product(range(len(possible)), repeat=3):
        state = detector.fresh(ordinary)
        for start, which in zip((0, 1, 0), chosen, strict=True):  # the third is late for the first
            state, _ = detector.step(state, drifting.part(possible[which][None, :], start=start), ordinary)
        mean += np.prod([chances[which] for which in chosen]) * np.exp(np.frombuffer(state.evidence))

    np.testing.assert_allclose(mean, 2.0, rtol=1e-4)


@pytest.mark.parametrize(("windows", "sigma2"), [(1, 0.0), (1, 213.0), (100, 213.0)])
def test_without_drift_there_is_at_most_one_alarm_in_a_thousand_intervals(windows: int, sigma2: float) -> None:
    rng = np.random.default_rng(windows)
    ordinary = drifting.flat(12, sigma2=sigma2)
    counts = drifting.drawn(rng, np.zeros((2000, 12, 4)), 100 * windows)
    counts = counts + np.round(rng.normal(0, np.sqrt(windows * sigma2), counts.shape)).astype(np.int64)

    assert len(alarms(ordinary, counts, windows=windows)) <= 2


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.7])
def test_days_that_hang_together_are_no_drift_though_the_reference_has_but_a_month(rho: float) -> None:
    rng = np.random.default_rng(int(10 * rho))
    streams, length, found = 4, 700, 0
    for _ in range(streams):
        ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 31, rho, 12, SPREAD), ROWS), ROWS)
        found += len(alarms(ordinary, drifting.drawn(rng, drifting.dependent(rng, length, rho, 12, SPREAD), ROWS)))

    assert found <= 3 * streams * length / 1000  # a plug-in variance gives 22 to 640 here


def test_a_shift_is_found_within_days_dated_and_measured() -> None:
    rng = np.random.default_rng(11)
    ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 31, 0.3, 12, SPREAD), ROWS), ROWS)
    effects = drifting.dependent(rng, 120, 0.3, 12, SPREAD)
    effects[100:, 4, 0] += 0.8
    counts = drifting.drawn(rng, effects, ROWS)

    state = detector.fresh(ordinary)
    for at, one in enumerate(counts):
        state, log_evidence = detector.step(state, drifting.part(one, start=at), ordinary)
        if log_evidence >= ALARM:
            break

    assert 100 <= at <= 107  # one component of sixty, known from a month
    first = detector.named(detector.signals(state, ordinary))[0]
    assert (first.name, first.direction) == ("s4", "higher")
    assert abs(first.since / SECONDS - 100) <= 2
    assert 0.4 <= first.effect <= 1.2


def test_an_outage_is_found_by_what_can_be_counted_no_more() -> None:
    rng = np.random.default_rng(12)
    ordinary = drifting.flat(4)
    counts = drifting.drawn(rng, np.zeros((30, 4, 4)), 500)
    counts[20:, 2, 8], counts[20:, 2, :8] = 250, counts[20:, 2, :8] // 2

    assert alarms(ordinary, counts)[0] == 20


def test_the_same_intervals_give_the_same_state() -> None:
    rng = np.random.default_rng(13)
    ordinary = drifting.flat(3, sigma2=20.0)
    counts = drifting.drawn(rng, np.zeros((40, 3, 4)), 300)

    def run() -> Detector:
        state = detector.fresh(ordinary)
        for at, one in enumerate(counts):
            state, _ = detector.step(state, drifting.part(one, start=at), ordinary)
        return state

    assert run() == run()


def test_a_stored_state_goes_on_as_if_nothing_had_happened() -> None:
    rng = np.random.default_rng(14)
    ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 31, 0.5, 2, SPREAD), ROWS), ROWS)
    counts = drifting.drawn(rng, drifting.dependent(rng, 60, 0.5, 2, SPREAD), ROWS)
    straight = stored = detector.fresh(ordinary)

    for at, one in enumerate(counts):
        straight, expected = detector.step(straight, drifting.part(one, start=at), ordinary)
        stored, actual = detector.step(codec.decode(Detector, codec.encode(stored)), drifting.part(one, start=at), ordinary)

        assert expected == actual
    assert straight == stored


def test_a_state_of_another_reference_is_not_gone_on_from() -> None:
    with pytest.raises(ValueError, match="expected a state of 15 components, found one of 10"):
        detector.step(detector.fresh(drifting.flat(2)), drifting.part(np.ones((3, 9), np.int64)), drifting.flat(3))


@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
@settings(deadline=None, max_examples=25)
def test_late_windows_of_an_interval_count_the_same_in_any_order(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    ordinary = drifting.flat(2, sigma2=5.0)
    state = detector.fresh(ordinary)
    for at in range(3):
        state, _ = detector.step(state, drifting.part(drifting.drawn(rng, np.zeros((2, 4)), 200), start=at), ordinary)
    late = [drifting.part(drifting.drawn(rng, np.full((2, 4), 0.05), 100), start=1) for _ in range(4)]

    def after(parts: list[Part]) -> float:
        now = state
        for one in parts:
            now, log_evidence = detector.step(now, one, ordinary)
        return log_evidence

    assert after(late) == pytest.approx(after([late[at] for at in order]))


def test_what_comes_late_is_a_factor_and_not_another_interval() -> None:
    rng = np.random.default_rng(15)
    ordinary = drifting.flat(2)
    counts = drifting.drawn(rng, np.zeros((2, 4)), 2000)
    state, _ = detector.step(detector.fresh(ordinary), drifting.part(counts), ordinary)

    after, _ = detector.step(state, drifting.part(drifting.drawn(rng, np.zeros((2, 4)), 100)), ordinary)

    assert (state.intervals, after.intervals, after.starts) == (1, 1, (0,))


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_day_whose_windows_come_in_two_halves_is_not_two_surprises(rho: float) -> None:
    """Both halves have the day's own effect; counted as two days they would be evidence of drift."""
    rng = np.random.default_rng(16)
    found = 0
    for _ in range(4):
        ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 90, rho, 12, SPREAD), ROWS), ROWS)
        state = detector.fresh(ordinary)
        for at, effect in enumerate(drifting.dependent(rng, 250, rho, 12, SPREAD)):
            for half in drifting.drawn(rng, np.stack([effect, effect]), ROWS // 2):
                state, log_evidence = detector.step(state, drifting.part(half, start=at), ordinary)
                if log_evidence >= ALARM:
                    found += 1
                    state = detector.restarted(state)

    assert found <= 3


def test_days_that_are_missing_let_the_foreknowledge_fade() -> None:
    rng = np.random.default_rng(17)
    found, length = 0, 0
    for _ in range(4):
        ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 90, 0.7, 12, SPREAD), ROWS), ROWS)
        counts = drifting.drawn(rng, drifting.dependent(rng, 500, 0.7, 12, SPREAD), ROWS)
        state = detector.fresh(ordinary)
        for at in np.flatnonzero(rng.random(500) < 0.5):
            length += 1
            state, log_evidence = detector.step(state, drifting.part(counts[at], start=int(at)), ordinary)
            if log_evidence >= ALARM:
                found += 1
                state = detector.restarted(state)

    assert found <= 3 * length / 1000


def test_what_comes_after_its_interval_is_forgotten_adds_no_evidence_where_days_have_effects() -> None:
    rng = np.random.default_rng(18)
    ordinary = drifting.with_blocks(drifting.drawn(rng, drifting.dependent(rng, 31, 0.0, 2, SPREAD), ROWS), ROWS)
    state = detector.fresh(ordinary)
    for at, effect in enumerate(drifting.dependent(rng, RECENT + 5, 0.0, 2, SPREAD)):
        state, log_evidence = detector.step(state, drifting.part(drifting.drawn(rng, effect, ROWS), start=at), ordinary)

    assert detector.step(state, drifting.part(drifting.drawn(rng, effect + 1.0, ROWS), start=0), ordinary) == (state, log_evidence)


def test_who_is_online_is_no_drift_when_nodes_take_off_their_own_baselines() -> None:
    rng = np.random.default_rng(19)
    nodes, rows, own_rows, sigma2 = 40, 100, 1000, 20.0
    ordinary = drifting.flat(4, sigma2=sigma2)
    homes = np.zeros((nodes, 4, 4))
    homes[:20, :, 0], homes[20:, :, 0] = -0.6, 0.6  # two sorts of site
    baselines = drifting.drawn(rng, homes, own_rows) + np.round(rng.normal(0, np.sqrt(sigma2), (nodes, 4, 9))).astype(np.int64)
    state, found = detector.fresh(ordinary), []
    for at in range(120):
        online = np.arange(20) if at % 2 else np.arange(nodes)  # one sort is away every other hour
        shift = np.array([0.5, 0, 0, 0]) if at >= 100 else np.zeros(4)
        counts = drifting.drawn(rng, homes[online] + shift, rows)
        noisy = counts + np.round(rng.normal(0, np.sqrt(sigma2), counts.shape)).astype(np.int64)
        difference = np.round(noisy - baselines[online] * rows / own_rows).sum(axis=0).astype(np.int64)
        merged = Part(
            start=at * SECONDS,
            seconds=SECONDS,
            windows=len(online),
            rows=float(len(online) * rows),
            counts=tuple(difference.ravel().tolist()),
            calibrated=True,
            reference_rows=len(online) * rows**2 / own_rows,
            noise_units=len(online) * (1 + (rows / own_rows) ** 2),
        )
        state, log_evidence = detector.step(state, merged, ordinary)
        if log_evidence >= ALARM:
            found.append(at)
            state = detector.restarted(state)

    assert found
    assert 100 <= found[0] <= 101


def test_an_unknown_reference_says_nothing_until_nodes_have_their_own() -> None:
    ordinary = of_signals([drifting.signal("latency", [0] * 9)], rows=1, blocks=1, rho=0.0, sigma2=1.0)
    lopsided = np.array([[900, 0, 0, 0, 0, 0, 0, 0, 0]])

    assert alarms(ordinary, np.stack([lopsided] * 5)) == []


def test_an_interval_of_another_shape_is_our_bug_and_said_so() -> None:
    with pytest.raises(ValueError, match="expected 18 counts, found 27"):
        detector.step(detector.fresh(drifting.flat(2)), drifting.part(np.ones((3, 9), np.int64)), drifting.flat(2))


@given(st.lists(st.tuples(st.integers(0, 50), st.lists(st.integers(-(10**6), 10**6), min_size=18, max_size=18)), max_size=12))
@settings(deadline=None, max_examples=60)
def test_no_order_and_no_counts_of_intervals_break_a_stream(parts: list[tuple[int, list[int]]]) -> None:
    ordinary = drifting.flat(2, sigma2=2.0)
    state = detector.fresh(ordinary)
    for start, counts in parts:
        state, log_evidence = detector.step(state, drifting.part(np.array(counts).reshape(2, 9), start=start), ordinary)

        assert not math.isnan(log_evidence)
        assert log_evidence < math.inf
    assert list(state.starts) == sorted(set(state.starts))
    assert len(detector.signals(state, ordinary)) == 2

"""Many streams are judged together, an alarm is told once, accuracy is one more signal, and ordinary days are described as they are."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.drift import detector, episodes, interval_significance, multiple_testing
from hub.core.drift.accuracy import accuracy_baseline
from hub.core.drift.between_day_variance import autocorrelation, between_blocks, freedom, unbiased, upper
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import ordinary
from tests.hub.core import drifting

HOUR = 3600


def accuracy_part(*, start: int, seconds: int, right: int, wrong: int) -> Part:
    return Part(start=start, seconds=seconds, windows=1, rows=float(right + wrong), counts=(wrong, right, 0))


# e-BH


def taken(log_evidence: Mapping[str, float], run_length: float) -> frozenset[str]:
    """Return the streams that are alarms, as e-BH is written down."""
    ranked = sorted(log_evidence, key=lambda key: -log_evidence[key])
    count = len(ranked)
    last = max((k for k in range(1, count + 1) if log_evidence[ranked[k - 1]] >= math.log(count * run_length / k)), default=0)
    return frozenset(ranked[:last])


def test_one_stream_alone_is_an_alarm_at_the_run_length() -> None:
    assert multiple_testing.needed([], 1000.0) == pytest.approx(math.log(1000))
    assert taken({"a": math.log(1000)}, 1000.0) == {"a"}
    assert taken({"a": math.log(999)}, 1000.0) == frozenset()


def test_quiet_neighbours_raise_the_bar_and_drifting_ones_lower_it() -> None:
    assert multiple_testing.needed([-math.inf] * 99, 1000.0) == pytest.approx(math.log(100_000))
    assert multiple_testing.needed([20.0] * 99, 1000.0) == pytest.approx(math.log(1000))


@given(st.lists(st.floats(0, 30), min_size=1, max_size=12), st.floats(2, 5000))
def test_what_one_more_stream_needs_is_what_makes_it_one_of_those_taken(others: list[float], run_length: float) -> None:
    bar = multiple_testing.needed(others, run_length)

    assert "new" in taken({"new": bar + 1e-9, **{str(at): one for at, one in enumerate(others)}}, run_length)
    assert "new" not in taken({"new": bar - 1e-6, **{str(at): one for at, one in enumerate(others)}}, run_length)


# Episodes


def run(alarms: list[int | None]) -> list[str | None]:
    """Events of hours, each with the hour in which its change began, or None."""
    episode, events = None, list[str | None]()
    for hour, since in enumerate(alarms):
        episode, event = episodes.follow(episode, start=hour * HOUR, seconds=HOUR, since=None if since is None else since * HOUR)
        events.append(event)
    return events


def test_a_drift_is_told_when_it_is_raised_and_when_it_is_over_and_not_between() -> None:
    assert run([None, 1, 2, None, 4, None, None, None, None, None]) == [
        *(None, "raised", "lasting", "lasting", "lasting", "lasting", "lasting", "lasting", "over", None),
    ]


def test_a_shift_that_took_long_to_find_is_not_over_after_a_few_quiet_hours() -> None:
    events = run([None] * 10 + [1] + [None] * 22)

    assert events[10] == "raised"
    assert events.index("over") == 10 + 2 * 10 + 1


# Accuracy


def test_a_model_that_errs_more_is_found_by_labels_that_come_late() -> None:
    rng = np.random.default_rng(1)
    reference = ordinary(accuracy_baseline([(int(rng.binomial(200, 0.9)), 20) for _ in range(1)] + [(180, 20)] * 29), 0.0)
    state = detector.fresh(reference)
    evidence = []
    for day in range(40):
        right = int(rng.binomial(150, 0.9 if day < 30 else 0.7))
        state, now = detector.step(state, accuracy_part(start=day * HOUR, seconds=HOUR, right=right, wrong=150 - right), reference)
        evidence.append(now)

    assert max(evidence[:30]) < math.log(1000)
    assert next(day for day, one in enumerate(evidence) if one >= math.log(1000)) <= 33
    (accuracy,) = detector.signals(state, reference)
    assert (accuracy.name, accuracy.direction) == ("accuracy", "lower")
    assert accuracy.effect < -0.3


def test_accuracy_of_one_interval_is_tested_as_every_other_signal() -> None:
    reference = ordinary(accuracy_baseline([(900, 100)]), 0.0)

    (worse,) = interval_significance.test_interval(accuracy_part(start=0, seconds=HOUR, right=60, wrong=40), reference)
    (same,) = interval_significance.test_interval(accuracy_part(start=0, seconds=HOUR, right=90, wrong=10), reference)

    assert (worse.direction, worse.p_adjusted < 1e-6, same.p_adjusted > 0.1) == ("lower", True, True)


@pytest.mark.parametrize("bad", [[], [(0, 0)], [(-1, 5)]])
def test_a_reference_without_answers_is_refused(bad: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="expected counts of right and wrong answers"):
        accuracy_baseline(bad)


# Ordinary days


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("blocks", [31, 90])
def test_the_autocorrelation_of_few_blocks_is_not_taken_too_small(rho: float, blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    found = []
    for _ in range(30):
        effects = drifting.dependent(rng, blocks, rho, 12, 0.15)
        means = [effects[:, j] + rng.normal(0, 0.035, (blocks, 4)) for j in range(12)]
        found.append(autocorrelation(means, np.full(blocks, 1 / 0.035**2)))

    assert abs(np.mean(found) - rho) <= 0.06


def test_blocks_that_differ_by_chance_alone_have_nothing_to_hang_together() -> None:
    rng = np.random.default_rng(3)
    means = rng.normal(0, 0.1, (40, 20))

    assert autocorrelation([means], np.full(40, 80.0)) == 0.0
    assert autocorrelation([means[:2]], np.full(2, 80.0)) == 0.0


def test_the_bound_on_what_days_differ_by_holds_nine_times_in_ten() -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(400):
        means = rng.normal(0, math.hypot(0.2, 0.05), (31, 1))
        between = between_blocks(means, np.full(31, 400.0))[0]
        held.append(upper(between, sampling=1 / 400, blocks=31, rho=0.0, doubt=0.1)[0] >= 0.04)

    assert 0.86 <= np.mean(held) <= 0.94


def test_dependent_blocks_are_worth_fewer_and_hide_part_of_their_variance() -> None:
    assert freedom(blocks=31, rho=0.0) == 30
    assert freedom(blocks=31, rho=0.5) == pytest.approx(18)
    assert unbiased(np.array([1.0]), blocks=31, rho=0.5)[0] == pytest.approx(1 / (1 - 2 / 30))

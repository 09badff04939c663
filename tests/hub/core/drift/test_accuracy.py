"""Right and wrong answers as a reference, as windows and over time: what is counted is what is tested, and chance alone is no alarm."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hub.core.drift import accuracy, detector, intervals
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, ordinary
from hub.core.drift.windows import Reader, Taken, merged_window
from hub.core.publish.noise import sigma2_for
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused
from schemas.names import sha256
from schemas.signals import Privacy
from tools.examples import MANIFEST

DAY = 86_400


def release(days: list[tuple[int, int]], epsilon: float = 0.5) -> Accuracy:
    numerator, denominator = sigma2_for(epsilon, 1e-6, 1)
    noise = Privacy(epsilon=epsilon, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=DAY)
    return Accuracy(baseline=accuracy.accuracy_baseline(days), privacy=noise)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=1, max_size=40))
def test_a_reference_holds_every_answer_and_no_day_without_one(days: list[tuple[int, int]]) -> None:
    assume(any(map(sum, days)))

    baseline = accuracy.accuracy_baseline(days)

    assert baseline.signals[0].counts == (sum(wrong for _, wrong in days), sum(right for right, _ in days), 0)
    assert baseline.blocks == sum(sum(day) > 0 for day in days)
    assert Accuracy(baseline=baseline, privacy=release([(1, 1)]).privacy).baseline is baseline


def test_accuracy_goes_by_a_name_of_its_own_and_is_read_by_a_manifest_of_that_alone() -> None:
    manifest = MANIFEST.model_copy(update={"accuracy": release([(90, 10)] * 9)})
    digest = sha256(b"release")

    view = accuracy.of_accuracy(manifest)
    assert accuracy.stream_of(digest) not in {digest, accuracy.stream_of(sha256(b"other"))}
    assert (accuracy.about(manifest), accuracy.about(view)) == (None, "accuracy")
    assert [one.name for one in view.baseline.signals] == ["accuracy"]  # type: ignore[union-attr]
    assert (view.model, view.version) == (manifest.model, manifest.version)
    with pytest.raises(Refused) as caught:
        accuracy.of_accuracy(MANIFEST)
    assert caught.value.code is Code.WINDOW_ACCURACY


def test_answers_that_are_neither_right_nor_wrong_are_more_than_noise_or_none() -> None:
    privacy = release([(90, 10)]).privacy
    taken = Taken(0, DAY, 100, 1, None, np.array([10, 90, 64]))

    accuracy.check_answers(taken, privacy)
    with pytest.raises(Refused) as caught:
        accuracy.check_answers(Taken(0, DAY, 100, 1, None, np.array([10, 90, -66])), privacy)
    assert caught.value.code is Code.WINDOW_ABSURD


def test_a_merged_window_says_what_it_is_about_and_an_alert_how_many_were_right() -> None:
    view = accuracy.of_accuracy(MANIFEST.model_copy(update={"accuracy": release([(90, 10)] * 9)}))
    sums = intervals.add_up([Taken(0, DAY, 200, 1, None, np.array([60, 140, 3]))], [0])
    interval = intervals.interval(sums, release=b"r" * 32, model="delay", cohort="nyc", start=0, seconds=DAY, calibrated=False)

    merged = merged_window(interval, view, accuracy.about(view))
    assert (merged.about, merged.rows, merged.signals[0].expected) == ("accuracy", 203, (20.3, 182.7, 0.0))
    assert accuracy.shares_in_words(interval.counts, view) == "; 70 % of answers right, 90 % in the reference"
    assert accuracy.shares_in_words((-5, 3, 2), view) == ""
    assert accuracy.shares_in_words((1, 2, 3), MANIFEST) == ""
    assert Reader(view).manifest is view


class World:
    """A model whose accuracy differs a little from day to day, as its publisher saw it for a month, and nodes with noise."""

    def __init__(self, seed: int, *, nodes: int = 20, between: float = 0.01) -> None:
        self.rng, self.nodes, self.between = np.random.default_rng(seed), nodes, between
        self.accuracy = release([self.day(2000) for _ in range(31)])
        self.sigma2 = self.accuracy.privacy.sigma2
        self.reference: Ordinary = ordinary(self.accuracy.baseline, self.sigma2)

    def day(self, rows: int, share: float = 0.9) -> tuple[int, int]:
        right = int(self.rng.binomial(rows, np.clip(self.rng.normal(share, self.between), 0, 1)))
        return right, rows - right

    def part(self, day: int, share: float = 0.9) -> Part:
        right, wrong = self.day(100 * self.nodes, share)
        noise = np.round(self.rng.normal(0, math.sqrt(self.sigma2 * self.nodes), 3)).astype(int)
        counts = tuple(int(one) for one in np.array([wrong, right, 0]) + noise)
        return Part(start=day * DAY, seconds=DAY, windows=self.nodes, rows=float(sum(counts)), counts=counts)


def test_a_thousand_days_without_drift_raise_at_most_one_alarm_over_time() -> None:
    alarms = 0
    for seed in range(4):
        world, state = World(seed), None
        for day in range(250):
            state, evidence = detector.step(state or detector.fresh(world.reference), world.part(day), world.reference)
            if evidence >= math.log(1000):
                alarms, state = alarms + 1, None

    assert alarms <= 1


@pytest.mark.parametrize(("share", "days_max"), [(0.8, 5), (0.7, 2)])
def test_a_fall_is_found_within_days_and_called_lower(share: float, days_max: int) -> None:
    found = []
    for seed in range(5):
        world = World(10 + seed)
        state = detector.fresh(world.reference)
        for day in range(20 + days_max):
            state, evidence = detector.step(state, world.part(day, 0.9 if day < 20 else share), world.reference)
        found.append(evidence >= math.log(1000) and detector.signals(state, world.reference)[0].direction == "lower")

    assert found == [True] * 5

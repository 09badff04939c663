"""Counts, and only counts: every row in exactly one bin of every signal, in the window of its own time."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hub.core.publish.baseline import SignalSpec, build_baseline
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import noised
from node.core.telemetry.sketch import OPEN_WINDOWS_MAX, Sketch
from schemas import codec
from schemas.signals import Baseline, Privacy
from schemas.window import Expectation, Window, read_counts

RNG = np.random.default_rng(0)


def baseline() -> Baseline:
    return build_baseline(
        [
            (SignalSpec("a", "numeric", "input", "X", 0), RNG.normal(size=500).astype(np.float32)),
            (SignalSpec("b", "numeric", "input", "X", 1), RNG.exponential(size=500).astype(np.float32)),
            (SignalSpec("word", "categorical", "input", "word", 0), np.array(["yes", "no"] * 250)),
            (SignalSpec("out", "numeric", "output", "Y", 0), RNG.normal(size=500).astype(np.float32)),
        ],
        None,
    )


def observe(sketch: Sketch, rows: np.ndarray, at: float, words: list[object] | None = None) -> None:
    word = np.array(words if words is not None else ["yes"] * len(rows), dtype=object)
    sketch.observe({"X": rows, "word": word}, {"Y": rows[:, :1]}, len(rows), at)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(width=32)))
def test_every_row_falls_into_one_bin_of_every_signal_whatever_it_holds(rows: np.ndarray) -> None:
    reference = baseline()
    sketch = Sketch(reference, 60)

    observe(sketch, rows, 30.0)

    counts = sketch.take(0)
    at = 0
    for signal in reference.signals:
        assert counts[at : at + signal.bins].sum() == len(rows)
        at += signal.bins


def test_counts_agree_with_counting_one_row_at_a_time() -> None:
    rows, reference = RNG.normal(size=(200, 2)).astype(np.float32), baseline()
    together, apart = Sketch(reference, 60), Sketch(reference, 60)

    observe(together, rows, 1.0)
    for row in rows:
        observe(apart, row[None], 1.0)

    assert (together.take(0) == apart.take(0)).all()


def test_what_is_not_finite_or_was_never_seen_is_other() -> None:
    reference = baseline()
    sketch = Sketch(reference, 60)

    observe(sketch, np.array([[np.nan, np.inf], [0.0, 1.0]], np.float32), 1.0, words=["maybe", b"yes"])

    counts = sketch.take(0)
    ends = np.cumsum([signal.bins for signal in reference.signals])
    assert [int(counts[end - 1]) for end in ends] == [1, 1, 1, 1]


def test_rows_of_another_width_or_a_missing_tensor_are_other_and_raise_nothing() -> None:
    reference = baseline()
    sketch = Sketch(reference, 60)

    sketch.observe({"X": np.zeros((2, 1), np.float32)}, {}, 2, 1.0)

    counts = sketch.take(0)
    ends = np.cumsum([signal.bins for signal in reference.signals])
    assert [int(counts[end - 1]) for end in ends] == [0, 2, 2, 2]


def test_windows_are_by_event_time_and_close_when_time_has_passed_them() -> None:
    sketch, rows = Sketch(baseline(), 60), np.zeros((1, 2), np.float32)

    observe(sketch, rows, 30.0)
    observe(sketch, rows, 70.0)
    assert sketch.due(0.0, grace_seconds=5, idle_seconds=1e9) == [0]
    observe(sketch, rows, 10.0)  # late, but within its grace it would still count

    assert sketch.take(0).sum() == 2 * 4
    assert sketch.due(0.0, grace_seconds=5, idle_seconds=1e9) == []


def test_a_window_closes_when_nothing_more_comes() -> None:
    sketch = Sketch(baseline(), 60)
    observe(sketch, np.zeros((1, 2), np.float32), 30.0)

    assert sketch.due(100.0, grace_seconds=5, idle_seconds=10) == []
    assert sketch.due(109.0, grace_seconds=5, idle_seconds=10) == []
    assert sketch.due(111.0, grace_seconds=5, idle_seconds=10) == [0]


def test_a_broken_clock_does_not_fill_the_memory() -> None:
    sketch, rows = Sketch(baseline(), 60), np.zeros((1, 2), np.float32)

    for day in range(OPEN_WINDOWS_MAX + 10):
        observe(sketch, rows, -60.0 * day)  # ever further back: none is passed

    assert len(sketch.due(-1e9, grace_seconds=1e9, idle_seconds=1e12)) == 10


def test_a_checkpoint_goes_on_where_it_was() -> None:
    reference = baseline()
    sketch, rows = Sketch(reference, 60), RNG.normal(size=(5, 2)).astype(np.float32)
    observe(sketch, rows, 1.0)

    restored = Sketch(reference, 60)
    restored.restore(sketch.snapshot())
    observe(restored, rows, 2.0)

    assert restored.take(0).sum() == 2 * 5 * 4


def test_what_leaves_is_noisy_and_its_rows_are_read_off_the_noise() -> None:
    reference = baseline()
    counts = [100] * sum(signal.bins for signal in reference.signals)

    privacy = Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=400, sigma2_denominator=1, window_seconds=60)

    window = noised(
        counts,
        baseline=reference,
        privacy=privacy,
        bits=BitSource(Random(1).randbytes),
        window_id=bytes(16),
        release=bytes(8),
        start=0,
    )
    again = codec.decode(Window, codec.encode(window))
    found = read_counts(again, expectation=Expectation(reference), privacy=privacy, bins=reference.bins)

    assert (found != np.array(counts)).mean() > 0.8
    assert abs((found - 100).std() - 20) < 12
    assert again.rows == pytest.approx(sum(found) / 4, abs=15)  # counts travel in steps

"""The bench counts rows as a node does."""

import numpy as np
from sklearn.datasets import load_digits

from bench.drift_streams import DIGIT_LEVELS, baseline_of, binned, counted, digits, noisy_digits
from node.core.telemetry.sketch import Sketch


def test_rows_are_counted_as_a_node_counts_them() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(500, 3)).astype(np.float32).astype(np.float64)
    values[::50, 1] = np.nan
    baseline = baseline_of(rng.normal(size=(400, 3)), ["a", "b", "c"], None)
    sketch = Sketch(baseline, 60)
    sketch.observe({"X": values.astype(np.float32)}, {}, len(values), 30.0)

    expected = sketch.take(0).tolist()

    assert expected == counted(binned(baseline, values), len(expected)).tolist()


def test_images_are_counted_as_a_node_counts_them() -> None:
    images = (load_digits().images.reshape(-1, 64)[:300] / DIGIT_LEVELS).astype(np.float32)
    rows = digits()
    sketch = Sketch(rows.baseline, 60)
    sketch.observe({"image": images}, {}, len(images), 30.0)

    expected = sketch.take(0).tolist()

    assert expected == counted(rows.bins[:300], len(expected)).tolist()


def test_a_noisier_camera_is_the_same_every_time_and_changes_what_it_sees() -> None:
    first, again = noisy_digits(0.5), noisy_digits(0.5)

    assert first.tolist() == again.tolist()
    assert np.abs(first[: len(digits().pool)] - digits().pool).max() > 0

"""The bench counts rows as a node does."""

import numpy as np

from bench.drift_streams import baseline_of, binned, counted
from node.core.sketch import Sketch


def test_rows_are_counted_as_a_node_counts_them() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(500, 3)).astype(np.float32).astype(np.float64)
    values[::50, 1] = np.nan
    baseline = baseline_of(rng.normal(size=(400, 3)), ["a", "b", "c"], None)
    sketch = Sketch(baseline, 60)
    sketch.observe({"X": values.astype(np.float32)}, {}, len(values), 30.0)

    expected = sketch.take(0).tolist()

    assert expected == counted(binned(baseline, values), len(expected)).tolist()

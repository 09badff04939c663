"""A lying node is seen in its sub-group; nodes that are merely unlike each other are not."""

import numpy as np
import pytest

from hub.core.drift.subgroups import GROUPS, outlying, weights
from hub.core.publish.baseline import SignalSpec, build_baseline

SIGMA2, NODES, ROWS = 357.0, 80, 200
RNG = np.random.default_rng(0)
BASELINE = build_baseline([(SignalSpec(f"s{j}", "numeric", "input", "X", j), RNG.normal(size=4000)) for j in range(4)], None)


def cohort(rng: np.random.Generator, *, spread: float, lie: float = 0.0, lie_rows: int = ROWS) -> tuple[np.ndarray, list[int], list[int]]:
    """Totals by sub-group of nodes whose means differ by `spread`, the first of them off by `lie`."""
    totals = np.zeros((GROUPS, BASELINE.bins), np.int64)
    windows, rows = [0] * GROUPS, [0] * GROUPS
    for node in range(NODES):
        group, count = int(rng.integers(GROUPS)), lie_rows if node == 0 else ROWS
        at = 0
        for signal in BASELINE.signals:
            values = rng.normal(size=count) + rng.normal(0, spread) + (lie if node == 0 else 0.0)
            noisy = np.bincount(np.searchsorted(signal.edges, values, side="right"), minlength=signal.bins) + rng.normal(
                0, SIGMA2**0.5, signal.bins
            )
            totals[group, at : at + signal.bins] += np.round(noisy).astype(np.int64)
            at += signal.bins
        windows[group], rows[group] = windows[group] + 1, rows[group] + count
    return totals, rows, windows


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_nodes_that_differ_are_no_outliers(spread: float) -> None:
    rng = np.random.default_rng(1)
    odd = [outlying(*cohort(rng, spread=spread), BASELINE, SIGMA2) for _ in range(100)]

    assert sum(bool(one) for one in odd) <= 3


def test_a_node_that_lies_with_all_its_weight_is_seen() -> None:
    rng = np.random.default_rng(2)
    odd = [outlying(*cohort(rng, spread=0.1, lie=4.0, lie_rows=50_000), BASELINE, SIGMA2) for _ in range(20)]

    assert all(len(one) == 1 for one in odd)


def test_of_few_windows_nothing_is_said() -> None:
    totals = np.zeros((GROUPS, BASELINE.bins), np.int64)

    assert outlying(totals, [10] * 4 + [0] * 4, [1] * 4 + [0] * 4, BASELINE, SIGMA2) == ()


def test_one_heavy_window_weighs_at_most_two_parts_of_nine() -> None:
    windows, rows = [13] * 8, [1300] * 8
    rows[3] += 1_000_000

    shares = weights(rows, windows)

    weighed = shares * rows
    assert weighed[3] / weighed.sum() == pytest.approx(2 / 9)
    assert set(np.delete(shares, 3)) == {1.0}


@pytest.mark.parametrize(
    ("windows", "rows"),
    [
        ([13] * 8, [1300, 2000, 900, 1100, 1500, 1250, 1300, 1700]),  # nodes differ
        ([13] * 8, [0, 0, 0, 0, 0, 800, 0, 100]),  # nearly all idle, and one that works
        ([1, 1, 1, 1, 0, 0, 0, 0], [100, 100, 100, 10_000, 0, 0, 0, 0]),  # too few to say which is the odd one
        ([20], [0]),  # of a first hub, which kept no sub-groups
    ],
)
def test_ordinary_sub_groups_count_in_full(windows: list[int], rows: list[int]) -> None:
    assert weights(rows, windows).tolist() == [1.0] * len(windows)

"""Whether two releases answer alike, row by row, and that a comparison never says more than it saw."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from node.core.activation.shadow_comparison import Agreement, compare
from schemas.manifest import Shadow

TERMS = Shadow(seconds=60, relative_tolerance=0.1, absolute_tolerance=0.01)


def column(*values: float) -> dict[str, Any]:
    return {"y": np.array(values, np.float32)[:, None]}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, Agreement]] = {
    "within a tenth": (column(10.0, 20.0), column(10.9, 22.5), 2, Agreement(2, 1)),
    "near nothing": (column(0.0, 0.0), column(0.009, 0.02), 2, Agreement(2, 1)),
    "nan agrees with nothing": (column(np.nan, 1.0), column(np.nan, np.nan), 2, Agreement(2, 0)),
    "scores by the largest": (
        {"p": np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)},
        {"p": np.array([[0.6, 0.4], [0.6, 0.4]], np.float32)},
        2,
        Agreement(2, 1),
    ),
    "whole numbers are equal": ({"c": np.array([1, 2])}, {"c": np.array([1, 3])}, 2, Agreement(2, 1)),
    "texts are equal": (
        {"t": np.array([["a", "b"], ["c", "d"]], object)},
        {"t": np.array([["a", "b"], ["c", "x"]], object)},
        2,
        Agreement(2, 1),
    ),
    "every output must agree": ({**column(1.0), "c": np.array([1])}, {**column(1.0), "c": np.array([2])}, 1, Agreement(1, 0)),
    "what only one has is not compared": ({**column(1.0), "old": np.array([1])}, {**column(1.0), "new": np.array([2])}, 1, Agreement(1, 1)),
    "nothing in common": (column(1.0), {"z": np.array([1.0])}, 3, Agreement(3, 0)),
    "another width": (column(1.0, 2.0), {"y": np.ones((2, 2), np.float32)}, 2, Agreement(2, 0)),
    "no row axis is one row": ({"y": np.array([1.0, 2.0, 3.0])}, {"y": np.array([1.0, 2.0, 4.0])}, 1, Agreement(1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_agree_as_the_manifest_says(case: str) -> None:
    serving, shadow, rows, expected = CASES[case]

    assert expected == compare(serving, shadow, rows=rows, terms=TERMS)


@given(arrays(np.float32, array_shapes(min_dims=1, max_dims=3, max_side=4), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_release_agrees_with_itself(answer: Any) -> None:
    rows = answer.shape[0]
    found = compare({"y": answer}, {"y": answer}, rows=rows, terms=TERMS)

    assert found == Agreement(rows, rows)
    assert found.ratio == 1.0


@given(
    arrays(np.float32, (3, 2), elements=st.floats(width=32)),
    arrays(np.float32, st.sampled_from([(3, 2), (3, 1), (2, 2), (6,)]), elements=st.floats(width=32)),
)
def test_whatever_two_models_answer_no_more_rows_agree_than_were_compared(old: Any, new: Any) -> None:
    found = compare({"y": old}, {"y": new}, rows=3, terms=TERMS)

    assert 0 <= found.agreed <= found.rows <= 3


def test_comparisons_add_up_and_nothing_compared_is_no_disagreement() -> None:
    assert Agreement().ratio == 1.0
    assert Agreement(3, 2).plus(Agreement(5, 5)) == Agreement(8, 7)

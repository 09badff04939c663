"""Scores of builds: what is measured follows from the truth and the original's answers, and the figures are scikit-learn's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

from hub.core.publish.accuracy_eval import Ruler, by_row, check_loss, finite, ruler, score
from schemas.errors import Code, Refused

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 1, 0, 2])
SCORES = np.eye(3)[LABELS].astype(np.float32)


def test_a_class_is_measured_by_accuracy_on_the_output_that_gives_it() -> None:
    assert ruler(LABELS, {"probabilities": SCORES, "label": LABELS}, None) == Ruler("accuracy", "probabilities")
    assert ruler(LABELS, {"label": LABELS}, None) == Ruler("accuracy", "label")
    assert ruler(LABELS, {"probabilities": SCORES, "label": LABELS}, "label") == Ruler("accuracy", "label")
    assert ruler(np.array(["a", "b"]), {"x": SCORES[:2], "name": np.array(["a", "b"], object)}, None) == Ruler("accuracy", "name")


def test_a_number_is_measured_by_r2_and_nothing_known_by_agreement() -> None:
    numbers = RNG.normal(size=6)

    assert ruler(numbers, {"y": numbers[:, None].astype(np.float32)}, None) == Ruler("r2", "y")
    assert ruler(LABELS * 100, {"y": numbers[:, None].astype(np.float32)}, None) == Ruler("r2", "y")
    assert ruler(None, {"y": numbers}, None) == Ruler("agreement", None)


@pytest.mark.parametrize(
    ("truth", "answers", "named", "words"),
    [
        (np.array(["a", "b"]), {"y": np.zeros((2, 1), np.float32)}, None, ("texts", "float32")),
        (LABELS + 7, {"p": SCORES}, None, ("int64", "float32[3]")),
        (np.ones(6), {"y": np.zeros((6, 1), np.float32)}, None, ("differ", "1.0")),
        (LABELS, {"label": LABELS}, "lable", ("label", "lable")),
    ],
)
def test_a_truth_that_no_output_can_be_compared_with_is_refused(
    truth: np.ndarray, answers: dict[str, np.ndarray], named: str | None, words: tuple[str, ...]
) -> None:
    with pytest.raises(Refused) as caught:
        ruler(truth, answers, named)

    assert caught.value.code == Code.REFERENCE_INVALID
    assert all(word in caught.value.reason for word in words)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_accuracy_is_the_share_of_equal_classes(pairs: list[tuple[int, int]]) -> None:
    truth, found = (np.array(side) for side in zip(*pairs, strict=True))

    assert score(Ruler("accuracy", "label"), truth, {"label": truth}, {"label": found}) == pytest.approx(accuracy_score(truth, found))
    assert score(Ruler("accuracy", "p"), truth, {}, {"p": np.eye(5)[found]}) == pytest.approx(accuracy_score(truth, found))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=3, max_size=50))
def test_r2_is_the_one_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    truth, found = (np.array(side) for side in zip(*pairs, strict=True))
    truth[0] += 2000  # so that it differs

    assert score(Ruler("r2", "y"), truth, {}, {"y": found[:, None]}) == pytest.approx(r2_score(truth, found))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.floats(-0.3, 0.3))
def test_single_floats_agree_within_a_tenth_as_they_do_on_a_device(values: list[float], change: float) -> None:
    old = np.array(values, np.float32)[:, None]
    new = old * (1 + np.float32(change))

    near = np.abs(new.astype(float) - old) <= 1e-3 + 0.1 * np.abs(old.astype(float))
    assert score(Ruler("agreement"), None, {"y": old}, {"y": new}) == pytest.approx(near.mean())


def test_rows_agree_when_every_output_does() -> None:
    original = {"label": LABELS, "p": SCORES}
    turned = SCORES.copy()
    turned[0] = np.roll(turned[0], 1)
    other = {"label": np.array([0, 1, 2, 1, 0, 0]), "p": turned}

    assert score(Ruler("agreement"), None, original, original) == 1
    assert score(Ruler("agreement"), None, original, other) == pytest.approx(4 / 6)


def test_nan_where_the_original_has_a_number_is_told_with_output_and_row() -> None:
    wrong = SCORES.copy()
    wrong[4, 2] = np.nan

    finite("variant 'a'", {"p": wrong}, {"p": wrong})
    with pytest.raises(Refused) as caught:
        finite("variant 'a'", {"p": SCORES}, {"p": wrong})
    assert caught.value.code == Code.VARIANT_FAILED
    assert "row 4" in caught.value.reason
    assert "nan" in caught.value.reason


def test_a_loss_at_the_bound_passes_and_one_beyond_or_without_a_number_does_not() -> None:
    by = Ruler("accuracy", "label")

    check_loss("a", by, original=0.75, scored=0.5, loss_max=0.25)
    for scored in (0.49, float("nan")):
        with pytest.raises(Refused) as caught:
            check_loss("a", by, original=0.75, scored=scored, loss_max=0.25)
        assert caught.value.code == Code.VARIANT_LOSS
        assert "0.5000" in caught.value.reason


def test_an_output_without_an_answer_a_row_is_left_out() -> None:
    parts = {
        "a": [np.zeros((2, 3)), np.zeros((1, 3))],
        "state": [np.zeros((1, 3)), np.zeros((1, 3))],
        "ragged": [np.zeros((2, 3)), np.zeros((1, 4))],
        "all": [np.float32(1), np.float32(1)],
    }

    assert list(by_row(parts, 3)) == ["a"]

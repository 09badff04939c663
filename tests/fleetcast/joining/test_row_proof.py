"""What mixes rows is found out by asking beside rows that another client may send; what keeps them apart is not."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.joining.row_proof import HOSTILE, Tried, hostile, try_rows

Arrays = Mapping[str, np.ndarray]
Model = Callable[[Arrays], dict[str, np.ndarray] | None]

FLOATS = np.linspace(-3, 5, 20, dtype=np.float32).reshape(5, 4)
WORDS = np.arange(20, dtype=np.int64).reshape(5, 4)


def tried(model: Model, **inputs: np.ndarray) -> Tried:
    together = model(inputs)
    assert together is not None
    trying = try_rows(inputs, together, len(next(iter(inputs.values()))))
    try:
        question = next(trying)
        while True:
            question = trying.send(model(question))
    except StopIteration as end:
        found: Tried = end.value
        return found


def summed(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"y": sum(array.astype(np.float64).sum(axis=1) for array in inputs.values()).astype(np.float32)}


def looked_up(inputs: Arrays) -> dict[str, np.ndarray] | None:
    """A table of 20 words: another number is refused, as ONNX Runtime does."""
    words = inputs["words"]
    if words.min() < 0 or words.max() >= 20:
        return None
    return {"y": np.linspace(0, 1, 20)[words].sum(axis=1)}


def scaled(inputs: Arrays) -> dict[str, np.ndarray]:
    """Rounds to a step of the largest of all rows."""
    rows = inputs["x"].astype(np.float64)
    step = max(float(np.nan_to_num(np.abs(rows)).max()), 16.0) / 127
    return {"y": (np.round(rows / step) * step).sum(axis=1)}


def shifted(inputs: Arrays) -> dict[str, np.ndarray]:
    """A row sees the one before it."""
    return {"y": inputs["x"].sum(axis=1) + np.concatenate([[0.0], inputs["x"][:-1, 0]])}


def spoiled(inputs: Arrays) -> dict[str, np.ndarray]:
    """One row that is no number spoils all."""
    return {"y": inputs["x"].sum(axis=1) + (np.nan if np.isnan(inputs["x"]).any() else 0.0)}


def relabelled(inputs: Arrays) -> dict[str, np.ndarray]:
    """A label of a thousand classes that moves by one beside a far row."""
    return {"y": np.full(len(inputs["x"]), 900 + int(np.nan_to_num(inputs["x"]).max() > 1e3))}


def both(inputs: Arrays) -> dict[str, np.ndarray] | None:
    """Words and floats: unknown words are refused, and a far float changes all rows."""
    words = looked_up(inputs)
    return words and {"y": words["y"] + scaled(inputs)["y"]}


@pytest.mark.parametrize("model", [summed, looked_up])
def test_what_keeps_rows_apart_is_joined_also_where_it_refuses_far_rows(model: Model) -> None:
    inputs = {"words": WORDS} if model is looked_up else {"x": FLOATS, "words": WORDS}

    assert tried(model, **inputs).apart


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (scaled, "beside other rows (floats times 1e4), y["),
        (shifted, "asked alone, y[0] was"),
        (spoiled, "beside other rows (floats NaN), y[0] was NaN"),
        (relabelled, "beside other rows (floats times 1e4), y[0] was 901 and not 900"),
    ],
)
def test_what_mixes_rows_is_found_out_and_named(model: Model, found: str) -> None:
    assert tried(model, x=FLOATS).found.startswith(found)


def test_floats_are_tried_though_far_words_are_refused() -> None:
    assert tried(both, x=FLOATS, words=WORDS).found.startswith("beside other rows (floats times 1e4)")


def test_one_golden_row_or_an_answer_without_rows_proves_nothing() -> None:
    assert not tried(summed, x=FLOATS[:1]).apart
    assert not tried(lambda inputs: {"y": inputs["x"].sum(keepdims=True)[0]}, x=FLOATS).apart
    assert not tried(lambda inputs: {}, x=FLOATS).apart


@given(
    st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    st.sampled_from(HOSTILE),
    st.lists(st.integers(0, 255), min_size=1, max_size=8),
)
def test_hostile_rows_are_of_the_same_kind_and_no_number_only_where_asked(kind: str, how: str, data: list[int]) -> None:
    rows = np.frombuffer(bytes(data) * 8, kind)
    if how == "NaN" and rows.dtype.kind != "f":
        return
    far: Any = hostile(rows, how)

    assert (far.dtype, far.shape) == (rows.dtype, rows.shape)
    assert how == "NaN" or np.isfinite(far.astype(float)).all()


def test_the_ends_of_a_datatype_are_tried() -> None:
    assert hostile(WORDS, "highest").max() == 2**63 - 1
    assert hostile(WORDS, "lowest").min() == -(2**63)
    assert hostile(np.array([2**62]), "times 1e4").tolist() == [2**63 - 1]
    assert np.isfinite(hostile(np.array([1e38], np.float32), "times 1e4")).all()

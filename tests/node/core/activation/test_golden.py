"""A model that answers otherwise than its publisher saw is refused, naming where."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleetcast.golden_file import pack_golden
from node.core.activation import golden
from node.core.inference.tensors import Spec
from schemas.errors import Code, Refused

values = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=5), elements=st.floats(-1e6, 1e6, width=32))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@given(values)
def test_the_same_answer_is_no_error_under_any_tolerance(known: np.ndarray) -> None:
    assert golden.compare({"y": known}, {"y": known.copy()}, relative=0.0, absolute=0.0) == 0.0


@given(values, st.floats(0.0, 0.9))
def test_an_error_within_tolerance_is_reported_as_its_share(known: np.ndarray, share: float) -> None:
    moved = known.astype(np.float64) + share * (0.5 + 0.01 * np.abs(known.astype(np.float64)))

    assert golden.compare({"y": known}, {"y": moved}, relative=0.01, absolute=0.5) == pytest.approx(share, abs=1e-6)


@given(values, st.data())
def test_one_element_beyond_tolerance_is_refused_by_its_place(known: np.ndarray, data: st.DataObject) -> None:
    at = tuple(data.draw(st.integers(0, size - 1)) for size in known.shape)
    moved = known.astype(np.float64)
    moved[at] += 1.01 * (0.5 + 0.01 * abs(moved[at])) + 1e-9

    with pytest.raises(Refused) as caught:
        golden.compare({"y": known}, {"y": moved}, relative=0.01, absolute=0.5)

    assert caught.value.code is Code.MODEL_GOLDEN
    assert caught.value.reason.startswith(f"y{list(at)}: expected")
    assert "within 0.5 + 0.01 * |expected|" in caught.value.reason


@pytest.mark.parametrize(("known", "answer"), [(1.0, np.nan), (np.nan, np.nan), (1.0, np.inf), (np.inf, 1.0), (np.inf, -np.inf)])
def test_nan_and_a_wrong_infinity_never_agree(known: float, answer: float) -> None:
    with pytest.raises(Refused, match=r"found (NaN, which agrees with nothing|inf|-inf|1\.0)"):
        golden.compare({"y": np.array([known])}, {"y": np.array([answer])}, relative=1.0, absolute=1e300)


def test_an_expected_infinity_may_be_answered() -> None:
    assert golden.compare({"y": np.array([np.inf])}, {"y": np.array([np.inf])}, relative=1e-3, absolute=0.0) == 0.0


@pytest.mark.parametrize("known", [np.array(["late", "on time"]), np.array([True, False])])
def test_labels_and_bools_must_be_equal(known: np.ndarray) -> None:
    assert golden.compare({"y": known}, {"y": known.astype(object)}, relative=1.0, absolute=1.0) == 0.0
    with pytest.raises(Refused, match=r"y\[0\]: expected .* \(equal\)"):
        golden.compare({"y": known}, {"y": known[::-1].astype(object)}, relative=1.0, absolute=1.0)


def test_another_shape_is_refused_naming_both() -> None:
    with pytest.raises(Refused, match=r"shape of y: expected \[2\], found \[2, 1\]"):
        golden.compare({"y": np.zeros(2)}, {"y": np.zeros((2, 1))}, relative=1.0, absolute=1.0)


def test_a_golden_output_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(Refused, match=r"expected one of \['y'\], found z") as caught:
        golden.compare({"z": np.zeros(1)}, {"y": np.zeros(1)}, relative=1.0, absolute=1.0)

    assert caught.value.code is Code.GOLDEN_INVALID


def test_an_npz_is_read_and_its_inputs_are_cast_within_their_kind() -> None:
    case = golden.parse(npz(**{"input.X": np.ones((3, 2)), "output.y": np.zeros(3)}))
    fitted = golden.fit_inputs(case, [Spec("X", "FP32", (-1, 2))])

    assert case.rows == 3
    assert fitted["X"].dtype == np.float32


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"PK\3\4 no zip",
        npz(X=np.zeros(1)),
        npz(**{"input.X": np.zeros(1)}),
        npz(**{"input.X": np.zeros(1), "output.y": np.array([object()])}),
        npz(**{"input.X": np.zeros(4), "output.y": np.zeros(4)})[:-40],
    ],
)
def test_what_is_no_npz_of_plain_arrays_is_refused(payload: bytes) -> None:
    with pytest.raises(Refused) as caught:
        golden.parse(payload)

    assert caught.value.code is Code.GOLDEN_INVALID


def test_an_npz_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("input.X.npy", "w") as member:
        for _ in range(golden.GOLDEN_BYTES_MAX // 2**20 + 1):
            member.write(bytes(2**20))

    with pytest.raises(Refused, match="the golden file: bytes unpacked"):
        golden.parse(buffer.getvalue())


@pytest.mark.parametrize(
    "spec", [Spec("Z", "FP32", (-1, 2)), Spec("X", "INT64", (-1, 2)), Spec("X", "FP32", (-1, 3)), Spec("X", "BYTES", (-1, 2))]
)
def test_golden_inputs_that_the_model_does_not_take_are_refused(spec: Spec) -> None:
    case = golden.parse(npz(**{"input.X": np.ones((3, 2)), "output.y": np.zeros(3)}))

    with pytest.raises(Refused) as caught:
        golden.fit_inputs(case, [spec])

    assert caught.value.code is Code.GOLDEN_INVALID


@given(values, values)
def test_what_is_packed_is_parsed_as_it_was_and_always_to_the_same_bytes(asked: np.ndarray, answered: np.ndarray) -> None:
    texts = np.array(["so", "is it"], object)

    packed = pack_golden({"x": asked}, {"y": answered, "text": texts})

    case = golden.parse(packed)
    np.testing.assert_array_equal(case.inputs["x"], asked)
    np.testing.assert_array_equal(case.outputs["y"], answered)
    assert case.outputs["text"].tolist() == texts.tolist()
    assert pack_golden({"x": asked}, {"y": answered, "text": texts}) == packed


def test_inputs_alone_are_a_case_only_for_who_is_yet_to_ask_the_model() -> None:
    packed = pack_golden({"x": np.zeros((2, 3))}, {})

    assert golden.parse(packed, known=False).rows == 2
    with pytest.raises(Refused, match=r"output\.<tensor>"):
        golden.parse(packed)


def test_rows_are_asked_one_after_the_other_of_a_model_that_takes_one_at_a_time() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    case = golden.parse(npz(**{"input.x": rows, "output.y": rows}))

    alone = golden.questions(case, [Spec("x", "FP32", (1, 2))])
    together = golden.questions(case, [Spec("x", "FP32", (-1, 2))])

    assert [one["x"].tolist() for one in alone] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [one["x"].tolist() for one in together] == [rows.tolist()]
    with pytest.raises(Refused):
        golden.questions(case, [Spec("x", "FP32", (2, 2))])

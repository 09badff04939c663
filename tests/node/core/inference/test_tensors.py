"""Tensors survive both wire forms, and what is not exactly right is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from node.core.inference.tensors import (
    DTYPES,
    Raw,
    Spec,
    array_of,
    check_shape,
    check_signature,
    json_elements,
    pack_strings,
    raw_from_binary,
    raw_from_json,
    raw_of,
    rows_of,
)
from schemas.errors import Code, Refused

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
numeric = st.sampled_from(sorted(DTYPES)).flatmap(lambda name: hnp.arrays(DTYPES[name], shapes))
finite = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(DTYPES[name], shapes, elements={"allow_nan": False, "allow_infinity": False} if name.startswith("FP") else None)
)
strings = hnp.arrays(object, shapes, elements=st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(numeric)
def test_numbers_survive_the_binary_form_bit_by_bit(array: np.ndarray) -> None:
    raw = raw_of("x", array)
    back = array_of(raw_from_binary(Spec("x", raw.datatype, array.shape), array.shape, bytes(raw.data)))

    assert array.dtype == back.dtype
    assert array.tobytes() == back.tobytes()


@given(strings)
def test_strings_survive_the_binary_form(array: np.ndarray) -> None:
    raw = raw_of("x", array)

    assert raw.datatype == "BYTES"
    assert array.tolist() == array_of(raw_from_binary(Spec("x", "BYTES", array.shape), array.shape, raw.data)).tolist()


@given(st.one_of(finite, strings))
def test_json_carries_every_finite_tensor_flat_and_nested(array: np.ndarray) -> None:
    spec = Spec("x", raw_of("x", array).datatype, (-1,) * array.ndim)

    assert array.tolist() == array_of(raw_from_json(spec, array.shape, array.tolist())).tolist()
    assert array.tolist() == array_of(raw_from_json(spec, array.shape, json_elements(raw_of("x", array)))).tolist()


def test_an_array_in_another_byte_order_or_layout_is_put_right() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T

    assert array.tolist() == array_of(raw_of("x", array)).tolist()


@pytest.mark.parametrize(
    ("datatype", "data", "found"),
    [
        ("FP32", ["1.5"], "string"),
        ("FP32", [None], "null"),
        ("FP32", [True], "bool"),
        ("INT64", [1.0], "float"),
        ("INT64", [True], "bool"),
        ("BOOL", [1], "int"),
        ("BYTES", [1], "int"),
    ],
)
def test_json_elements_of_another_type_are_refused_not_converted(datatype: str, data: list[object], found: str) -> None:
    with pytest.raises(Refused, match=f"expected {datatype}, found {found}") as caught:
        raw_from_json(Spec("x", datatype, (1,)), (1,), data)

    assert caught.value.code is Code.REQUEST_INVALID


@pytest.mark.parametrize(("datatype", "element"), [("UINT8", -1), ("INT8", 128), ("FP32", 1e300), ("FP16", 70000.0), ("FP64", 10**400)])
def test_json_numbers_that_do_not_fit_are_refused(datatype: str, element: float) -> None:
    with pytest.raises(Refused, match=f"does not fit {datatype}"):
        raw_from_json(Spec("x", datatype, (1,)), (1,), [element])


@pytest.mark.parametrize(
    "data", [[[1.0, 2.0, 3.0], [4.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[1.0, 2.0]], [1.0], "1 2 3 4", {}, None, []]
)
def test_json_data_of_another_form_than_its_shape_is_refused(data: object) -> None:
    with pytest.raises(Refused):
        raw_from_json(Spec("x", "FP32", (-1, 2)), (2, 2), data)


@pytest.mark.parametrize("shape", [[2], [1, 6], [1, 5, 1], [0, 5], [-1, 5], [True, 5], [1.0, 5], "15", None, [2**40, 5]])
def test_a_shape_that_the_model_does_not_take_is_refused(shape: object) -> None:
    with pytest.raises(Refused):
        check_shape(Spec("x", "FP32", (-1, 5)), shape)


def test_a_wrong_shape_is_answered_with_both_sides() -> None:
    with pytest.raises(Refused, match=r"x: shape: expected \[-1, 5\], found \[3, 4\]"):
        check_shape(Spec("x", "FP32", (-1, 5)), [3, 4])


def test_binary_data_of_another_length_than_its_shape_is_refused() -> None:
    with pytest.raises(Refused, match="expected 8, found 7"):
        raw_from_binary(Spec("x", "FP32", (2,)), (2,), b"\0" * 7)


def test_a_bool_is_one_byte_of_0_or_1() -> None:
    with pytest.raises(Refused, match="0 or 1"):
        raw_from_binary(Spec("x", "BOOL", (2,)), (2,), b"\x01\x02")


@pytest.mark.parametrize("data", [b"\1", struct.pack("<I", 5) + b"abcd", struct.pack("<I", 2**32 - 1)])
def test_a_bytes_tensor_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="cut off"):
        raw_from_binary(Spec("x", "BYTES", (1,)), (1,), data)


def test_a_bytes_tensor_with_another_number_of_elements_is_refused() -> None:
    with pytest.raises(Refused, match="expected 3, found 2"):
        raw_from_binary(Spec("x", "BYTES", (3,)), (3,), pack_strings(["a", "b"]))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(Refused, match="UTF-8"):
        array_of(Raw("x", "BYTES", (1,), pack_strings([b"\xff"])))


def test_rows_are_the_free_first_axis() -> None:
    raw = raw_of("x", np.zeros((7, 5), np.float32))

    assert rows_of([Spec("x", "FP32", (-1, 5))], [raw]) == 7
    assert rows_of([Spec("x", "FP32", (7, 5))], [raw]) == 1


def test_a_signature_agrees_in_any_order_and_an_output_may_be_refined() -> None:
    a, b = Spec("a", "FP32", (-1, 5)), Spec("b", "INT64", (1,))

    check_signature("inputs", declared=[a, b], found=[b, a])
    check_signature("outputs", declared=[a], found=[Spec("a", "FP32", (-1, -1))])


@pytest.mark.parametrize(
    "found", [[Spec("a", "FP32", (-1, 6))], [Spec("a", "FP64", (-1, 5))], [Spec("b", "FP32", (-1, 5))], [Spec("a", "FP32", (5,))], []]
)
def test_another_signature_is_refused_naming_both(found: list[Spec]) -> None:
    with pytest.raises(Refused, match=r"expected a FP32\[-1, 5\], found") as caught:
        check_signature("inputs", declared=[Spec("a", "FP32", (-1, 5))], found=found)

    assert caught.value.code is Code.MODEL_SIGNATURE


def test_an_inputs_free_axis_is_not_a_fixed_one() -> None:
    with pytest.raises(Refused):
        check_signature("inputs", declared=[Spec("a", "FP32", (-1, 5))], found=[Spec("a", "FP32", (1, 5))])

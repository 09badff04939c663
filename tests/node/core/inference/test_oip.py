"""Whatever a client sends is a request or a refusal, and a response says what the model said."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.core.inference.oip import HEADS_KEPT, Request, Requests, encode_response, parse_request
from node.core.inference.tensors import Spec, raw_of
from schemas.errors import Refused

INPUTS = (Spec("X", "FP32", (-1, 2)), Spec("N", "BYTES", (-1,)))
OUTPUTS = (Spec("y", "FP32", (-1,)), Spec("z", "INT64", (-1,)))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["X", "N", "y", "FP32", "BYTES"]))
keys = st.sampled_from(["inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "id"])
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=20)


def tensor(name: str, datatype: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1, 2] if name == "X" else [1], **fields}


@given(anything, st.none() | st.integers(-5, 50), st.binary(max_size=8))
@example({"inputs": [tensor("X", "FP32", data=[1, {}]), tensor("N", "BYTES", data=["a"])]}, None, b"")
@example({"inputs": [tensor("X", "FP32", parameters={"binary_data_size": True}), tensor("N", "BYTES")]}, None, b"")
@example({"inputs": [tensor("X", "FP32", data=[[1, 2]]), tensor("N", "BYTES", data=["\ud800"])]}, None, b"")
@example({"inputs": [tensor(["X"], "FP32")], "parameters": [1]}, None, b"")  # type: ignore[arg-type]
def test_any_body_is_a_request_or_a_refusal(body: object, header_bytes: int | None, behind: bytes) -> None:
    with contextlib.suppress(Refused):
        parse_request(json.dumps(body).encode() + behind, header_bytes=header_bytes, inputs=INPUTS, outputs=OUTPUTS)


def test_binary_and_json_tensors_may_stand_in_one_request_in_any_order() -> None:
    names = raw_of("N", np.array(["ä"], object))
    header = {
        "inputs": [
            tensor("N", "BYTES", parameters={"binary_data_size": len(names.data)}),
            tensor("X", "FP32", data=[[1, 2]]),
        ],
        "outputs": [{"name": "z"}],
        "parameters": {"binary_data_output": True, "event_time": 5},
    }
    head = json.dumps(header).encode()
    request = parse_request(head + bytes(names.data), header_bytes=len(head), inputs=INPUTS, outputs=OUTPUTS)

    assert [raw.name for raw in request.inputs] == ["X", "N"]
    assert bytes(names.data) == bytes(request.inputs[1].data)
    assert request.outputs == (("z", True),)
    assert request.event_time == 5.0


def test_a_response_holds_only_the_outputs_asked_for_and_binary_ones_behind_the_json() -> None:
    answers = [raw_of("y", np.array([0.5], np.float32)), raw_of("z", np.array([7], np.int64))]
    pieces, json_bytes = encode_response(Request("q", (), (("z", True),), None), model="delay", version="1.0.0", answers=answers)
    (whole,), no_bytes = encode_response(Request(None, (), (("y", False),), None), model="delay", version="1.0.0", answers=answers)
    body = b"".join(pieces)

    assert json.loads(body[:json_bytes]) == {
        "model_name": "delay",
        "model_version": "1.0.0",
        "id": "q",
        "outputs": [{"name": "z", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}],
    }
    assert body[json_bytes:] == np.array([7], "<i8").tobytes()
    assert no_bytes is None
    assert json.loads(whole)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]


NUMBERS = (Spec("X", "FP32", (-1, 2)), Spec("N", "INT64", (-1,)), Spec("B", "BOOL", (-1,)))


def pointed(shapes: tuple[int, int, int], sizes: tuple[int, int, int], *, reverse: bool = False) -> bytes:
    """A head of binary tensors, the last of which may be left out with a size of -1."""
    inputs = [
        {"name": "X", "datatype": "FP32", "shape": [shapes[0], 2], "parameters": {"binary_data_size": sizes[0]}},
        {"name": "N", "datatype": "INT64", "shape": [shapes[1]], "parameters": {"binary_data_size": sizes[1]}},
        {"name": "B", "datatype": "BOOL", "shape": [shapes[2]], "parameters": {"binary_data_size": sizes[2]}},
    ][: 3 if sizes[2] >= 0 else 2]
    return json.dumps({"id": "q", "inputs": inputs[::-1] if reverse else inputs}).encode()


few = st.integers(0, 2)
heads = st.builds(
    pointed,
    st.tuples(few, few, few),
    st.tuples(st.sampled_from([0, 8, 16]), st.sampled_from([0, 8, 16]), st.integers(-1, 2)),
    reverse=st.booleans(),
)


@given(st.lists(st.tuples(heads, st.binary(min_size=14, max_size=34)), min_size=1, max_size=6), st.booleans())
def test_a_head_that_was_read_before_is_read_the_same_again(asked: list[tuple[bytes, bytes]], has_bools: bool) -> None:
    specs = NUMBERS if has_bools else NUMBERS[:2]
    reader = Requests(specs, OUTPUTS)

    for head, binary in asked * 2:
        told = [
            outcome(lambda head=head, binary=binary: reader.read(head + binary, header_bytes=len(head))),
            outcome(lambda head=head, binary=binary: parse_request(head + binary, header_bytes=len(head), inputs=specs, outputs=OUTPUTS)),
        ]
        assert told[0] == told[1]


def outcome(read: Any) -> object:
    try:
        request = read()
    except Refused as refusal:
        return refusal.code, refusal.reason
    return request.id, request.outputs, [(raw.name, raw.datatype, raw.shape, bytes(raw.data)) for raw in request.inputs]


def test_heads_that_are_all_different_take_no_more_memory() -> None:
    reader = Requests(NUMBERS[:1], OUTPUTS)
    for number in range(3 * HEADS_KEPT):
        tensor = {"name": "X", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
        head = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
        assert reader.read(head + bytes(8), header_bytes=len(head)).id == str(number)

    assert len(reader._known) <= HEADS_KEPT


def refusal(body: bytes) -> str:
    with pytest.raises(Refused) as caught:
        parse_request(body, header_bytes=None, inputs=INPUTS, outputs=OUTPUTS)
    return caught.value.reason


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[1]", "the body does not begin with a JSON object"),
        (b"X=1", "the body does not begin with a JSON object"),
        (b'{"inputs": ' + b"[" * 100_000, "the JSON of the body is nested deeper than any request has to be"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "the JSON of the body has a number of more than 4300 digits"),
        (b'{"inputs": [1,]}', "the JSON of the body cannot be read: "),
        (b'{"inputs": "\xff"}', "the JSON of the body is not UTF-8: byte 12 (counted from 0)"),
    ],
    ids=["a list", "a form", "nested deep", "a long number", "a comma too many", "no UTF-8"],
)
def test_json_that_cannot_be_read_is_refused_by_what_is_wrong_with_it(body: bytes, sentence: str) -> None:
    assert refusal(body).startswith(sentence)


def test_a_field_that_would_be_ignored_is_refused_by_its_name() -> None:
    inputs = [tensor("X", "FP32", data=[[1, 2]]), tensor("N", "BYTES", data=["a"])]
    known = {"id": "1", "inputs": inputs, "outputs": None, "parameters": None, "model_name": "m", "priority": None}

    assert parse_request(json.dumps(known).encode(), header_bytes=None, inputs=INPUTS, outputs=OUTPUTS).id == "1"
    assert refusal(json.dumps({**known, "ouputs": [{"name": "y"}]}).encode()) == (
        "fields of the request: expected some of id, inputs, outputs, parameters, found 'ouputs'"
    )

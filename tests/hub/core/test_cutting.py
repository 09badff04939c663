"""Blocks cover a file, are as large as they may be, and stay the same where the tensors do."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hub.core import cutting
from hub.core.cutting import GAP_BYTES_MIN, TENSOR_BYTES_MIN, Span, cut, tensor_spans
from schemas.limits import BLOCK_BYTES_MAX, KIB
from schemas.names import sha256

BLOCK = 10 * KIB  # smaller than a tensor worth a block, so that the examples are small


@st.composite
def files(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A file's size and the tensors in it, with gaps of any size between them."""
    parts = draw(st.lists(st.tuples(st.integers(0, 3 * GAP_BYTES_MIN), st.integers(0, 4 * TENSOR_BYTES_MIN)), max_size=12))
    spans, at = [], 0
    for gap, length in parts:
        spans.append((at + gap, length))
        at += gap + length
    return at + draw(st.integers(0, 3 * GAP_BYTES_MIN)), spans


def model_of(tensors: dict[str, np.ndarray]) -> bytes:
    """An ONNX file with these initialisers."""
    names = list(tensors)
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, tensors[name].shape) for name in names]
    graph = helper.make_graph(nodes, "g", [], outputs, [numpy_helper.from_array(tensors[name], name) for name in names])
    return helper.make_model(graph).SerializeToString()


def floats(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def digests(data: bytes) -> set[bytes]:
    return {sha256(data[at : at + length]) for at, length in cut(len(data), tensor_spans(data))}


@given(files())
def test_blocks_cover_the_file_exactly_and_none_is_too_large(file: tuple[int, list[Span]]) -> None:
    total, spans = file
    blocks = cut(total, spans, block_bytes_max=BLOCK)

    assert [at + length for at, length in blocks] == [at for at, _ in blocks[1:]] + [total] * bool(blocks)
    assert not blocks or blocks[0][0] == 0
    assert all(0 < length <= BLOCK for _, length in blocks)


@given(files())
def test_every_large_tensor_begins_a_block_and_is_cut_at_multiples_from_there(file: tuple[int, list[Span]]) -> None:
    total, spans = file
    begins = {at for at, _ in cut(total, spans, block_bytes_max=BLOCK)}

    for begin, length in spans:
        if length >= TENSOR_BYTES_MIN:
            assert set(range(begin, begin + length, BLOCK)) == {at for at in begins if begin <= at < begin + length}


@given(files())
def test_a_large_tensor_ends_a_block_unless_little_follows(file: tuple[int, list[Span]]) -> None:
    total, spans = file
    begins = {at for at, _ in cut(total, spans, block_bytes_max=BLOCK)} | {total}
    large = [span for span in spans if span[1] >= TENSOR_BYTES_MIN]

    for (begin, length), (after, _) in pairwise([*large, (total, 0)]):
        assert begin + length in begins or after - (begin + length) < GAP_BYTES_MIN


@given(files())
def test_small_tensors_make_no_blocks_of_their_own(file: tuple[int, list[Span]]) -> None:
    total, spans = file
    large = sum(length >= TENSOR_BYTES_MIN for _, length in spans)

    assert len(cut(total, spans, block_bytes_max=BLOCK)) <= total // BLOCK + 2 * large + 1


@given(st.lists(st.tuples(st.integers(-100_000, 200_000), st.integers(-100_000, 200_000)), max_size=8), st.integers(0, 100_000))
def test_spans_that_no_file_has_cannot_break_the_cover(spans: list[Span], total: int) -> None:
    blocks = cut(total, spans, block_bytes_max=BLOCK)

    assert [at + length for at, length in blocks] == [at for at, _ in blocks[1:]] + [total] * bool(blocks)
    assert all(length > 0 for _, length in blocks)


@given(st.binary(max_size=400))
def test_garbage_gives_only_spans_that_lie_inside_it(data: bytes) -> None:
    assert all(at >= 0 and length > 0 and at + length <= len(data) for at, length in tensor_spans(data))


@given(st.data())
def test_a_cut_or_damaged_model_never_leads_outside_the_file(data: st.DataObject) -> None:
    whole = bytearray(model_of({"a": floats(50), "b": floats(70)}))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])

    assert all(at >= 0 and length > 0 and at + length <= len(damaged) for at, length in tensor_spans(damaged))


def test_spans_are_where_the_weights_stand() -> None:
    tensors = {"a": floats(5000), "b": floats(7, seed=1), "c": floats(9000, seed=2)}
    data = model_of(tensors)

    assert [data[at : at + length] for at, length in tensor_spans(data)] == [tensor.tobytes() for tensor in tensors.values()]
    assert tensor_spans(memoryview(data)) == tensor_spans(data)


def test_weights_in_a_typed_field_are_found_too() -> None:
    values = floats(5000)
    model = onnx.load_model_from_string(model_of({"a": values}))
    del model.graph.initializer[:]
    model.graph.initializer.append(helper.make_tensor("a", TensorProto.FLOAT, values.shape, values))
    data = model.SerializeToString()

    assert [data[at : at + length] for at, length in tensor_spans(data)] == [values.tobytes()]


def test_a_file_without_weights_has_no_spans() -> None:
    assert tensor_spans(b"") == []
    assert tensor_spans(b"PK\x03\x04 not a model") == []


def test_a_tensor_that_moves_keeps_its_blocks() -> None:
    kept = floats(100_000)
    before = model_of({"a": floats(30_000, seed=1), "kept": kept})
    after = model_of({"a_with_a_longer_name": floats(20_000, seed=2), "kept": kept})
    full = len(kept.tobytes()) // BLOCK_BYTES_MAX

    assert len(digests(before) & digests(after)) >= full


def test_a_thousand_small_tensors_make_few_blocks() -> None:
    data = model_of({f"bias{number}": floats(16, seed=number) for number in range(1000)})

    assert len(cut(len(data), tensor_spans(data))) == -(-len(data) // BLOCK_BYTES_MAX)


def test_no_block_is_spent_on_what_stands_between_two_tensors() -> None:
    data = model_of({f"layer{number}": floats(6000, seed=number) for number in range(50)})

    assert len(cut(len(data), tensor_spans(data))) == 52  # what is before them, each with what follows it, and the list of outputs


def test_a_file_of_nothing_but_fields_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = model_of({"a": floats(100)})
    assert tensor_spans(data)
    monkeypatch.setattr(cutting, "FIELDS_MAX", 1000)

    assert tensor_spans(data)
    assert tensor_spans(data + b"\x08\x01" * 1000) == []

"""Blocks cover a file, are as large as they may be, and stay the same where the tensors do."""

import json
import struct
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hub.core.delivery import chunker
from hub.core.delivery.chunker import GAP_BYTES_MIN, TENSOR_BYTES_MIN, Span, cut, tensors
from schemas.limits import BLOCK_BYTES_MAX, KIB
from schemas.names import sha256


def tensor_spans(data: bytes | memoryview) -> list[Span]:
    return [(tensor.offset, tensor.length) for tensor in tensors(data)]


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
    monkeypatch.setattr(chunker, "FIELDS_MAX", 1000)

    assert tensor_spans(data)
    assert tensor_spans(data + b"\x08\x01" * 1000) == []


# Other formats, and nested graphs


def safetensors_of(arrays: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of float32 tensors."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def gguf_of(arrays: dict[str, np.ndarray], words: int = 3) -> bytes:
    """A GGUF file of float32 tensors, with a string, a number and a list of strings before them."""

    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(arrays), 3)
    head += string("general.name") + struct.pack("<I", 8) + string("test")
    head += string("general.alignment") + struct.pack("<II", 4, 64)
    head += string("words") + struct.pack("<IIQ", 9, 8, words) + string("word") * words
    body = b""
    for name, array in arrays.items():
        body += bytes(-len(body) % 64)
        head += string(name) + struct.pack("<IQIQ", 1, array.size, 0, len(body))
        body += array.tobytes()
    return head + bytes(-len(head) % 64) + body


@pytest.mark.parametrize("made", [safetensors_of, gguf_of])
def test_tensors_of_other_formats_are_found_with_their_names(made: Callable[[dict[str, np.ndarray]], bytes]) -> None:
    arrays = {"one": floats(5000), "two": floats(77, seed=1), "three": floats(6000, seed=2)}
    data = made(arrays)

    assert [(one.name, one.dtype, data[one.offset : one.offset + one.length]) for one in tensors(data)] == [
        (name, "float32", array.tobytes()) for name, array in arrays.items()
    ]


def test_a_gguf_tensor_of_records_is_as_long_as_its_records() -> None:
    data = gguf_of({"one": floats(64)})
    at = data.index(struct.pack("<IQIQ", 1, 64, 0, 0))
    quantised = data[:at] + struct.pack("<IQIQ", 1, 64, 8, 0) + data[at + 24 :]

    assert [(one.length, one.dtype) for one in tensors(quantised)] == [(68, "Q8_0")]


@given(st.data(), st.sampled_from([safetensors_of, gguf_of]))
def test_a_damaged_file_of_another_format_never_leads_outside(data: st.DataObject, made: Callable[[dict[str, np.ndarray]], bytes]) -> None:
    whole = bytearray(made({"a": floats(50), "b": floats(70)}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 250))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])

    assert all(one.offset >= 0 and one.length > 0 and one.offset + one.length <= len(damaged) for one in tensors(damaged))


@pytest.mark.parametrize("begin", [b"GGUF", b"\x10\0\0\0\0\0\0\0{"])
@given(rest=st.binary(max_size=200))
def test_garbage_that_begins_like_a_model_raises_nothing(begin: bytes, rest: bytes) -> None:
    assert all(one.offset + one.length <= len(begin + rest) for one in tensors(begin + rest))


def test_weights_inside_a_branch_and_a_constant_are_found() -> None:
    inner = numpy_helper.from_array(floats(5000), "inner")
    constant = helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(floats(6000, seed=1)))
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [5000])
    branch = helper.make_graph([constant, helper.make_node("Identity", ["inner"], ["out"])], "branch", [], [output], [inner])
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    node = helper.make_node("If", ["condition"], ["result"], then_branch=branch, else_branch=branch)
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [5000])
    data = helper.make_model(helper.make_graph([node], "g", [condition], [result])).SerializeToString()

    assert sorted(one.name for one in tensors(data)) == ["inner", "inner", "made", "made"]
    assert {one.length for one in tensors(data)} == {20_000, 24_000}


@given(files(), st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, BLOCK)), max_size=6))
def test_known_blocks_never_break_the_cover_nor_the_tensors(file: tuple[int, list[Span]], known: list[Span]) -> None:
    total, spans = file
    plain = {at for at, _ in cut(total, spans, block_bytes_max=BLOCK)}
    blocks = cut(total, spans, known=known, block_bytes_max=BLOCK)

    assert [at + length for at, length in blocks] == [at for at, _ in blocks[1:]] + [total] * bool(blocks)
    assert all(0 < length <= BLOCK for _, length in blocks)
    assert {begin for begin, length in spans if length >= TENSOR_BYTES_MIN} & plain <= {at for at, _ in blocks}


def test_a_known_block_in_a_text_is_a_block() -> None:
    assert cut(30_000, [], known=[(7000, 9000)], block_bytes_max=BLOCK) == [(0, 7000), (7000, 9000), (16_000, BLOCK), (26_240, 3760)]

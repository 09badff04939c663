"""What a manifest may say, and how wants count its blocks."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.block_request import Range, ranges_of
from schemas.manifest import Block, File, Golden, Manifest, Payload, Tensor, Variant, cheapest
from schemas.names import sha256
from schemas.signals import Signal
from tools.examples import MANIFEST

A, B, C = (sha256(name) for name in (b"a", b"b", b"c"))


def file(path: str = "model.onnx", *, blocks: tuple[Block, ...] = (Block(A, 10),), **changes: Any) -> File:
    return File(**{"path": path, "bytes": sum(block.bytes for block in blocks), "digest": A, "blocks": blocks, **changes})


def manifest(**changes: Any) -> Manifest:
    return Manifest(**{**dict(MANIFEST), **changes})


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../x",
        "a//b",
        ".hidden",
        "a/.b",
        "a\x00b",
        "a\\b",
        "C:x",
        "-rf",
        "a/b/c/d/e",
        "x" * 129,
        "é.onnx",
        "a\n",
        "a/",
    ],
)
def test_a_path_that_could_leave_the_folder_is_no_path(path: str) -> None:
    with pytest.raises(ValidationError):
        file(path)


@pytest.mark.parametrize("path", ["model.onnx", "weights/part-0.bin", "a/b/c/d", "_x", "0"])
def test_an_ordinary_path_is_one(path: str) -> None:
    assert file(path).path == path


def test_blocks_must_add_up_to_their_file() -> None:
    with pytest.raises(ValidationError, match="add up"):
        file(bytes=11)


def test_a_file_has_blocks_or_an_index_and_not_both() -> None:
    for blocks, index in (((), ()), ((Block(A, 10),), (Block(B, 10),))):
        with pytest.raises(ValidationError, match="either"):
            File(path="m", bytes=10, digest=A, blocks=blocks, index=index)


def test_two_files_whose_names_differ_in_case_only_are_refused() -> None:
    with pytest.raises(ValidationError, match="one path"):
        manifest(variants=(Variant(name="fp32", files=(file("Model.onnx"), file("model.ONNX"))),), golden=None)


def test_a_golden_file_may_not_stand_in_a_variants_place() -> None:
    with pytest.raises(ValidationError, match="one path"):
        manifest(variants=(Variant(name="fp32", files=(file("model.onnx"),)),), golden=Golden(file=file("model.onnx")))


def test_two_variants_of_one_name_are_refused() -> None:
    variant = Variant(name="fp32", files=(file(),))

    with pytest.raises(ValidationError, match="one name"):
        manifest(variants=(variant, variant))


@pytest.mark.parametrize("missing", ["baseline", "privacy"])
def test_a_baseline_without_noise_or_noise_without_a_baseline_is_refused(missing: str) -> None:
    with pytest.raises(ValidationError, match="noise"):
        manifest(**{missing: None})


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": (1, 2, 3)},
        {"edges": (2.0, 1.0)},
        {"edges": (1.0, 1.0)},
        {"between": (0.1, 0.2)},
        {"counts": (1, 2, -3, 4)},
        {"edges": (1.0, float("nan"))},
    ],
)
def test_a_signal_that_does_not_agree_with_itself_is_refused(changes: dict[str, Any]) -> None:
    whole = {"name": "x", "kind": "numeric", "side": "input", "tensor": "t", "edges": (1.0, 2.0), "counts": (1, 2, 3, 0)}

    assert Signal(**whole).bins == 4
    with pytest.raises(ValidationError):
        Signal(**{**whole, **changes})


def test_a_shape_has_no_axis_below_minus_one() -> None:
    with pytest.raises(ValidationError):
        Tensor(name="x", datatype="FP32", shape=(-2,))


def test_files_are_counted_with_the_golden_file_last() -> None:
    assert [one.path for one in MANIFEST.files_of("fp32")] == ["model.onnx", "golden.npz"]
    with pytest.raises(KeyError):
        MANIFEST.files_of("int8")


def test_the_cheapest_payload_is_the_smallest_that_the_node_can_decode() -> None:
    block = Block(A, 100, (Payload("zstd", B, 60), Payload("delta", C, 10)))

    assert cheapest(block, ("raw", "zstd", "delta")) == Payload("delta", C, 10)
    assert cheapest(block, ("raw", "zstd")) == Payload("zstd", B, 60)
    assert cheapest(block, ("raw",)) == Payload("raw", A, 100)


def test_an_encoding_that_saves_nothing_is_not_asked_for() -> None:
    assert cheapest(Block(A, 100, (Payload("zstd", B, 100),)), ("raw", "zstd")) == Payload("raw", A, 100)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_name_exactly_the_numbers_and_no_two_of_them_touch(numbers: set[int]) -> None:
    ranges = ranges_of(sorted(numbers))

    assert [number for first, length in ranges for number in range(first, first + length)] == sorted(numbers)
    assert all(one.first + one.length < other.first for one, other in pairwise(ranges))
    assert all(isinstance(one, Range) for one in ranges)

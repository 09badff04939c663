"""A release is put together from what was read: files, signals, golden rows."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.golden_file import pack_golden
from hub.core.delivery.encode import encode_block
from hub.core.publish import release
from hub.core.publish.release import Feature, Fitted, Golden
from node.core.activation import golden
from schemas import codec
from schemas.encoding import decode_payload
from schemas.errors import Code, Refused
from schemas.limits import INDEX_PART_BLOCKS_MAX, MANIFEST_BYTES_MAX
from schemas.manifest import Block, File, Index, Manifest, Payload, Tensor, Variant
from schemas.names import sha256

TOLERANCE = {"relative": 1e-3, "absolute": 1e-4}


def tensor(name: str, *shape: int, datatype: str = "FP32") -> Tensor:
    return Tensor.model_validate({"name": name, "datatype": datatype, "shape": shape})


def fitted(columns: dict[str, np.ndarray]) -> Fitted:
    wide = tensor("x", -1, len(columns))
    kinds = [release.kind_of(column, categories_max=31) for column in columns.values()]
    features = tuple(Feature(name, wide, place, kind) for place, (name, kind) in enumerate(zip(columns, kinds, strict=True)))
    return Fitted(features, columns, None)


def manifest(*files: File, created: int = 1) -> Manifest:
    return Manifest(
        model="m", version="1.0.0", created=created, inputs=(tensor("x", -1, 1),), outputs=(tensor("y", -1),),
        variants=(Variant(name="default", files=files),),
    )  # fmt: skip


def blocks_of(count: int) -> list[Block]:
    return [encode_block(number.to_bytes(4, "big") * 100)[0] for number in range(count)]


# Files


@given(st.lists(st.integers(1, 400), max_size=20))
def test_the_manifest_carries_at_most_the_stated_blocks(counts: list[int]) -> None:
    inline = release.inline_files(counts)

    assert sum(count for count, carried in zip(counts, inline, strict=True) if carried) <= release.INLINE_BLOCKS_MAX
    assert all(inline) == (sum(counts) <= release.INLINE_BLOCKS_MAX)


def test_a_long_block_list_becomes_an_index_that_leads_to_the_same_blocks() -> None:
    blocks = blocks_of(INDEX_PART_BLOCKS_MAX + 7)
    file, payloads = release.assemble_file("model.onnx", bytes(32), blocks, inline=False)
    parts = [decode_payload(Payload("raw", part.digest, part.bytes), part, payloads[part.digest]) for part in file.index]

    assert [block for part in parts for block in codec.decode(Index, part).blocks] == blocks
    assert file.blocks == ()
    assert file.bytes == sum(block.bytes for block in blocks)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 300)), min_size=1, max_size=12), st.booleans())
def test_no_file_is_described_with_more_bytes_than_were_foreseen(contents: list[tuple[bytes, int]], inline: bool) -> None:
    blocks = [encode_block(data * times)[0] for data, times in contents]
    cuts = [(0, block.bytes) for block in blocks]
    real, _ = release.assemble_file("model.onnx", sha256(b"file"), blocks, inline=inline)
    foreseen = release.foreseen_file("model.onnx", cuts, inline=inline)

    assert len(codec.encode(manifest(real))) <= len(codec.encode(manifest(foreseen)))


def test_a_full_inline_list_leaves_most_of_the_manifest_to_the_baseline() -> None:
    cuts = [(0, 120 * 1024)] * release.INLINE_BLOCKS_MAX

    assert len(codec.encode(manifest(release.foreseen_file("model.onnx", cuts, inline=True)))) < MANIFEST_BYTES_MAX / 2


def test_a_manifest_beyond_its_bound_is_refused_with_advice() -> None:
    too_many = release.foreseen_file("model.onnx", [(0, 120 * 1024)] * 1000, inline=True)
    with pytest.raises(Refused, match=f"{MANIFEST_BYTES_MAX}.*signals") as caught:
        release.check_size(manifest(too_many))

    assert caught.value.code == Code.SCHEMA_TOO_LARGE


def test_what_a_device_fetches_is_the_smallest_of_each_block() -> None:
    small, large = encode_block(bytes(1000))[0], encode_block(b"x")[0]

    assert release.wire_bytes([small, large]) == small.payloads[0].bytes + 1


def test_a_release_made_again_later_is_the_same_but_another_file_is_not() -> None:
    one, other = (release.assemble_file("model.onnx", bytes(32), [encode_block(data)[0]], inline=True)[0] for data in (b"a", b"b"))

    assert release.same_content(manifest(one, created=1), manifest(one, created=2))
    assert not release.same_content(manifest(one), manifest(other))


# Signals


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.arange(40.0), "numeric"),
        (np.arange(31), "categorical"),
        (np.arange(32), "numeric"),
        (np.array([True, False]), "categorical"),
        (np.array(["a", "b"], object), "categorical"),
    ],
)
def test_the_kind_of_a_column_follows_its_values(column: np.ndarray, kind: str) -> None:
    assert release.kind_of(column, categories_max=31) == kind


def test_columns_stand_in_the_row_where_they_belong() -> None:
    wide = tensor("x", -1, 2, 2)
    columns = {name: np.full(3, number, "f4") for number, name in enumerate("abcd")}
    features = [Feature(name, wide, place, "numeric") for name, place in (("d", 3), ("a", 0), ("c", 2), ("b", 1))]

    assert release.feeds(features, columns)["x"].tolist() == [[[0, 1], [2, 3]]] * 3


# Golden inputs


def test_golden_rows_are_made_of_what_is_common_and_no_row_is_copied() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 6)).astype("f4")
    made = release.golden_columns({str(place): column for place, column in enumerate(rows.T)})
    table = np.stack(list(made.values()), axis=1)

    assert table.shape == (release.GOLDEN_ROWS, 6)
    assert not (table[:, None, :] == rows[None]).all(axis=2).any()
    assert (table.min(axis=0) > rows.min(axis=0)).all()
    assert (table.max(axis=0) < rows.max(axis=0)).all()


def test_a_rare_text_is_not_in_the_golden_rows() -> None:
    texts = np.array([f"carrier {number % 20}" for number in range(999)] + ["Ada Lovelace"], object)

    assert "Ada Lovelace" not in release.golden_columns({"name": texts})["name"]


def test_a_golden_file_is_the_same_each_time_and_comes_back() -> None:
    golden = Golden({"x": np.arange(6, dtype="f4").reshape(2, 3), "t": np.array(["a", "bc"], object)}, {"y": np.array([1.5, 2.5])})
    data = pack_golden(golden.inputs, golden.outputs)
    signature = (tensor("x", -1, 3), tensor("t", -1, datatype="BYTES"))
    again = release.parse_golden("g", data, signature, [tensor("y", -1)])

    assert data == pack_golden(golden.inputs, golden.outputs)
    assert again.inputs["x"].tolist() == golden.inputs["x"].tolist()
    assert again.inputs["t"].tolist() == ["a", "bc"]
    assert again.outputs["y"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"input.x": np.zeros((2, 3), "f4")}, r"expected \['input.x'\] and some of \['output.y'\]"),
        ({"output.y": np.zeros(2)}, "input.x"),
        ({"input.x": np.zeros((2, 3), "f4"), "output.y": np.zeros(2), "input.z": np.zeros(2)}, "input.z"),
        ({"input.x": np.zeros((2, 4), "f4"), "output.y": np.zeros(2)}, r"expected \[-1, 3\], found \[2, 4\]"),
        ({"input.x": np.zeros((0, 3), "f4"), "output.y": np.zeros(0)}, r"found \[0, 3\]"),
        ({"input.x": np.array([["a"] * 3]), "output.y": np.zeros(1)}, "expected FP32, found <U1"),
    ],
)
def test_golden_arrays_that_do_not_fit_the_signature_are_refused(arrays: dict[str, np.ndarray], says: str) -> None:
    target = io.BytesIO()
    np.savez(target, allow_pickle=False, **arrays)
    with pytest.raises(Refused, match=says) as caught:
        release.parse_golden("golden.npz", target.getvalue(), [tensor("x", -1, 3)], [tensor("y", -1)])

    assert caught.value.code == Code.GOLDEN_INVALID


@given(st.binary(max_size=200))
def test_a_golden_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        release.parse_golden("golden.npz", b"PK\x03\x04" + data, [tensor("x", -1)], [tensor("y", -1)])

    assert caught.value.code == Code.GOLDEN_INVALID


@given(st.data())
def test_a_damaged_golden_file_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    good = pack_golden({"x": np.arange(6, dtype="f4")}, {"y": np.arange(6, dtype="f4")})
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    code = Code.GOLDEN_INVALID
    try:
        release.parse_golden("golden.npz", bad, [tensor("x", -1)], [tensor("y", -1)])
    except Refused as refused:
        code = refused.code

    assert code == Code.GOLDEN_INVALID


def npz_with_header(shape: str, descr: str = "<f8") -> bytes:
    """An npz whose one array claims a shape that its bytes do not have."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("input.x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(80))
    return target.getvalue()


@pytest.mark.parametrize(("shape", "descr"), [("(1099511627776,)", "<f8"), ("(4294967296, 4294967296)", "<f8"), ("(10,)", "|O")])
def test_an_array_that_claims_more_than_it_holds_is_refused_before_it_is_made(shape: str, descr: str) -> None:
    with pytest.raises(Refused, match="bytes") as caught:
        release.parse_golden("golden.npz", npz_with_header(shape, descr), [tensor("x", -1)], [tensor("y", -1)])

    assert caught.value.code == Code.GOLDEN_INVALID


def test_a_golden_file_that_unpacks_to_more_than_a_device_holds_is_refused() -> None:
    target = io.BytesIO()
    np.savez_compressed(target, **{"input.x": np.zeros(release.GOLDEN_UNPACKED_BYTES_MAX // 8 + 1)})
    with pytest.raises(Refused, match="unpacked"):
        release.parse_golden("golden.npz", target.getvalue(), [tensor("x", -1)], [tensor("y", -1)])


@given(st.floats(-1e6, 1e6), st.floats(0, 2))
def test_golden_outputs_agree_exactly_within_the_tolerance(value: float, share: float) -> None:
    allowed = TOLERANCE["absolute"] + TOLERANCE["relative"] * abs(value)
    expected, actual = {"y": np.array([value])}, {"y": np.array([value + share * allowed])}
    if abs(actual["y"][0] - value) <= allowed:
        release.check_golden("g", expected, actual, **TOLERANCE)
    else:
        with pytest.raises(Refused):
            release.check_golden("g", expected, actual, **TOLERANCE)


@pytest.mark.parametrize(
    ("known", "answer", "says"),
    [
        (np.array([[1.0], [2.0]]), np.array([[1.0], [2.5]]), r"output.y\[1, 0\].*expected 2.0, found 2.5"),
        (np.array([1.0]), np.array([np.nan]), "expected 1.0, found NaN, which agrees with nothing"),
        (np.array([np.nan]), np.array([np.nan]), r"output.y\[0\].*expected a number in the golden file, found NaN"),
        (np.array([np.inf]), np.array([-np.inf]), "expected inf, found -inf"),
        (np.array([1.0]), np.array([[1.0]]), r"shape of output.y: expected \[1\], found \[1, 1\]"),
        (np.array([1, 2]), np.array([1, 3]), "expected 2, found 3"),
        (np.array(["a"]), np.array(["b"], object), "expected a, found b"),
        (np.array(["a"]), np.array([1.0]), "expected a, found 1.0"),
    ],
)
def test_a_disagreement_names_the_tensor_and_both_values(known: np.ndarray, answer: np.ndarray, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        release.check_golden("g", {"y": known}, {"y": answer}, **TOLERANCE)

    assert caught.value.code == Code.GOLDEN_INVALID


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        (np.array([np.inf, -np.inf, 1.0]), np.array([np.inf, -np.inf, 1.0])),
        (np.zeros((2, 0, 4)), np.zeros((2, 0, 4))),
        (np.array([], str), np.array([], object)),
    ],
)
def test_a_hub_and_a_node_agree_on_infinities_and_on_nothing(known: np.ndarray, answer: np.ndarray) -> None:
    release.check_golden("g", {"y": known}, {"y": answer}, **TOLERANCE)
    assert golden.compare({"y": known}, {"y": answer}, **TOLERANCE) == 0.0


def test_a_golden_input_of_axes_of_0_fits_a_model_that_declares_them() -> None:
    nothing = np.zeros((2, 0, 4), np.float32)
    data = pack_golden({"x": nothing}, {"y": nothing})

    assert release.parse_golden("g", data, [tensor("x", 2, 0, 4)], [tensor("y", 2, 0, 4)]).inputs["x"].shape == (2, 0, 4)
    with pytest.raises(Refused, match=r"shape of input.x: expected \[2, -1, 4\], found \[2, 0, 4\]: axis 1 is 0"):
        release.parse_golden("g", data, [tensor("x", 2, -1, 4)], [tensor("y", 2, 0, 4)])


def test_many_names_make_a_short_sentence() -> None:
    assert release.listed([str(number) for number in range(1000)]).endswith("'23'] and 976 more")

"""A model that comes without golden inputs gets some that it answers, or its publisher hears that none were found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.publish_request import PublishRequest
from hub.publish.reference_data import read_reference
from node.core.activation import golden
from node.serving.prove_release import Terms, prove
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Declared = Sequence[tuple[str, int, Sequence[int | str | None]]]


def graph(path: Path, nodes: Sequence[NodeProto], inputs: Declared, outputs: Declared, **weights: np.ndarray) -> Path:
    """A model of these nodes on disk."""
    tensors = [[helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs)]
    made = helper.make_graph(list(nodes), "g", *tensors, [numpy_helper.from_array(value, name) for name, value in weights.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save_model(helper.make_model(made, opset_imports=opsets, ir_version=9), str(path))
    return path


def published(model: Path, store: BlockStore, **terms: object) -> BuiltRelease:
    return build(PublishRequest(model, "m", "1.0.0", **terms), store, now=1)  # type: ignore[arg-type]


def golden_of(manifest: Manifest, store: BlockStore) -> golden.GoldenCase:
    assert manifest.golden is not None
    return golden.parse(b"".join(store.read(block.digest) for block in manifest.golden.file.blocks))


def proof(built: BuiltRelease, store: BlockStore, folder: Path) -> tuple[bool, str]:
    """Whether a device activates it, and why not."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest").write_bytes(built.document)
    manifest = built.manifest
    for file in manifest.files_of(manifest.variants[0].name):
        (folder / file.path).write_bytes(b"".join(store.read(block.digest) for block in file.blocks))
    found = prove(Terms(folder / "manifest", folder))
    return found.passed, found.reason or ""


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


ONE = np.array([1], np.int64)
node = helper.make_node
KINDS = {
    "a norm that is no number for zeros": (
        [node("ReduceL2", ["x", "axis"], ["l"]), node("Div", ["x", "l"], ["y"])],
        [("x", FLOAT, ["n", 3])],
        [("y", FLOAT, ["n", 3])],
        {"axis": ONE},
    ),
    "axes as an input": (
        [node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        [("x", FLOAT, [3, 2, 2]), ("axes", INT64, [1])],
        [("y", FLOAT, [None, None, None])],
        {},
    ),
    "an order of axes": (
        [node("Unsqueeze", ["x", "axes"], ["y"])],
        [("x", FLOAT, ["n", 2]), ("axes", INT64, [2])],
        [("y", FLOAT, [None] * 4)],
        {},
    ),
    "a shape as an input": (
        [node("Reshape", ["x", "shape"], ["y"])],
        [("x", FLOAT, [2, 3]), ("shape", INT64, [3])],
        [("y", FLOAT, [None] * 3)],
        {},
    ),
    "numbers of words in a short list": (
        [node("Gather", ["table", "ids"], ["y"])],
        [("ids", INT64, ["n", "words"])],
        [("y", FLOAT, ["n", "words", 2])],
        {"table": np.ones((2, 2), np.float32)},
    ),
    "parts to divide an axis into": (
        [node("Split", ["x", "parts"], ["y", "z"], axis=1)],
        [("x", FLOAT, ["n", 6]), ("parts", INT64, [2])],
        [("y", FLOAT, ["n", None]), ("z", FLOAT, ["n", None])],
        {},
    ),
    "logarithms": ([node("Log", ["x"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])], {}),
    "texts that are numbers": ([node("Cast", ["x"], ["y"], to=FLOAT)], [("x", STRING, ["n"])], [("y", FLOAT, ["n"])], {}),
    "pictures of at least 20 by 20": (
        [node("Conv", ["x", "w"], ["y"])],
        [("x", FLOAT, [1, 1, "h", "w"])],
        [("y", FLOAT, [1, 1, None, None])],
        {"w": np.ones((1, 1, 20, 20), np.float32)},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_made_that_the_model_answers(kind: str, store: BlockStore, tmp_path: Path) -> None:
    nodes, inputs, outputs, weights = KINDS[kind]
    model = graph(tmp_path / "m.onnx", nodes, inputs, outputs, **weights)

    built = published(model, store)

    case = golden_of(built.manifest, store)
    assert all(np.isfinite(values).all() for values in case.outputs.values())
    assert published(model, store).document == built.document  # published again, it is the same release


def test_a_device_proves_a_model_that_zeros_would_have_refused(store: BlockStore, tmp_path: Path) -> None:
    nodes, inputs, outputs, weights = KINDS["a norm that is no number for zeros"]
    built = published(graph(tmp_path / "m.onnx", nodes, inputs, outputs, **weights), store)

    assert proof(built, store, tmp_path / "device") == (True, "")


def test_a_model_that_answers_nothing_finite_needs_no_proof_to_be_published(store: BlockStore, tmp_path: Path) -> None:
    nan = node("Div", ["x", "zero"], ["y"]), node("Sub", ["y", "y"], ["z"])
    model = graph(tmp_path / "m.onnx", nan, [("x", FLOAT, ["n"])], [("z", FLOAT, ["n"])], zero=np.zeros(1, np.float32))

    with pytest.raises(Refused) as refused:
        published(model, store)
    without = published(model, store, proves=False)

    assert refused.value.code is Code.GOLDEN_INVALID
    assert all(word in refused.value.reason for word in ("--golden", "--no-proof", "NaN"))
    assert without.manifest.golden is None
    assert ["devices will refuse this release" in one for one in without.preview.warnings] == [True]
    assert not proof(without, store, tmp_path / "device")[0]  # As it warned.


def test_a_sampled_output_is_no_golden_answer(store: BlockStore, tmp_path: Path) -> None:
    sampled = node("RandomNormalLike", ["x"], ["noise"])
    inputs, noise = [("x", FLOAT, ["n"])], ("noise", FLOAT, ["n"])
    some = graph(tmp_path / "some.onnx", [sampled, node("Neg", ["x"], ["y"])], inputs, [noise, ("y", FLOAT, ["n"])])
    only = graph(tmp_path / "only.onnx", [sampled], inputs, [noise])

    assert list(golden_of(published(some, store).manifest, store).outputs) == ["y"]
    with pytest.raises(Refused, match="differently each time"):
        published(only, store)


def test_rows_mixed_of_a_reference_that_the_model_cannot_answer_are_replaced(store: BlockStore, tmp_path: Path) -> None:
    """Real rows have high over low; rows that are put together of both columns have not."""
    nodes = [node("Sub", ["high", "low"], ["d"]), node("Log", ["d"], ["y"])]
    columns = [("low", FLOAT, ["n", 1]), ("high", FLOAT, ["n", 1])]
    model = graph(tmp_path / "m.onnx", nodes, columns, [("y", FLOAT, ["n", 1])])
    low = np.random.default_rng(0).normal(size=100).astype(np.float32)
    pd.DataFrame({"low": low, "high": low + 0.1}).to_parquet(tmp_path / "r.parquet")

    built = published(model, store, reference=read_reference(tmp_path / "r.parquet"))

    assert np.isfinite(golden_of(built.manifest, store).outputs["y"]).all()
    assert built.preview.golden == "made from the reference"

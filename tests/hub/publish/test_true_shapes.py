"""A model that declares other shapes than it gives is refused while it is published, not by every node, or published mended."""

from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxruntime as ort
import pandas as pd
import pytest
from onnx import helper
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_iris

from fleetcast.golden_file import pack_golden
from hub.core.publish.declared_shapes import mended
from hub.publish.block_store import BlockStore
from hub.publish.publish_request import Build, Variants
from hub.publish.reference_data import Reference, read_reference
from schemas.errors import Code, Refused
from tests.hub.publish.test_tried_inputs import FLOAT, INT64, graph, proof, published

node = helper.make_node
INPUT = [("x", FLOAT, ["n", 4])]


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A classifier as onnxmltools writes one of LightGBM: it declares one label, and gives one for each row."""
    nodes = [node("ArgMax", ["x"], ["label"], axis=1, keepdims=0), node("Softmax", ["x"], ["shares"], axis=1)]
    path = graph(tmp_path / "m.onnx", nodes, INPUT, [("label", INT64, [1]), ("shares", FLOAT, ["n", 4])])
    onnx.save_model(unknown(onnx.load(str(path))), str(path))
    return path


def unknown(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a label that shape inference cannot know, as that of a tree is."""
    model.graph.node[0].output[0] = "raw"
    model.graph.node.insert(1, node("Shape", ["raw"], ["length"]))
    model.graph.node.insert(2, node("Reshape", ["raw", "length"], ["label"]))
    return model


@pytest.fixture
def iris(tmp_path: Path) -> Reference:
    pd.DataFrame(load_iris().data.astype(np.float32), columns=list("abcd")).to_parquet(tmp_path / "r.parquet")
    return read_reference(tmp_path / "r.parquet")


@pytest.mark.parametrize("given", ["reference", "one golden row", "nothing"])
def test_an_output_that_is_declared_untruly_is_refused_with_the_mend(
    labels: Path, store: BlockStore, iris: Reference, tmp_path: Path, given: str
) -> None:
    row = {"x": np.eye(4, dtype=np.float32)[:1]}
    answers = ort.InferenceSession(str(labels)).run(["label"], row)
    (tmp_path / "g.npz").write_bytes(pack_golden(row, {"label": np.asarray(answers[0])}))
    terms = {"reference": {"reference": iris}, "one golden row": {"golden_path": tmp_path / "g.npz"}, "nothing": {}}[given]

    with pytest.raises(Refused) as refused:
        published(labels, store, **terms)

    assert refused.value.code is Code.MODEL_SIGNATURE
    assert all(word in refused.value.reason for word in ("'label'", "[1]", "--fix-shapes", "[-1]"))
    assert not set(store.digests())


def test_the_mended_file_is_published_and_a_device_activates_it(labels: Path, store: BlockStore, iris: Reference, tmp_path: Path) -> None:
    given = labels.read_bytes()

    built = published(labels, store, reference=iris, fixes_shapes=True)

    assert [tensor.shape for tensor in built.manifest.outputs] == [(-1,), (-1, 4)]
    assert any("'label': declared [1], published as [-1]" in one for one in built.preview.warnings)
    assert proof(built, store, tmp_path / "device") == (True, "")
    assert (tmp_path / "device" / "model.onnx").read_bytes() != given == labels.read_bytes()


def test_builds_that_were_made_elsewhere_are_mended_too(labels: Path, store: BlockStore, iris: Reference, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(labels.read_bytes())
    builds = (Build("other", model_path=tmp_path / "other.onnx"), Build("fp32"))

    built = published(labels, store, reference=iris, fixes_shapes=True, variants=Variants(builds, all_or_none=True))

    assert [one.name for one in built.variants] == ["other", "fp32"]


def test_a_batch_of_fixed_size_is_freed_for_rows_of_a_reference(store: BlockStore, iris: Reference, tmp_path: Path) -> None:
    nodes = [node("Softmax", ["x"], ["shares"], axis=1)]
    model = graph(tmp_path / "m.onnx", nodes, [("x", FLOAT, [32, 4])], [("shares", FLOAT, [32, 4])])

    with pytest.raises(Refused):
        published(model, store, reference=iris)
    built = published(model, store, reference=iris, fixes_shapes=True)

    assert (built.manifest.inputs[0].shape, built.manifest.outputs[0].shape) == ((-1, 4), (-1, 4))
    assert proof(built, store, tmp_path / "device") == (True, "")


def test_an_honest_model_is_published_byte_for_byte(store: BlockStore, iris: Reference, tmp_path: Path) -> None:
    model = graph(tmp_path / "m.onnx", [node("Softmax", ["x"], ["shares"], axis=1)], INPUT, [("shares", FLOAT, ["n", 4])])

    plain = published(model, store, reference=iris).manifest
    asked = published(model, store, reference=iris, fixes_shapes=True).manifest

    assert plain == asked


@pytest.mark.parametrize(
    ("declared", "shapes", "expected"),
    [((1,), [(16,)], (-1,)), ((1, 3), [(16, 3), (1, 3)], (-1, 3)), ((1,), [(16, 3), (2, 3)], (-1, 3)), ((-1, 2), [(5, 4)], (-1, -1))],
)
def test_only_axes_that_were_found_otherwise_become_free(
    declared: tuple[int, ...], shapes: list[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    assert mended(declared, shapes) == expected


@pytest.mark.parametrize("texts", [False, True])
def test_lightgbm_as_onnxmltools_exports_it(store: BlockStore, iris: Reference, tmp_path: Path, *, texts: bool) -> None:
    data = load_iris()
    truth = np.array(data.target_names)[data.target] if texts else data.target
    trained = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(data.data, truth)
    exported = onnxmltools.convert_lightgbm(trained, initial_types=[("x", FloatTensorType([None, 4]))], zipmap=False, target_opset=15)
    path = tmp_path / "m.onnx"
    path.write_bytes(exported.SerializeToString())

    with pytest.raises(Refused, match="--fix-shapes"):
        published(path, store, reference=iris)
    built = published(path, store, reference=iris, fixes_shapes=True)

    assert proof(built, store, tmp_path / "device") == (True, "")
    assert built.manifest.baseline is not None
    label = next(one for one in built.manifest.baseline.signals if one.name == "label")
    assert set(label.categories) == set(truth.tolist())

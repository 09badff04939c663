"""A model, its reference and its golden inputs become a release that a device can rebuild byte for byte, or a refusal that says why not."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from hub.core.publish import release as core
from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.onnx_model import COLUMNS_KEY
from hub.publish.publish_request import PublishRequest
from hub.publish.reference_data import read_reference
from node.core.activation import golden
from node.core.inference.tensors import Spec
from node.core.telemetry.sketch import Sketch
from schemas import codec
from schemas.encoding import decode_payload
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Block, File, Index, Manifest, cheapest
from schemas.names import sha256
from tests.small_disk import small_disk

NOW = 1_700_000_000
FEATURES = list(load_diabetes().feature_names)


@dataclass(frozen=True)
class Trained:
    """A model on disk, its reference with a day in it, and what its trainer's own library answers."""

    onnx_path: Path
    frame: pd.DataFrame
    predict: Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    data = load_diabetes()
    inputs = data.data.astype(np.float32)
    model = GradientBoostingRegressor(n_estimators=60, random_state=0).fit(inputs, data.target)
    path = tmp_path_factory.mktemp("regressor") / "diabetes.onnx"
    path.write_bytes(to_onnx(model, inputs[:1], target_opset=17).SerializeToString())
    frame = pd.DataFrame(inputs, columns=FEATURES).assign(day=np.arange(len(inputs)) % 9)
    return Trained(path, frame, model.predict)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    data = load_iris()
    inputs = data.data.astype(np.float32)
    model = LogisticRegression(max_iter=500).fit(inputs, data.target)
    folder = tmp_path_factory.mktemp("classifier")
    for name, zipmap in (("iris", False), ("zipped", True)):
        onnx_model = to_onnx(model, inputs[:1], target_opset=17, options={"zipmap": zipmap})
        (folder / f"{name}.onnx").write_bytes(onnx_model.SerializeToString())
    return Trained(folder / "iris.onnx", pd.DataFrame(inputs, columns=["a", "b", "c", "d"]), model.predict)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One whose weights stand in a file of their own."""
    data = load_diabetes()
    inputs = data.data.astype(np.float32)
    model = MLPRegressor(hidden_layer_sizes=(300, 300), max_iter=3, tol=1e9, n_iter_no_change=1, random_state=0).fit(inputs, data.target)
    folder = tmp_path_factory.mktemp("network")
    onnx_model = to_onnx(model, inputs[:1], target_opset=17)
    for tensor in onnx_model.graph.initializer:  # only raw bytes can stand elsewhere
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(onnx_model, str(folder / "net.onnx"), save_as_external_data=True, location="net.data", size_threshold=256)
    return Trained(folder / "net.onnx", pd.DataFrame(inputs, columns=FEATURES), model.predict)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def request_for(trained: Trained, tmp_path: Path, *, blocks: str | None = None, **changes: object) -> PublishRequest:
    path = tmp_path / "reference.parquet"
    trained.frame.to_parquet(path, index=False)
    request = PublishRequest(trained.onnx_path, "delay", "1.2.0", reference=read_reference(path), blocks_column=blocks)
    return replace(request, **changes)  # type: ignore[arg-type]


def refusal(request: PublishRequest, store: BlockStore) -> tuple[Code, str]:
    """Why it is refused; and nothing of it may be left."""
    before = set(store.digests())
    with pytest.raises(Refused) as caught:
        build(request, store, now=NOW)
    assert set(store.digests()) == before
    assert not list(store.directory.glob(".*"))
    return caught.value.code, caught.value.reason


def blocks_of(file: File, store: BlockStore) -> list[Block]:
    """A file's blocks as a node finds them."""
    if file.blocks:
        return list(file.blocks)
    return [block for part in file.index for block in codec.decode(Index, fetched(part, store)).blocks]


def fetched(block: Block, store: BlockStore) -> bytes:
    payload = cheapest(block, ("raw", "zstd"))
    return decode_payload(payload, block, store.read(payload.digest))


def rebuilt(built: BuiltRelease, store: BlockStore, folder: Path, variant: str = "default") -> Path:
    """The release's files as a device would write them; the first one's path."""
    files = codec.decode(Manifest, built.document).files_of(variant)
    for file in files:
        data = b"".join(fetched(block, store) for block in blocks_of(file, store))
        assert (len(data), sha256(data)) == (file.bytes, file.digest)
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(data)
    return folder / files[0].path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **{name.replace("__", "."): value for name, value in arrays.items()})  # type: ignore[arg-type]
    return path


def tiny(path: Path, **changes: object) -> onnx.ModelProto:
    """A model of one multiplication, [rows, 2] to [rows, 2]."""
    names = {"shape": ["rows", 2], "operator": "Mul", "weight": np.ones(2, np.float32)} | changes
    graph = helper.make_graph(
        [helper.make_node(names["operator"], ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, names["shape"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, names["shape"])],
        [numpy_helper.from_array(names["weight"], "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return model


# What is built


def test_a_release_comes_back_from_the_store_and_predicts_as_its_trainer_did(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    built = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW)
    session = ort.InferenceSession(str(rebuilt(built, store, tmp_path / "device")))
    rows = regressor.frame[FEATURES].to_numpy(np.float32)

    assert (tmp_path / "device" / "model.onnx").read_bytes() == regressor.onnx_path.read_bytes()
    assert np.allclose(session.run(None, {"X": rows})[0].ravel(), regressor.predict(rows), rtol=1e-4)
    assert built.digest == sha256(built.document)
    assert built.manifest == codec.decode(Manifest, built.document)


def test_the_manifest_says_what_the_publisher_and_the_model_say(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    request = request_for(regressor, tmp_path, blocks="day", description="How far", licence="MIT", parent=bytes(32), window_seconds=600)
    manifest = build(request, store, now=NOW).manifest

    assert (manifest.model, manifest.version, manifest.created, manifest.parent) == ("delay", "1.2.0", NOW, bytes(32))
    assert (manifest.description, manifest.licence) == ("How far", "MIT")
    assert [(one.name, one.datatype, one.shape) for one in manifest.inputs] == [("X", "FP32", (-1, 10))]
    assert [(one.name, one.datatype, one.shape) for one in manifest.outputs] == [("variable", "FP32", (-1, 1))]
    assert manifest.baseline is not None
    assert (manifest.baseline.rows, manifest.baseline.blocks) == (len(regressor.frame), 9)
    assert [signal.name for signal in manifest.baseline.signals] == [*FEATURES, "variable"]
    assert all(sum(signal.counts) == len(regressor.frame) for signal in manifest.baseline.signals)
    assert manifest.privacy is not None
    assert (manifest.privacy.epsilon, manifest.privacy.window_seconds) == (1.0, 600)


def test_the_same_request_gives_the_same_release_and_stores_nothing_twice(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    first = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW)
    again = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW)
    later = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW + 1)

    assert again.digest == first.digest
    assert (first.stored_bytes > 0, again.stored_bytes) == (True, 0)
    assert later.digest != first.digest
    assert core.same_content(later.manifest, first.manifest)


def test_the_sizes_that_are_said_are_those_of_the_payloads(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    built = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW)
    files = built.manifest.files_of("default")
    blocks = [block for file in files for block in blocks_of(file, store)]

    assert built.variants[0].file_bytes == sum(file.bytes for file in files)
    assert built.variants[0].wire_bytes == sum(cheapest(block, ("raw", "zstd")).bytes for block in blocks)
    assert built.stored_bytes == sum(len(store.read(digest)) for digest in store.digests())
    assert all(block.bytes <= BLOCK_BYTES_MAX for block in blocks)


def test_a_classifiers_class_is_a_categorical_signal(classifier: Trained, store: BlockStore, tmp_path: Path) -> None:
    manifest = build(request_for(classifier, tmp_path), store, now=NOW).manifest
    assert manifest.baseline is not None
    label = manifest.baseline.signals[4]
    rows = classifier.frame.to_numpy(np.float32)

    assert [(one.name, one.datatype) for one in manifest.outputs] == [("label", "INT64"), ("probabilities", "FP32")]
    assert [signal.name for signal in manifest.baseline.signals] == [
        *("a", "b", "c", "d", "label"),
        *("probabilities:confidence", "probabilities:entropy"),
    ]
    assert label.kind == "categorical"
    counts = dict(zip(label.categories, label.counts, strict=False))
    assert counts == {float(name): count for name, count in zip(*np.unique(classifier.predict(rows), return_counts=True), strict=True)}


def test_signals_can_be_named_down_to_one_value_of_an_output(classifier: Trained, store: BlockStore, tmp_path: Path) -> None:
    manifest = build(request_for(classifier, tmp_path, signals=("c", "probabilities[1]")), store, now=NOW).manifest

    assert manifest.baseline is not None
    assert [(signal.name, signal.tensor, signal.column) for signal in manifest.baseline.signals] == [
        ("c", "X", 2),
        ("probabilities[1]", "probabilities", 1),
    ]


def test_a_model_with_an_input_a_column_takes_texts_and_numbers_by_name(store: BlockStore, tmp_path: Path) -> None:
    frame = pd.DataFrame({"carrier": ["AA", "UA", "DL", "UA"] * 20, "wind": np.linspace(0, 30, 80, dtype=np.float32)})
    columns = ColumnTransformer([("carrier", OneHotEncoder(), ["carrier"])], remainder="passthrough")
    model = make_pipeline(columns, GradientBoostingRegressor(n_estimators=5, random_state=0)).fit(frame, frame.wind * 2)
    kinds = [("carrier", StringTensorType([None, 1])), ("wind", FloatTensorType([None, 1]))]
    path = tmp_path / "mixed.onnx"
    path.write_bytes(to_onnx(model, initial_types=kinds, target_opset=17).SerializeToString())
    manifest = build(request_for(Trained(path, frame[["wind", "carrier"]], model.predict), tmp_path), store, now=NOW).manifest

    assert manifest.baseline is not None
    assert [(signal.name, signal.tensor, signal.kind) for signal in manifest.baseline.signals[:2]] == [
        ("carrier", "carrier", "categorical"),
        ("wind", "wind", "numeric"),
    ]
    assert manifest.baseline.signals[0].categories == ("UA", "AA", "DL")
    assert manifest.golden is not None


def test_the_models_own_metadata_names_its_columns_in_order(store: BlockStore, tmp_path: Path) -> None:
    model = tiny(tmp_path / "m.onnx", weight=np.array([1, 1000], np.float32))
    helper.set_model_props(model, {COLUMNS_KEY: "minutes, miles"})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    frame = pd.DataFrame({"miles": np.arange(50.0), "other": np.zeros(50), "minutes": np.arange(50.0)})
    request = request_for(Trained(tmp_path / "m.onnx", frame, np.asarray), tmp_path)
    by_metadata, by_request = build(request, store, now=NOW), build(replace(request, feature_columns=("miles", "minutes")), store, now=NOW)

    for built, expected in ((by_metadata, ["minutes", "miles"]), (by_request, ["miles", "minutes"])):
        assert built.manifest.baseline is not None
        assert [(signal.name, signal.column) for signal in built.manifest.baseline.signals] == [*zip(expected, (0, 1), strict=True)]


def test_weights_in_a_file_of_their_own_are_part_of_the_release(network: Trained, store: BlockStore, tmp_path: Path) -> None:
    built = build(request_for(network, tmp_path), store, now=NOW)
    session = ort.InferenceSession(str(rebuilt(built, store, tmp_path / "device")))
    rows = network.frame.to_numpy(np.float32)
    files = built.manifest.variants[0].files
    lengths = [block.bytes for block in files[1].blocks]

    assert [file.path for file in files] == ["model.onnx", "net.data"]
    assert np.allclose(session.run(None, {"X": rows})[0].ravel(), network.predict(rows), rtol=1e-3)
    # Cut where the large tensor begins, and not only at multiples of a block from the file's beginning.
    assert any(sum(lengths[:at]) % BLOCK_BYTES_MAX and length == BLOCK_BYTES_MAX for at, length in enumerate(lengths))


def test_a_block_list_too_long_for_the_manifest_is_reached_through_an_index(
    network: Trained, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "INLINE_BLOCKS_MAX", 2)
    built = build(PublishRequest(network.onnx_path, "delay", "1.0.0"), store, now=NOW)
    _, weights = built.manifest.variants[0].files
    rebuilt(built, store, tmp_path / "device")

    assert weights.index
    assert weights.blocks == ()
    assert (tmp_path / "device" / "net.data").read_bytes() == (network.onnx_path.parent / "net.data").read_bytes()


def test_a_model_without_reference_is_a_release_without_telemetry_and_says_so(regressor: Trained, store: BlockStore) -> None:
    built = build(PublishRequest(regressor.onnx_path, "delay", "1.0.0"), store, now=NOW)

    assert (built.manifest.baseline, built.manifest.privacy) == (None, None)
    assert [one.name for one in built.unwatched] == ["X", "variable"]


def test_a_model_that_takes_one_row_at_a_time_gets_its_reference_and_one_golden_row(store: BlockStore, tmp_path: Path) -> None:
    tiny(tmp_path / "m.onnx", shape=[1, 2])
    frame = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0)})
    built = build(request_for(Trained(tmp_path / "m.onnx", frame, np.asarray), tmp_path, signals=("a", "y[0]")), store, now=NOW)
    rebuilt(built, store, tmp_path / "device")

    assert built.manifest.baseline is not None
    assert built.manifest.baseline.rows == 40
    assert np.load(tmp_path / "device" / "golden.npz")["input.x"].shape == (1, 2)


# Golden inputs


def test_golden_inputs_are_made_from_the_reference_without_any_of_its_rows(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    built = build(request_for(regressor, tmp_path, blocks="day"), store, now=NOW)
    rebuilt(built, store, tmp_path / "device")
    with np.load(tmp_path / "device" / "golden.npz") as golden:
        made, answers = golden["input.X"], golden["output.variable"]
    real = {row.tobytes() for row in regressor.frame[FEATURES].to_numpy(np.float32)}

    assert made.shape == (core.GOLDEN_ROWS, len(FEATURES))
    assert not real & {row.tobytes() for row in made}
    assert np.allclose(answers.ravel(), regressor.predict(made), rtol=1e-4)


def test_the_publishers_golden_file_is_shipped_as_it_is(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    rows = regressor.frame[FEATURES].to_numpy(np.float32)[:5]
    path = npz(tmp_path / "g.npz", input__X=rows, output__variable=regressor.predict(rows)[:, None])
    built = build(request_for(regressor, tmp_path, blocks="day", golden_path=path), store, now=NOW)
    rebuilt(built, store, tmp_path / "device")

    assert built.manifest.golden is not None
    assert built.manifest.golden.file.path == "golden.npz"
    assert (tmp_path / "device" / "golden.npz").read_bytes() == path.read_bytes()


def test_golden_outputs_that_the_model_does_not_give_are_refused_with_both_values(
    regressor: Trained, store: BlockStore, tmp_path: Path
) -> None:
    rows = regressor.frame[FEATURES].to_numpy(np.float32)[:5]
    known = regressor.predict(rows)[:, None]
    known[3] += 1
    path = npz(tmp_path / "g.npz", input__X=rows, output__variable=known)
    code, reason = refusal(PublishRequest(regressor.onnx_path, "delay", "1.0.0", golden_path=path), store)

    assert code == Code.GOLDEN_INVALID
    assert "output.variable[3, 0]" in reason
    assert f"expected {known[3, 0]}" in reason
    assert f"found {known[3, 0] - 1:.3f}"[:-2] in reason


@pytest.mark.parametrize("content", [b"", b"not an npz", None])
def test_a_golden_file_that_cannot_be_read_is_refused(regressor: Trained, store: BlockStore, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "g.npz"
    if content is not None:
        path.write_bytes(content)
    code, reason = refusal(PublishRequest(regressor.onnx_path, "delay", "1.0.0", golden_path=path), store)

    assert code == Code.GOLDEN_INVALID
    assert str(path) in reason


def test_golden_inputs_that_the_model_fails_on_are_refused(store: BlockStore, tmp_path: Path) -> None:
    tiny(tmp_path / "m.onnx", shape=["rows", "width"], weight=np.ones(3, np.float32))
    path = npz(tmp_path / "g.npz", input__x=np.ones((2, 2), np.float32), output__y=np.ones((2, 2), np.float32))
    code, reason = refusal(PublishRequest(tmp_path / "m.onnx", "delay", "1.0.0", golden_path=path), store)

    assert code == Code.GOLDEN_INVALID
    assert "cannot be run" in reason


# Bad models


def test_what_is_no_onnx_is_refused_by_name(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    whole = regressor.onnx_path.read_bytes()
    contents = {"text.onnx": b"# a readme\n" * 50, "empty.onnx": b"", "zeros.onnx": bytes(1000), "short.onnx": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        code, reason = refusal(PublishRequest(tmp_path / name, "delay", "1.0.0"), store)
        assert (code, str(tmp_path / name) in reason) == (Code.MODEL_LOAD, True)
    for path in (tmp_path / "none.onnx", tmp_path):
        assert refusal(PublishRequest(path, "delay", "1.0.0"), store)[0] == Code.MODEL_LOAD


def test_a_model_cut_anywhere_is_refused(store: BlockStore, tmp_path: Path) -> None:
    tiny(tmp_path / "m.onnx")
    whole = (tmp_path / "m.onnx").read_bytes()
    for length in range(len(whole) - 6):  # behind that, only the version of an operator set is lost
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        assert refusal(PublishRequest(tmp_path / "cut.onnx", "delay", "1.0.0"), store)[0] == Code.MODEL_LOAD


def test_an_operator_that_no_runtime_has_is_refused(store: BlockStore, tmp_path: Path) -> None:
    tiny(tmp_path / "m.onnx", operator="Divine")
    code, reason = refusal(PublishRequest(tmp_path / "m.onnx", "delay", "1.0.0"), store)

    assert (code, "Divine" in reason) == (Code.MODEL_LOAD, True)


def test_an_output_that_is_no_tensor_is_refused_with_what_to_do(classifier: Trained, store: BlockStore) -> None:
    code, reason = refusal(PublishRequest(classifier.onnx_path.with_name("zipped.onnx"), "delay", "1.0.0"), store)

    assert code == Code.MODEL_SIGNATURE
    assert "zipmap=False" in reason


def pointing_to(path: Path, location: str, *, as_constant: bool) -> Path:
    """A model whose weight is external data, in an initialiser or in a constant's attribute."""
    model = tiny(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        weight.external_data.add(key=key, value=value)
    if as_constant:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret.bin", "sub/../../secret.bin", "link.bin", "none.bin", "", "a\0b", "*/_ORT_MEM_ADDR_/*"]
)
def test_external_data_that_is_not_in_the_models_folder_is_refused(
    store: BlockStore, tmp_path: Path, location: str, as_constant: bool
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = pointing_to(tmp_path / "model" / "m.onnx", location, as_constant=as_constant)
    code, reason = refusal(PublishRequest(path, "delay", "1.0.0"), store)

    assert code == Code.MODEL_EXTERNAL_DATA
    assert "a file inside" in reason


@pytest.mark.parametrize("location", ["golden.npz", "Model.onnx"])
def test_external_data_that_would_take_another_files_place_is_refused(store: BlockStore, tmp_path: Path, location: str) -> None:
    (tmp_path / location).write_bytes(bytes(8))
    path = pointing_to(tmp_path / "m.onnx", location, as_constant=False)

    assert refusal(PublishRequest(path, "delay", "1.0.0"), store)[0] == Code.MODEL_EXTERNAL_DATA


def test_external_data_in_a_folder_below_or_behind_a_link_inside_is_published(store: BlockStore, tmp_path: Path) -> None:
    (tmp_path / "model" / "weights").mkdir(parents=True)
    (tmp_path / "model" / "weights" / "w.bin").write_bytes(np.ones(2, np.float32).tobytes())
    path = pointing_to(tmp_path / "model" / "m.onnx", "weights/w.bin", as_constant=False)
    built = build(PublishRequest(path, "delay", "1.0.0"), store, now=NOW)
    session = ort.InferenceSession(str(rebuilt(built, store, tmp_path / "device")))

    assert session.run(None, {"x": np.array([[2, 3]], np.float32)})[0].tolist() == [[2, 3]]


# Bad references and settings


def test_columns_that_do_not_match_the_signature_are_refused_with_both_lists(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    short = replace(regressor, frame=regressor.frame.drop(columns=["bmi", "day"]))
    code, reason = refusal(request_for(short, tmp_path), store)
    assert (code, "10 columns for input 'X'" in reason, "'age'" in reason) == (Code.REFERENCE_INVALID, True, True)

    code, reason = refusal(request_for(regressor, tmp_path), store)  # the day is not said to be the block column
    assert (code, "10 columns" in reason, "'day'" in reason) == (Code.REFERENCE_INVALID, True, True)

    code, reason = refusal(request_for(regressor, tmp_path, blocks="shift"), store)
    assert (code, "expected shift" in reason) == (Code.REFERENCE_INVALID, True)


def test_a_missing_number_in_the_reference_is_refused_with_its_place(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    frame = regressor.frame.copy()
    frame.loc[17, "bmi"] = np.nan
    code, reason = refusal(request_for(replace(regressor, frame=frame), tmp_path, blocks="day"), store)

    assert code == Code.REFERENCE_INVALID
    assert "column 'bmi', row 17" in reason


def test_a_model_that_answers_with_no_number_is_refused_with_the_row(store: BlockStore, tmp_path: Path) -> None:
    tiny(tmp_path / "m.onnx", operator="Pow", weight=np.array([0.5, 0.5], np.float32))
    frame = pd.DataFrame({"a": [1.0] * 33 + [-1.0] + [1.0] * 10, "b": np.ones(44)})
    code, reason = refusal(request_for(Trained(tmp_path / "m.onnx", frame, np.asarray), tmp_path), store)

    assert code == Code.MODEL_RUN
    assert "output 'y' of reference row 33" in reason


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "Delay"}, Code.NAME_INVALID),
        ({"version": "1.2"}, Code.NAME_INVALID),
        ({"epsilon": 0.0}, Code.SETTINGS_INVALID),
        ({"epsilon": float("nan")}, Code.SETTINGS_INVALID),
        ({"delta": 1.0}, Code.SETTINGS_INVALID),
        ({"window_seconds": 0}, Code.SETTINGS_INVALID),
        ({"description": "x" * 1000}, Code.SETTINGS_INVALID),
        ({"parent": b"short"}, Code.SETTINGS_INVALID),
        ({"signals": ("speed",)}, Code.REFERENCE_INVALID),
        ({"feature_columns": ("age",)}, Code.REFERENCE_INVALID),
        ({"reference": None}, Code.REFERENCE_INVALID),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    regressor: Trained, store: BlockStore, tmp_path: Path, changes: dict[str, object], code: Code
) -> None:
    assert refusal(replace(request_for(regressor, tmp_path, blocks="day"), **changes), store)[0] == code  # type: ignore[arg-type]


# A bad disk, a bad moment


def test_a_full_disk_is_refused_and_what_was_there_stays(network: Trained, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = BlockStore(disk)
        store.put(sha256(b"before"), b"before")
        code, reason = refusal(PublishRequest(network.onnx_path, "delay", "1.0.0"), store)

        assert (code, str(disk) in reason) == (Code.DISK_FULL, True)
        assert store.read(sha256(b"before")) == b"before"


@pytest.mark.parametrize("content", [bytes(100), None])
def test_a_model_that_changes_while_it_is_published_is_refused(
    network: Trained, store: BlockStore, tmp_path: Path, content: bytes | None
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(network.onnx_path.parent, folder)

    def interfere(what: str, done: int, total: int) -> None:
        if what == "encoding net.data":
            (folder / "net.data").write_bytes(bytes((folder / "net.data").stat().st_size) if content is None else content)

    code, reason = refusal(PublishRequest(folder / "net.onnx", "delay", "1.0.0", progress=interfere), store)

    assert code == Code.MODEL_LOAD
    assert "was changed" in reason


def test_progress_is_told_in_order_and_never_beyond_the_end(regressor: Trained, store: BlockStore, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build(request_for(regressor, tmp_path, blocks="day", progress=lambda *said: told.append(said)), store, now=NOW)

    assert {what for what, _, _ in told} == {"running the reference", "encoding model.onnx", "encoding golden.npz"}
    assert all(0 <= done < total for _, done, total in told)
    assert ("encoding model.onnx", 0, regressor.onnx_path.stat().st_size) in told


# What a device makes of it


@pytest.mark.parametrize("which", ["regressor", "classifier"])
def test_a_node_that_sees_the_reference_counts_the_baseline(
    which: str, store: BlockStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(which)
    frame = trained.frame.drop(columns="day", errors="ignore").astype(np.float64).round(1)  # tenths: ties, and none of them a float32
    manifest = build(request_for(replace(trained, frame=frame), tmp_path), store, now=NOW).manifest
    assert manifest.baseline is not None
    rows = frame.to_numpy(np.float32)
    session = ort.InferenceSession(str(trained.onnx_path))
    outputs = {one.name: value for one, value in zip(session.get_outputs(), session.run(None, {"X": rows}), strict=True)}
    sketch = Sketch(manifest.baseline, 3600)
    sketch.observe({"X": rows}, outputs, len(rows), at=0.0)

    assert sketch.take(0).tolist() == [count for signal in manifest.baseline.signals for count in signal.counts]


def test_a_node_reads_the_golden_inputs_and_agrees(classifier: Trained, store: BlockStore, tmp_path: Path) -> None:
    manifest = build(request_for(classifier, tmp_path), store, now=NOW).manifest
    assert manifest.golden is not None
    data = b"".join(fetched(block, store) for block in blocks_of(manifest.golden.file, store))
    case = golden.parse(data)
    inputs = golden.fit_inputs(case, [Spec(one.name, one.datatype, one.shape) for one in manifest.inputs])
    session = ort.InferenceSession(str(classifier.onnx_path))
    answers = {one.name: value for one, value in zip(session.get_outputs(), session.run(None, inputs), strict=True)}
    terms = manifest.golden

    assert case.rows == core.GOLDEN_ROWS
    assert golden.compare(case.outputs, answers, relative=terms.relative_tolerance, absolute=terms.absolute_tolerance) == 0


def test_a_model_without_inputs_is_refused_by_name(store: BlockStore, tmp_path: Path) -> None:
    three = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(3, np.float32)))
    graph = helper.make_graph([three], "three", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "three.onnx")

    with pytest.raises(Refused, match="inputs: expected at least one, found none: its answer is always the same") as caught:
        build(PublishRequest(tmp_path / "three.onnx", "three", "1.0.0"), store, now=NOW)

    assert caught.value.code is Code.MODEL_SIGNATURE

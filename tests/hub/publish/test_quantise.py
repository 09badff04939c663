"""Builds of real models: smaller on the wire, called alike, the same bytes each time, or a refusal that says what the model lacks."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hub.core.delivery.encode import encode_block
from hub.core.publish import release as core
from hub.core.publish.samples import Samples
from hub.publish import quantise
from hub.publish.chunk_files import content_of
from hub.publish.onnx_model import OnnxModel
from schemas.errors import Code, Refused
from tests.hub import digits

MADE = [("int8", 0.0), ("int8-static", 0.0), ("int8-weights", 0.0), ("fp16", 0.0), ("pruned", 0.5), ("int8", 0.5)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(digits.classifier())
    return tmp_path / "model.onnx"


def made(source: Path, how: str, sparsity: float = 0.0, calibration: Samples | None = None) -> Path:
    target = source.with_name(f"{how}-{sparsity}.onnx")
    quantise.make(f"variant {how!r}", source, target, how, sparsity=sparsity, calibration=calibration)
    return target


def calibration() -> Samples:
    return Samples({"X": digits.rows()[0][: digits.TRAINED]})


def wire_bytes(path: Path) -> int:
    """What a device without any block of it fetches."""
    content = content_of("model.onnx", path)
    with content.open() as file:
        blocks = [encode_block(file.read(length), dtype=dtype)[0] for (_, length), dtype in zip(content.cuts, content.dtypes, strict=True)]
    return core.wire_bytes(blocks)


def refusal(source: Path, how: str, sparsity: float = 0.0, calibration: Samples | None = None) -> str:
    with pytest.raises(Refused) as caught:
        made(source, how, sparsity, calibration)
    assert caught.value.code == Code.VARIANT_FAILED
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    return caught.value.reason


@pytest.mark.parametrize(("how", "sparsity"), MADE)
def test_a_build_is_called_as_the_original_and_classifies_nearly_as_well(source: Path, how: str, sparsity: float) -> None:
    features, truth = digits.rows()
    path = made(source, how, sparsity, calibration())

    before, after = OnnxModel(source), OnnxModel(path)
    unseen, known = {"X": features[digits.TRAINED :]}, truth[digits.TRAINED :]
    right = {model: float((model.run(unseen, Code.MODEL_RUN)["label"] == known).mean()) for model in (before, after)}

    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert right[before] > 0.9
    assert right[after] > right[before] - (0.15 if sparsity else 0.02)


@pytest.mark.parametrize(("how", "sparsity"), MADE)
def test_a_build_takes_fewer_bytes_on_the_wire(source: Path, how: str, sparsity: float) -> None:
    share = 0.8 if how in {"fp16", "pruned"} else 0.4
    path = made(source, how, sparsity, calibration())

    assert wire_bytes(path) <= share * wire_bytes(source)


@pytest.mark.parametrize(("how", "sparsity"), MADE)
def test_the_same_model_gives_the_same_bytes(source: Path, how: str, sparsity: float) -> None:
    first = made(source, how, sparsity, calibration()).read_bytes()

    assert made(source, how, sparsity, calibration()).read_bytes() == first


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_pruning_sets_the_stated_share_of_weights_to_zero_and_those_the_smallest(source: Path, sparsity: float) -> None:
    path = made(source, "pruned", sparsity)

    before = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_model(str(source)).graph.initializer}
    after = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_model(str(path)).graph.initializer}
    assert quantise.sparsity_of(path) == pytest.approx(sparsity, abs=0.001)
    for name, values in after.items():
        gone = (values == 0) & (before[name] != 0)
        if gone.any():
            assert np.abs(before[name][gone]).max() <= np.abs(values[values != 0]).min()
            assert np.array_equal(values[~gone], before[name][~gone])


def test_pruning_and_int8_together_take_less_than_int8_alone(source: Path) -> None:
    assert wire_bytes(made(source, "int8", 0.6)) < 0.8 * wire_bytes(made(source, "int8"))


def test_weights_that_are_constants_of_the_graph_are_found(tmp_path: Path) -> None:
    (tmp_path / "conv.onnx").write_bytes(digits.convolutions())
    images = digits.rows()[0].reshape(-1, 1, 8, 8)

    for how in ("int8-static", "int8-weights", "fp16"):
        path = made(tmp_path / "conv.onnx", how, calibration=Samples({"x": images[:200]}))
        assert path.stat().st_size < 0.75 * (tmp_path / "conv.onnx").stat().st_size


def test_weights_in_int8_alone_are_within_half_a_step_of_what_they_were(source: Path) -> None:
    path = made(source, "int8-weights")

    before = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_model(str(source)).graph.initializer}
    after = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_model(str(path)).graph.initializer}
    narrowed = [name.removesuffix(".int8") for name in after if name.endswith(".int8")]
    assert narrowed
    for name in narrowed:
        scale = after[f"{name}.scale"]
        assert np.all(np.abs(after[f"{name}.int8"] * scale - before[name]) <= scale / 2 * 1.0001)


def test_operators_that_widen_weights_are_folded_away_when_it_is_loaded(source: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(made(source, "int8-weights")), options)

    loaded = onnx.load_model(str(tmp_path / "loaded.onnx"))
    assert not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in loaded.graph.initializer)


def test_external_data_is_taken_into_the_build(source: Path, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    model = onnx.load_model(str(source))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(model, str(tmp_path / "apart" / "net.onnx"), save_as_external_data=True, location="net.data", size_threshold=256)

    path = made(tmp_path / "apart" / "net.onnx", "int8")
    moved = path.rename(tmp_path / "alone.onnx")

    assert OnnxModel(moved).outputs == OnnxModel(source).outputs


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("int8", ("MatMul", "TreeEnsembleClassifier")),
        ("int8-static", ("MatMul", "TreeEnsembleClassifier")),
        ("int8-weights", ("float32", "TreeEnsembleClassifier")),
        ("fp16", ("float16", "TreeEnsembleClassifier")),
        ("pruned", ("MatMul", "TreeEnsembleClassifier")),
    ],
)
def test_a_forest_has_no_weights_to_make_smaller_and_that_is_said(tmp_path: Path, how: str, words: tuple[str, ...]) -> None:
    (tmp_path / "forest.onnx").write_bytes(digits.forest())

    reason = refusal(tmp_path / "forest.onnx", how, calibration=calibration())

    assert all(word in reason for word in (how, "expected", "found", *words))


def test_convolutions_are_pointed_at_static_quantisation(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(digits.convolutions())
    del model.graph.node[-1], model.graph.node[-1]
    model.graph.output[0].name = "d"
    model.graph.output[0].type.tensor_type.shape.dim.extend(model.graph.input[0].type.tensor_type.shape.dim[2:])
    for _ in range(2):
        model.graph.output[0].type.tensor_type.shape.dim.pop()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "conv.onnx").write_bytes(model.SerializeToString())

    assert "int8-static" in refusal(tmp_path / "conv.onnx", "int8")


def test_static_quantisation_without_calibration_rows_is_refused(source: Path) -> None:
    assert "calibration" in refusal(source, "int8-static")


def test_a_tools_own_failure_is_a_refusal_with_its_words(source: Path) -> None:
    reason = refusal(source, "int8-static", calibration=Samples({"Y": digits.rows()[0][:100]}))

    assert "int8-static" in reason
    assert "cannot be made" in reason
    assert "Traceback" not in reason


def test_the_tools_say_nothing_on_the_operators_terminal(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made(source, "int8-static", calibration=calibration())
    made(source, "int8")

    assert capfd.readouterr() == ("", "")

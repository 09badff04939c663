"""No request to a .tflite model sees another, and what the file leaves open is settled by the release."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.operations.release_inputs import request_for
from hub.publish import foreign_models
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import PublishRequest
from hub.publish.release_file import read_release
from node.core.inference.tensors import Spec
from node.runtimes import Options
from node.runtimes.litert import LiteRt
from schemas.errors import Code, Refused
from schemas.manifest import Tensor
from tests import litert_models


def written(path: Path, model: bytes) -> Path:
    path.write_bytes(model)
    return path


def sides(x: tuple[int, ...], y: tuple[int, ...]) -> dict[str, tuple[Tensor, ...]]:
    return {"inputs": (Tensor(name="x", datatype="FP32", shape=x),), "outputs": (Tensor(name="y", datatype="FP32", shape=y),)}


def test_what_a_recurrent_model_keeps_is_set_back_before_each_request(running: Any, stage: Callable[..., Any]) -> None:
    running.serve(replace(stage("1.0.0", litert_models.recurrent(), model="two", **sides((1, 1), (1, 1))), runtime="litert"))
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}]}
    answers = [httpx.post(running.url + "/v2/models/two/infer", json=body).json()["outputs"][0]["data"] for _ in range(3)]

    assert answers == [[3.0]] * 3


def test_a_model_with_variables_is_refused_where_it_is_published_and_where_it_is_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "model.tflite", litert_models.remembering())
    with pytest.raises(Refused, match=r"keeps variables between requests \(VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE\)") as at_publish:
        build(PublishRequest(path, "m", "1.0.0"), BlockStore(tmp_path / "blocks"), now=1)
    with pytest.raises(Refused, match="make the state an input and an output of the model") as at_load:
        LiteRt().load(path, Options())

    assert {at_publish.value.code, at_load.value.code} == {Code.MODEL_LOAD}


def test_sizes_that_a_file_leaves_open_are_given_at_publish_and_set_where_it_runs(
    tmp_path: Path, running: Any, stage: Callable[..., Any]
) -> None:
    path, store = written(tmp_path / "model.tflite", litert_models.windowed()), BlockStore(tmp_path / "blocks")
    request = PublishRequest(path, "two", "1.0.0")
    with pytest.raises(Refused, match=r"leaves sizes of x \[-1, -1\] open, which --input-shape sets"):
        build(request, store, now=1)
    with pytest.raises(Refused, match=r"leaves sizes of x \[-1, -1\] open, which publish --input-shape sets"):
        LiteRt().load(path, Options(inputs=(Spec("x", "FP32", (-1, -1)),)))
    manifest = build(replace(request, input_shapes={"x": (-1, 4)}), store, now=1).manifest
    staged = stage("1.0.0", path.read_bytes(), model="two", inputs=manifest.inputs, outputs=manifest.outputs)
    running.serve(replace(staged, runtime="litert"))
    url = running.url + "/v2/models/two/infer"
    asked = [{"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [1.0] * 4 * rows} for rows in (1, 3)]
    answers = [httpx.post(url, json={"inputs": [one]}).json()["outputs"][0]["data"] for one in asked]
    wrong = httpx.post(url, json={"inputs": [{**asked[0], "shape": [1, 5], "data": [1.0] * 5}]})

    assert manifest.inputs[0].shape == (-1, 4)
    assert answers == [[4.0], [4.0] * 3]
    assert (wrong.status_code, "axis 1 has to be 4" in wrong.json()["error"]) == (400, True)


def test_sizes_may_be_stated_with_the_inputs_of_a_release_file(tmp_path: Path) -> None:
    path = written(tmp_path / "model.tflite", litert_models.windowed())
    stated = (Tensor(name="x", datatype="FP32", shape=(2, 4)),)

    assert build(PublishRequest(path, "two", "1.0.0", inputs=stated), BlockStore(tmp_path / "blocks"), now=1).manifest.inputs == stated


@pytest.mark.parametrize("has_library", [True, False])
@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"sound": (1, 4)}, r"input of --input-shape: expected one of \['x'\], found sound"),
        ({"x": (3,)}, r"--input-shape of x: expected .* of the file, of which only -1 is open, found \[3\]"),
    ],
)
def test_a_shape_that_the_file_cannot_take_is_refused(
    shapes: dict[str, tuple[int, ...]], sentence: str, has_library: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PublishRequest(written(tmp_path / "model.tflite", litert_models.recurrent()), "two", "1.0.0", input_shapes=shapes)
    if not has_library:
        monkeypatch.setattr(foreign_models, "find_spec", lambda name: None)
        request = replace(request, **sides((1, 1), (1, 1)))
    with pytest.raises(Refused, match=sentence):
        build(request, BlockStore(tmp_path / "blocks"), now=1)


def test_a_release_file_gives_shapes_as_the_command_line_does(tmp_path: Path) -> None:
    written(tmp_path / "model.tflite", litert_models.windowed())
    toml = 'name = "two"\nversion = "1.0.0"\nmodel = "model.tflite"\ninput_shapes = { x = [1, 4] }\n'
    (tmp_path / "release.toml").write_text(toml)
    said = request_for(read_release(tmp_path / "release.toml", {}), tell=lambda *told: None)
    over = request_for(read_release(tmp_path / "release.toml", {"input_shapes": {"x": [-1, 4]}}), tell=lambda *told: None)

    assert (said.input_shapes, over.input_shapes) == ({"x": (1, 4)}, {"x": (-1, 4)})
    assert build(said, BlockStore(tmp_path / "blocks"), now=1).manifest.inputs[0].shape == (1, 4)


def test_only_an_onnx_release_may_state_whether_rows_are_joined(tmp_path: Path) -> None:
    written(tmp_path / "model.tflite", litert_models.windowed())
    (tmp_path / "release.toml").write_text('name = "two"\nversion = "1.0.0"\nmodel = "model.tflite"\nstate_joining = true\n')
    with pytest.raises(Refused, match=r"state_joining.*an ONNX model"):
        read_release(tmp_path / "release.toml", {})


def test_a_shape_for_a_model_that_is_no_tflite_is_refused(tmp_path: Path) -> None:
    request = PublishRequest(written(tmp_path / "model.bin", b"1"), "two", "1.0.0", input_shapes={"x": (1, 4)})
    with pytest.raises(Refused, match=r"input_shapes: expected none, for a model that is not .tflite"):
        build(request, BlockStore(tmp_path / "blocks"), now=1)


@pytest.mark.parametrize("length", [0, 4, 8, 9, 40, 200, 400])
def test_a_file_that_is_cut_short_is_refused_by_its_bytes(length: int, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        LiteRt().load(written(tmp_path / "model.tflite", litert_models.remembering()[:length]), Options())

    assert caught.value.code is Code.MODEL_LOAD

"""Runtimes are entry points: our own, and a stranger's, installed as the documentation has it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import httpx
import numpy as np
import pytest

from node.core.activation.effective_parameters import EffectiveParameters
from node.runtimes import Options, available, probe
from node.runtimes.litert import LiteRt
from node.settings import NodeSettings
from node.workers import worker_handle
from node.workers.device_profile import profile
from schemas.errors import Code, Refused
from schemas.manifest import Tensor
from tests import probed

CHECKOUT = Path(__file__).parents[3]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """The distribution of docs/runtimes.md, really installed for this test."""
    text = (CHECKOUT / "docs" / "runtimes.md").read_text()
    for name in ("pyproject.toml", "fleetcast_linear.py"):
        found = re.search(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert found is not None
        (tmp_path / "linear").mkdir(exist_ok=True)
        (tmp_path / "linear" / name).write_text(found[1])
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--no-build-isolation", str(tmp_path / "linear")], check=True)
    worker_handle._runtimes.cache_clear()
    yield
    subprocess.run([*PIP, "uninstall", "-y", "fleetcast-linear"], check=True)
    worker_handle._runtimes.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_strangers_runtime_serves_its_models_beside_ours(
    running: Any, stage: Callable[..., Any], regressors: Any, tmp_path: Path
) -> None:
    weight, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, -1], np.float32)
    np.savez(tmp_path / "weights.npz", weight=weight, bias=bias)
    rows = np.eye(3, dtype=np.float32)
    sides = {"inputs": (Tensor(name="x", datatype="FP32", shape=(-1, 3)),), "outputs": (Tensor(name="y", datatype="FP32", shape=(-1, 2)),)}
    golden = {"x": rows}, {"y": 2 * (rows @ weight + bias)}
    staged = stage("1.0.0", (tmp_path / "weights.npz").read_bytes(), model="line", golden=golden, **sides)
    running.serve(stage("1.0.0", regressors.linear.onnx))
    running.serve(replace(staged, runtime="linear", parameters=EffectiveParameters(runtime={"scale": 2.0})))
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 3], "data": rows.ravel().tolist()}]}
    answer = httpx.post(running.url + "/v2/models/line/infer", json=body).json()
    bad = replace(stage("2.0.0", b"no npz", model="line", **sides), runtime="linear")
    with pytest.raises(Refused, match=r"model.onnx is no linear model") as caught:
        raise running.outcome(bad)

    assert httpx.get(running.url + "/v2/models/line").json()["platform"] == "linear_npz"
    np.testing.assert_array_equal(2 * (rows @ weight + bias), np.reshape(answer["outputs"][0]["data"], (3, 2)))
    assert caught.value.code is Code.MODEL_LOAD
    assert "linear" in available()


def test_a_runtime_whose_library_is_absent_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtimes.find_spec", lambda name: None if name == "xllamacpp" else object())

    assert {"onnx", "files", "litert"} <= set(available())
    assert "llama" not in available()


def settings(data: Path) -> NodeSettings:
    return NodeSettings(id="n", fleet="f", broker="mqtt://127.0.0.1", data=data, root=data / "root.json", labels={"site": "ewr"})


def test_a_profile_names_the_providers_and_runtimes_that_are_really_here(tmp_path: Path) -> None:
    found = profile(settings(tmp_path))

    assert "CPUExecutionProvider" in found.providers
    assert not any(name.startswith("Azure") for name in found.providers)
    assert {"onnx", "llama", "litert", "files"} <= set(found.runtimes or ())
    assert (os.cpu_count(), {"site": "ewr"}) == (found.cores, found.labels)
    assert (
        "onnxruntime"
        not in subprocess.run(
            [sys.executable, "-c", "import sys, node.settings; print(*sys.modules)"],
            check=True,
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        ).stdout.split()
    )


def test_providers_are_asked_once_and_again_after_another_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_imported", probed.ask)
    cache = tmp_path / "providers.json"
    first = probe.execution_providers(cache)
    kept = json.loads(cache.read_text())
    asked: list[Any] = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **more: (asked.append(1), real(*arguments, **more))[1])
    second = probe.execution_providers(cache)
    untouched = len(asked)
    cache.write_text(json.dumps({**kept, "installed": "another", "providers": ["Gone"]}))
    third = probe.execution_providers(cache)
    cache.write_bytes(b"\xff{")
    fourth = probe.execution_providers(cache)

    assert first == second == third == fourth
    assert (untouched, len(asked)) == (0, 2)


def test_runtimes_that_load_are_asked_once_and_their_providers_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_imported", probed.ask)
    asked: list[str] = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: (asked.append(command[-1]), real(command, **more))[1])

    found = [probe.unloadable(tmp_path) for _ in range(2)]
    providers = probe.execution_providers(tmp_path / probe.PROVIDERS)

    assert found == [{}, {}]
    assert "CPUExecutionProvider" in providers
    assert sorted(asked) == ["node.runtimes.litert", "node.runtimes.llama", "node.runtimes.onnx"]


def test_a_litert_model_runs_with_a_free_first_axis(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(doubled())
    runtime = LiteRt()
    runtime.load(path, Options())
    signature = runtime.describe()
    answers = [runtime.infer({"x": np.full((rows, 3), rows, np.float32)}, {})[0].tolist() for rows in (1, 4, 2)]
    with pytest.raises(Refused, match="LiteRT") as caught:
        runtime.infer({"x": np.zeros((1, 2), np.float32)}, {})

    assert tuple(signature.inputs[0]) == ("x", "FP32", (-1, 3))
    assert signature.outputs[0].datatype == "FP32"
    assert [[[2.0 * rows] * 3] * rows for rows in (1, 4, 2)] == answers
    assert caught.value.code is Code.REQUEST_INVALID


def test_a_litert_release_is_served_in_a_worker(running: Any, stage: Callable[..., Any]) -> None:
    sides = {side: (Tensor(name=name, datatype="FP32", shape=(-1, 3)),) for side, name in (("inputs", "x"), ("outputs", "y"))}
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    staged = stage("1.0.0", doubled(), model="two", golden=({"x": rows}, {"y": 2 * rows}), **sides)
    running.serve(replace(staged, runtime="litert"))
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": rows.ravel().tolist()}]}
    answer = httpx.post(running.url + "/v2/models/two/infer", json=body).json()

    assert (2 * rows).ravel().tolist() == answer["outputs"][0]["data"]
    assert httpx.get(running.url + "/v2/models/two").json()["platform"] == "litert_tflite"


def test_a_file_that_is_no_tflite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"not a flatbuffer at all")

    with pytest.raises(Refused, match="LiteRT cannot load the model") as caught:
        LiteRt().load(tmp_path / "model.tflite", Options())

    assert caught.value.code is Code.MODEL_LOAD


def doubled() -> bytes:
    """A .tflite file, table by table (TensorFlow Lite's schema, version 3): y = x + x of float32 [-1, 3]."""
    builder = flatbuffers.Builder(1024)

    def table(*fields: tuple[int, Any, Any, Any]) -> int:
        builder.StartObject(8)
        for slot, prepend, value, default in fields:
            getattr(builder, f"Prepend{prepend}Slot")(slot, value, default)
        return int(builder.EndObject())

    def numbers(*values: int) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependInt32(value)
        return int(builder.EndVector())

    def tables(*offsets: int) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    tensors = []
    for name in ("x", "y"):
        shape, signature, label = numbers(1, 3), numbers(-1, 3), builder.CreateString(name)
        tensors.append(table((0, "UOffsetTRelative", shape, 0), (3, "UOffsetTRelative", label, 0), (7, "UOffsetTRelative", signature, 0)))
    options, operands, results = table(), numbers(0, 0), numbers(1)
    operator = table(
        (1, "UOffsetTRelative", operands, 0),
        (2, "UOffsetTRelative", results, 0),
        (3, "Uint8", 11, 0),  # AddOptions
        (4, "UOffsetTRelative", options, 0),
    )
    inputs, outputs, listed, operators = numbers(0), numbers(1), tables(*tensors), tables(operator)
    graph = table(*((slot, "UOffsetTRelative", value, 0) for slot, value in enumerate((listed, inputs, outputs, operators))))
    codes, graphs, buffers = tables(table((2, "Int32", 1, 0))), tables(graph), tables(table())  # ADD is builtin 0, the default
    model = table(
        (0, "Uint32", 3, 0), (1, "UOffsetTRelative", codes, 0), (2, "UOffsetTRelative", graphs, 0), (4, "UOffsetTRelative", buffers, 0)
    )
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())

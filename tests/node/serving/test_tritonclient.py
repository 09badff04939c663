"""NVIDIA's client, unmodified, against a node."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from schemas.manifest import Tensor
from tests.node.conftest import serving


@pytest.fixture(scope="module")
def client(regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    with serving(tmp_path_factory.mktemp("triton"), regressors.linear, regressors.forest) as running, connected(running) as client:
        yield client


def connected(running: Any) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{running.server.port}", connection_timeout=60.0, network_timeout=60.0)


def test_health_and_metadata_are_understood(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("delay")

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delay")
    assert client.is_model_ready("delay", "1.0.0")
    assert not client.is_model_ready("delay", "9.9.9")
    assert client.get_server_metadata()["name"] == "ewr-1"
    assert metadata["versions"] == ["1.0.0", "2.0.0"]
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_both_versions_answer_in_binary_and_in_json(client: Any, regressors: Any, binary_in: bool, binary_out: bool) -> None:
    rows = regressors.rows[:3]
    tensor = triton.InferInput("X", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary_in)
    wanted = [triton.InferRequestedOutput("variable", binary_data=binary_out)]

    for version, model in (("1.0.0", regressors.linear), ("2.0.0", regressors.forest)):
        result = client.infer("delay", [tensor], model_version=version, outputs=wanted, request_id="abc")

        assert result.get_response()["model_version"] == version
        assert result.get_response()["id"] == "abc"
        np.testing.assert_allclose(result.as_numpy("variable"), model.predict(rows), rtol=1e-4)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_without_named_outputs_all_come_back_from_the_current_release(client: Any, regressors: Any, compression: str | None) -> None:
    rows = regressors.rows[:2]
    tensor = triton.InferInput("X", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)

    result = client.infer("delay", [tensor], request_compression_algorithm=compression)

    np.testing.assert_allclose(result.as_numpy("variable"), regressors.forest.predict(rows), rtol=1e-4)


def test_an_error_reaches_the_client_with_its_sentence(client: Any) -> None:
    tensor = triton.InferInput("X", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))

    with pytest.raises(InferenceServerException, match=r"X: shape: expected \[-1, 5\], found \[1, 4\]") as caught:
        client.infer("delay", [tensor])

    assert caught.value.status() == "400"


DATATYPES: dict[str, tuple[int, Any]] = {
    "BOOL": (TensorProto.BOOL, np.array([True, False, True])),
    "UINT8": (TensorProto.UINT8, np.array([0, 255, 7], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([0, 65535, 7], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([0, 2**32 - 1, 7], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([0, 2**64 - 1, 7], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([-128, 127, 0], np.int8)),
    "INT16": (TensorProto.INT16, np.array([-32768, 32767, 0], np.int16)),
    "INT32": (TensorProto.INT32, np.array([-(2**31), 2**31 - 1, 0], np.int32)),
    "INT64": (TensorProto.INT64, np.array([-(2**63), 2**63 - 1, 0], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([0.5, -65504.0, np.nan], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([0.1, -np.inf, 3e38], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([0.1, 1e300, -0.0], np.float64)),
    "BYTES": (TensorProto.STRING, np.array(["Füße", "", "x" * 70_000], object)),
}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_of_the_protocol_passes_in_binary_unchanged(running: Any, stage: Callable[..., Any], datatype: str) -> None:
    element, data = DATATYPES[datatype]
    sides = {side: (Tensor(name=name, datatype=datatype, shape=(-1,)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    running.serve(stage("1.0.0", identity(element), **sides))
    tensor = triton.InferInput("X", data.shape, datatype)
    tensor.set_data_from_numpy(data)
    with connected(running) as client:
        result = client.infer("delay", [tensor], outputs=[triton.InferRequestedOutput("variable", binary_data=True)])
    answer = result.as_numpy("variable")
    found = np.array([one.decode() for one in answer], object) if datatype == "BYTES" else answer

    assert datatype == result.get_output("variable")["datatype"]
    np.testing.assert_array_equal(data, found)


def test_outputs_come_in_the_order_asked_for_each_in_its_own_form(running: Any, stage: Callable[..., Any]) -> None:
    names = ("sum", "product", "text")
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Cast", ["a"], ["text"], to=TensorProto.STRING),
    ]
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.INT32, [None, 2]) for name in ("a", "b", "sum", "product")}
    tensors["text"] = helper.make_tensor_value_info("text", TensorProto.STRING, [None, 2])
    graph = helper.make_graph(nodes, "three", [tensors["a"], tensors["b"]], [tensors[name] for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    inputs = tuple(Tensor(name=name, datatype="INT32", shape=(-1, 2)) for name in ("a", "b"))
    outputs = tuple(Tensor(name=name, datatype="BYTES" if name == "text" else "INT32", shape=(-1, 2)) for name in names)
    running.serve(stage("1.0.0", model, inputs=inputs, outputs=outputs))
    sent = []
    for name, data, is_binary in (("b", [[5, 6]], False), ("a", [[1, 2]], True)):  # another order than the model's, and mixed
        sent.append(triton.InferInput(name, (1, 2), "INT32"))
        sent[-1].set_data_from_numpy(np.array(data, np.int32), binary_data=is_binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=name != "sum") for name in ("text", "sum", "product")]
    with connected(running) as client:
        result = client.infer("delay", sent, outputs=wanted)
        everything = client.infer("delay", sent)

    assert [output["name"] for output in result.get_response()["outputs"]] == ["text", "sum", "product"]
    assert result.as_numpy("sum").tolist() == [[6, 8]]
    assert result.as_numpy("product").tolist() == [[5, 12]]
    assert result.as_numpy("text").tolist() == [[b"1", b"2"]]
    assert list(names) == [output["name"] for output in everything.get_response()["outputs"]]


def test_a_scalar_and_an_input_of_rank_three_pass(running: Any, stage: Callable[..., Any]) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, None, 3]), ("factor", []))]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, None, 3])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "factor"], ["y"])], "scaled", tensors, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    declared = (Tensor(name="x", datatype="FP32", shape=(2, -1, 3)), Tensor(name="factor", datatype="FP32", shape=()))
    running.serve(stage("1.0.0", model, inputs=declared, outputs=(Tensor(name="y", datatype="FP32", shape=(2, -1, 3)),)))
    data = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    sent = [triton.InferInput("x", data.shape, "FP32"), triton.InferInput("factor", (), "FP32")]
    sent[0].set_data_from_numpy(data)
    sent[1].set_data_from_numpy(np.array(2.0, np.float32))
    with connected(running) as client:
        result = client.infer("delay", sent)

    np.testing.assert_array_equal(2 * data, result.as_numpy("y"))


def test_statistics_and_the_repository_are_understood(regressors: Any, tmp_path: Path) -> None:
    tensor = triton.InferInput("X", [3, 5], "FP32")
    tensor.set_data_from_numpy(regressors.rows[:3])
    with serving(tmp_path, regressors.linear, regressors.forest) as running, connected(running) as client:
        for _ in range(2):
            client.infer("delay", [tensor])
        (stats,) = client.get_inference_statistics("delay")["model_stats"]
        (same,) = client.get_inference_statistics()["model_stats"]
        (older,) = client.get_inference_statistics("delay", "1.0.0")["model_stats"]
        index = client.get_model_repository_index()

    assert tuple(stats[name] for name in ("name", "version", "inference_count", "execution_count")) == ("delay", "2.0.0", 6, 2)
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["success"]["ns"] > 0
    assert stats["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert stats["last_inference"] > 1_700_000_000_000
    assert same == stats
    assert older["version"] == "1.0.0"
    assert [(one["version"], one["reason"]) for one in index] == [("1.0.0", "held"), ("2.0.0", "serving")]


def identity(element: int) -> bytes:
    sides = [helper.make_tensor_value_info(name, element, [None]) for name in ("X", "variable")]
    graph = helper.make_graph([helper.make_node("Identity", ["X"], ["variable"])], "one", sides[:1], sides[1:])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model

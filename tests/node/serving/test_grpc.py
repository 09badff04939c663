"""NVIDIA's gRPC client, unmodified, against the node: the same answers and refusals as over REST."""

import socket
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from onnx import TensorProto
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from node.serving.grpc_server import MESSAGE_BYTES_MAX
from node.serving.server import Listen
from schemas.errors import Code, Refused
from schemas.manifest import Tensor
from tests.hub.hubs import until
from tests.node.conftest import staging, starting
from tests.node.serving.test_metrics import scrape
from tests.node.serving.test_serving import onnx_of

HERE = "127.0.0.1"
SAME = (("texts", "BYTES", TensorProto.STRING), ("bytes", "INT8", TensorProto.INT8))  # models that say what they are asked


@pytest.fixture(scope="module")
def served(regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    stage = staging(tmp_path_factory.mktemp("grpc"))
    with starting() as begin:
        running = begin(Listen(port=0, grpc_port=0))
        running.serve(stage("1.0.0", regressors.linear.onnx))
        for model, datatype, element in SAME:
            sides = {
                side: (Tensor(name=name, datatype=datatype, shape=(-1,)),) for side, name in (("inputs", "X"), ("outputs", "variable"))
            }
            running.serve(stage("1.0.0", onnx_of("Identity", element, [None]), model=model, **sides))
        yield running


@pytest.fixture
def client(served: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{HERE}:{served.server.grpc_port}") as connected:
        yield connected


@pytest.fixture
def stub(served: Any) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"{HERE}:{served.server.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(rows: np.ndarray, datatype: str = "FP32") -> Any:
    given = triton.InferInput("X", list(rows.shape), datatype)
    given.set_data_from_numpy(rows)
    return given


def typed(shape: tuple[int, ...], datatype: str = "FP32", model: str = "delay", name: str = "X", **contents: Any) -> Any:
    one = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(one.contents, field).extend(values)
    return service_pb2.ModelInferRequest(model_name=model, inputs=[one])


def test_health_and_metadata_are_those_of_rest(client: triton.InferenceServerClient, served: Any) -> None:
    rest = httpx.get(served.url + "/v2/models/delay").json()
    found = client.get_model_metadata("delay", as_json=True)

    assert (client.is_server_live(), client.is_server_ready()) == (True, True)
    assert (client.is_model_ready("delay"), client.is_model_ready("delay", "1.0.0"), client.is_model_ready("other")) == (True, True, False)
    assert client.get_server_metadata().name == "ewr-1"
    assert (found["name"], found["versions"], found["platform"]) == ("delay", ["1.0.0"], rest["platform"])
    assert [(one["name"], one["datatype"], [int(axis) for axis in one["shape"]]) for one in found["inputs"]] == [("X", "FP32", [-1, 5])]


def test_raw_contents_get_the_model_s_own_answer(client: triton.InferenceServerClient, regressors: Any) -> None:
    rows = regressors.rows[:7]
    answer = client.infer("delay", [tensor(rows)], request_id="seven", outputs=[triton.InferRequestedOutput("variable")])

    assert np.allclose(answer.as_numpy("variable"), regressors.linear.predict(rows), atol=1e-4)
    assert (answer.get_response().id, answer.get_response().model_version) == ("seven", "1.0.0")


def test_typed_contents_are_answered_with_typed_ones(stub: Any, regressors: Any) -> None:
    rows = regressors.rows[:2]
    answer = stub.ModelInfer(typed((2, 5), fp32_contents=rows.ravel().tolist()))

    assert not answer.raw_output_contents
    assert np.allclose(answer.outputs[0].contents.fp32_contents, regressors.linear.predict(rows).ravel(), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "datatype", "field", "values"),
    [("texts", "BYTES", "bytes_contents", [b"", "naïve".encode(), b"x" * 1000]), ("bytes", "INT8", "int_contents", [-128, 0, 127])],
)
def test_texts_and_small_numbers_come_back_typed_and_raw(
    stub: Any, client: triton.InferenceServerClient, model: str, datatype: str, field: str, values: list[Any]
) -> None:
    answer = stub.ModelInfer(typed((3,), datatype, model, **{field: values}))
    raw = client.infer(model, [tensor(np.array(values, object if datatype == "BYTES" else np.int8), datatype)])

    assert list(getattr(answer.outputs[0].contents, field)) == values
    assert raw.as_numpy("variable").tolist() == values


def test_the_time_of_rows_reaches_telemetry(client: triton.InferenceServerClient, served: Any, regressors: Any) -> None:
    served.observations.clear()
    client.infer("delay", [tensor(regressors.rows[:3])], parameters={"event_time": 1_700_000_000})

    assert [(seen.rows, seen.event_time) for seen in served.told(1)] == [(3, 1_700_000_000.0)]


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        (typed((1, 5), model="other"), "NOT_FOUND", "model 'other' is not served here"),
        (typed((1, 4), fp32_contents=[1.0] * 4), "INVALID_ARGUMENT", "X"),
        (typed((1, 5), fp32_contents=[1.0] * 4), "INVALID_ARGUMENT", "X"),
        (typed((1, 5), datatype="FP16"), "INVALID_ARGUMENT", "travels in raw_input_contents only"),
        (typed((1, 5), datatype="INT8", int_contents=[300] * 5), "INVALID_ARGUMENT", "a value does not fit INT8"),
        (
            service_pb2.ModelInferRequest(model_name="delay", raw_input_contents=[b"x"]),
            "INVALID_ARGUMENT",
            "raw_input_contents: expected 0",
        ),
    ],
)
def test_a_wrong_request_has_the_status_and_sentence_of_rest(stub: Any, served: Any, request_: Any, status: str, sentence: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_)

    assert caught.value.code().name == status
    assert sentence in caught.value.details()
    assert served.server.stats("delay", next(iter(served.server.loaded()))).errors == 0


def test_a_message_beyond_the_bound_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(service_pb2.ModelInferRequest(model_name="delay", raw_input_contents=[bytes(MESSAGE_BYTES_MAX)]))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_its_requests_are_among_the_metrics(served: Any, client: triton.InferenceServerClient, regressors: Any) -> None:
    before = scrape(served)["fleetcast_requests_total", "delay", "answered"]
    client.infer("delay", [tensor(regressors.rows[:1])])
    until("it to be counted", lambda: scrape(served)["fleetcast_requests_total", "delay", "answered"] == before + 1)


def test_a_port_in_use_is_refused_by_its_number() -> None:
    with socket.socket() as taken, starting() as begin:
        taken.bind((HERE, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"cannot listen for gRPC on {HERE}:{port}") as caught:
            begin(Listen(port=0, grpc_port=port))

    assert caught.value.code is Code.PORT_IN_USE


def test_without_the_extra_the_setting_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)  # as an import of what is not installed
    monkeypatch.delitem(sys.modules, "node.serving.grpc_server")
    with starting() as begin, pytest.raises(Refused, match="install fleetcast's extra `grpc`") as caught:
        begin(Listen(port=0, grpc_port=0))

    assert caught.value.code is Code.SETTINGS_INVALID

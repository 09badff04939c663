"""What a release must prove before it serves, what the endpoint answers, and how it refuses."""

import gzip
import json
import math
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper

from node.core.inference.oip import BODY_BYTES_MAX, JSON_BYTES_MAX
from node.serving import worker_pool
from node.serving.activation import Prepared
from node.serving.server import Listen, Server
from node.workers.worker_handle import Load, Worker
from schemas.errors import Code, Refused
from schemas.manifest import Limits, Tensor
from tests.hub.hubs import until
from tests.node.conftest import serving

INFER = "/v2/models/delay/infer"


def body_of(rows: np.ndarray, **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}], **fields}


def onnx_of(operator: str, element: int, shape: list[Any]) -> bytes:
    """A graph of one operator, X to variable."""
    nodes = [helper.make_node(operator, ["X"], ["variable"])]
    sides = [helper.make_tensor_value_info(name, element, shape) for name in ("X", "variable")]
    graph = helper.make_graph(nodes, "one", sides[:1], sides[1:])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model


@pytest.fixture(scope="module")
def shared(regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(tmp_path_factory.mktemp("shared"), regressors.linear) as running:
        yield running


@pytest.fixture
def served(running: Any, stage: Callable[..., Any], regressors: Any) -> Any:
    running.serve(stage("1.0.0", regressors.linear.onnx))
    return running


def golden_of(regressors: Any, moved: float = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = regressors.rows[:8]
    expected = regressors.linear.predict(rows)
    expected[3, 0] += moved
    return {"X": rows}, {"variable": expected}


def test_a_release_that_proves_itself_comes_with_evidence(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = stage("1.0.0", regressors.linear.onnx, golden=golden_of(regressors))
    outcome = running.outcome(staged)

    assert isinstance(outcome, Prepared)
    assert outcome.digest == staged.digest
    assert outcome.evidence.golden_rows == 8
    assert 0 <= outcome.evidence.golden_error_max < 1
    assert outcome.evidence.load_ms > 0
    assert outcome.evidence.latency_ms > 0
    assert outcome.evidence.memory_bytes > 10 * 2**20


REFUSALS: dict[str, tuple[Callable[[Any], tuple[bytes, dict[str, Any]]], Code, str]] = {
    "no model": (lambda r: (b"no ONNX", {}), Code.MODEL_LOAD, "cannot load"),
    "cut off": (lambda r: (r.forest.onnx[: len(r.forest.onnx) // 2], {}), Code.MODEL_LOAD, "cannot load"),
    "other input": (
        lambda r: (r.linear.onnx, {"inputs": (Tensor(name="X", datatype="FP32", shape=(-1, 6)),)}),
        Code.MODEL_SIGNATURE,
        r"inputs of the model: expected X FP32\[-1, 6\], found X FP32\[-1, 5\]",
    ),
    "other output": (
        lambda r: (r.linear.onnx, {"outputs": (Tensor(name="y", datatype="FP32", shape=(-1, 1)),)}),
        Code.MODEL_SIGNATURE,
        r"outputs of the model: expected y FP32\[-1, 1\], found variable FP32\[-1, 1\]",
    ),
    "golden": (
        lambda r: (r.linear.onnx, {"golden": golden_of(r, moved=5.0)}),
        Code.MODEL_GOLDEN,
        r"variable\[3, 0\]: expected .* \(within 0.0001 \+ 0.001 \* \|expected\|\), found",
    ),
    "nan": (
        lambda r: (onnx_of("Sqrt", TensorProto.FLOAT, [None, 5]), nan_fields()),
        Code.MODEL_GOLDEN,
        r"variable\[0, 0\]: expected .*, found NaN",
    ),
    "slow": (lambda r: (r.linear.onnx, {"limits": Limits(latency_ms_max=1e-4)}), Code.MODEL_TOO_SLOW, "at most 0.0001 ms, found"),
    "large": (
        lambda r: (r.linear.onnx, {"limits": Limits(memory_bytes_max=2**20)}),
        Code.MODEL_TOO_LARGE,
        r"memory of the worker: expected at most \d+ bytes( of data)?, found",
    ),
}


def nan_fields() -> dict[str, Any]:
    rows = -np.ones((1, 5), np.float32)
    return {
        "outputs": (Tensor(name="variable", datatype="FP32", shape=(-1, 5)),),
        "golden": ({"X": rows}, {"variable": np.ones_like(rows)}),
    }


@pytest.mark.parametrize("case", REFUSALS)
def test_a_release_that_fails_its_test_is_refused_and_the_old_one_serves_on(
    shared: Any, stage: Callable[..., Any], regressors: Any, case: str
) -> None:
    make, code, sentence = REFUSALS[case]
    onnx_bytes, fields = make(regressors)
    before = shared.server.loaded()
    staged = stage("2.0.0", onnx_bytes, **fields)
    with pytest.raises(Refused, match=sentence) as caught:
        raise shared.outcome(staged)
    with pytest.raises(Refused, match="is not prepared"):
        shared.server.switch("delay", staged.digest)

    assert code == caught.value.code
    assert before == shared.server.loaded()
    assert httpx.post(shared.url + INFER, json=body_of(regressors.rows[:1])).json()["model_version"] == "1.0.0"


def test_preparing_the_same_release_twice_starts_one_worker(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = stage("1.0.0", regressors.linear.onnx)
    outcomes: list[Any] = []
    for _ in range(2):
        running.server.prepare(staged, outcomes.append)
    outcomes.append(running.outcome(staged))
    process_id = running.server.loaded()[staged.digest]
    again = running.outcome(staged)

    assert [staged.digest] * 3 == [outcome.digest for outcome in outcomes]
    assert again.evidence == outcomes[0].evidence
    assert running.server.loaded() == {staged.digest: process_id}


def test_a_release_retired_while_it_is_prepared_is_abandoned(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = stage("1.0.0", regressors.linear.onnx)
    done, outcomes = threading.Event(), []
    running.server.prepare(staged, lambda outcome: (outcomes.append(outcome), done.set()))
    running.server.retire(staged.digest)

    assert done.wait(120)
    assert outcomes[0].code is Code.RELEASE_UNKNOWN
    assert running.server.loaded() == {}


def test_a_model_is_not_ready_until_a_release_is_switched_to(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = stage("1.0.0", regressors.linear.onnx)
    running.outcome(staged)
    before = httpx.post(running.url + INFER, json=body_of(regressors.rows[:1]))
    unproven = httpx.post(running.url + "/v2/models/delay/versions/1.0.0/infer", json=body_of(regressors.rows[:1]))
    ready_before = httpx.get(running.url + "/v2/health/ready")
    running.server.switch("delay", staged.digest)

    assert (before.status_code, before.headers["retry-after"]) == (503, "1")
    assert (ready_before.status_code, ready_before.headers["retry-after"]) == (503, "1")
    assert unproven.status_code == 404
    assert httpx.get(running.url + "/v2/health/ready").status_code == 200
    assert httpx.get(running.url + "/v2/models/delay/ready").json() == {"name": "delay", "ready": True}


def test_curl_gets_scikit_learns_answer(shared: Any, regressors: Any) -> None:
    rows = regressors.rows[:3]
    command = ["curl", "-sS", "-H", "Content-Type: application/json", "-d", json.dumps(body_of(rows, id="q1")), shared.url + INFER]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("delay", "1.0.0", "q1")
    assert tuple(answer["outputs"][0][key] for key in ("name", "datatype", "shape")) == ("variable", "FP32", [3, 1])
    np.testing.assert_allclose(answer["outputs"][0]["data"], regressors.linear.predict(rows).ravel(), rtol=1e-4)


def test_telemetry_sees_rows_answers_and_the_clients_time(served: Any, regressors: Any) -> None:
    rows = regressors.rows[:4]
    httpx.post(served.url + INFER, json=body_of(rows, parameters={"event_time": 1.36e9}))
    httpx.post(served.url + INFER, json=body_of(rows[:, :4]))
    until("an observation", lambda: served.observations)
    (seen,) = served.observations

    assert (seen.model, seen.rows, seen.event_time) == ("delay", 4, 1.36e9)
    np.testing.assert_array_equal(rows, seen.inputs["X"])
    np.testing.assert_allclose(seen.outputs["variable"], regressors.linear.predict(rows), rtol=1e-4)


def test_telemetry_that_fails_fails_no_request(stage: Callable[..., Any], regressors: Any) -> None:
    server = Server(Listen(port=0), node="ewr-1", on_rows=lambda seen: 1 / 0)
    server.start()
    staged, done = stage("1.0.0", regressors.linear.onnx), threading.Event()
    server.prepare(staged, lambda outcome: done.set())
    assert done.wait(120)
    server.switch("delay", staged.digest)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        statuses = [client.post(INFER, json=body_of(regressors.rows[:1])).status_code for _ in range(3)]
    server.stop()

    assert statuses == [200, 200, 200]


WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([], "JSON object"),
    "no inputs": ({}, "inputs must be a list"),
    "deep": (b"[" * 100_000, "nested deeper"),
    "not utf-8": (b'{"\xff": 1}', "not UTF-8"),
    "other name": (body_of(np.ones((1, 5))) | {"inputs": [{"name": "Y"}]}, r"inputs: expected \['X'\], found \['Y'\]"),
    "twice": ({"inputs": body_of(np.ones((1, 5)))["inputs"] * 2}, "name of its own"),
    "other shape": (body_of(np.ones((1, 4))), r"X: shape: expected \[-1, 5\], found \[1, 4\]"),
    "other datatype": ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 5], "data": [0] * 5}]}, "expected FP32, found FP64"),
    "no data": ({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 5]}]}, "data must be a list"),
    "unknown output": (body_of(np.ones((1, 5)), outputs=[{"name": "z"}]), r"outputs: expected \['variable'\], found z"),
    "shared memory": (body_of(np.ones((1, 5)), outputs=[{"name": "variable", "parameters": {"shared_memory_region": "r"}}]), "not offered"),
    "event time": (body_of(np.ones((1, 5)), parameters={"event_time": "now"}), "event_time"),
    "event time before 1970": (body_of(np.ones((1, 5)), parameters={"event_time": -1e15}), "event_time must be .* from 0 to"),
    "event time in another age": (body_of(np.ones((1, 5)), parameters={"event_time": -1e308}), "event_time must be .* from 0 to"),
    "event time in milliseconds": (
        body_of(np.ones((1, 5)), parameters={"event_time": 1_764_000_000_000}),
        "event_time must be .* from 0 to",
    ),
    "event time of 4,200 digits": (body_of(np.ones((1, 5)), parameters={"event_time": 10**4199}), "event_time must be .* from 0 to"),
    "event time of no number": (body_of(np.ones((1, 5)), parameters={"event_time": math.nan}), "event_time must be .* from 0 to"),
    "a number of 5,000 digits": (b'{"parameters": {"event_time": ' + b"9" * 5000 + b"}}", "more than 4300 digits"),
    "a size of 4,200 digits": (
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [10**4199, 5], "data": []}]},
        "X: shape: expected at most 2147483648 elements",
    ),
    "no size": (
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 5], "data": [0] * 5}]},
        r"X: shape: expected \[-1, 5\], found \[-1, 5\]: axis 0 of a tensor that is sent has a size, and -1 is none",
    ),
    "no rows": (
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [0, 5], "data": []}]},
        r"X: shape: .*: axis 0 is 0, so there is nothing to answer",
    ),
    "NaN": (body_of(np.array([[0, 1, np.nan, 3, 4]])), "X: element 2 is NaN; JSON has no such number: send it as binary data"),
    "infinity": (body_of(np.array([[0, 1, 2, -np.inf, 4]])), "X: element 3 is infinite"),
    "1e400": (
        b'{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [[0, 1e400, 2, 3, 4]]}]}',
        "X: element 1 is infinite, or too large for any float; JSON has no such number",
    ),
    "1e40": (
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [[0, 1e40, 2, 3, 4]]}]},
        "X: an element does not fit FP32",
    ),
    "sequence": (body_of(np.ones((1, 5)), parameters={"sequence_id": 7}), "parameter sequence_id of the request: .* no sequences"),
    "sequence start": (body_of(np.ones((1, 5)), parameters={"sequence_id": 0, "sequence_start": True}), "parameter sequence_start"),
    "sequence end": (body_of(np.ones((1, 5)), parameters={"sequence_end": True}), "parameter sequence_end"),
    "priority": (body_of(np.ones((1, 5)), parameters={"priority": 1}), "parameters of the request: expected .*, found 'priority'"),
    "unknown parameter": (
        body_of(np.ones((1, 5)), parameters={"temprature": 0.5}),
        "parameters of the request: expected some of binary_data_output, event_time, found 'temprature'",
    ),
    "unknown parameter of an input": (
        {"inputs": [{**body_of(np.ones((1, 5)))["inputs"][0], "parameters": {"content_type": "pd"}}]},
        "parameters of X: expected some of binary_data_size, found 'content_type'",
    ),
    "unknown parameter of an output": (
        body_of(np.ones((1, 5)), outputs=[{"name": "variable", "parameters": {"rounding": 2}}]),
        "parameters of variable: expected some of binary_data, found 'rounding'",
    ),
    "binary or not": (
        body_of(np.ones((1, 5)), parameters={"binary_data_output": 1}),
        "binary_data_output: expected true or false, found 1",
    ),
    "no binary": (
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 5], "parameters": {"binary_data_size": 20}}]},
        "expected at most 0, found 20",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_a_400_that_says_why(shared: Any, case: str) -> None:
    content, sentence = WRONG[case]
    answer = httpx.post(shared.url + INFER, content=content if isinstance(content, bytes) else json.dumps(content).encode())

    assert answer.status_code == 400
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(answer.json()["error"])


@pytest.mark.parametrize("length", ["0", "1000000", "-1", "x"])
def test_a_wrong_header_length_is_a_400(shared: Any, length: str) -> None:
    answer = httpx.post(shared.url + INFER, content=b"{}", headers={"Inference-Header-Content-Length": length})

    assert answer.status_code == 400
    assert answer.json()["error"].lower().startswith("inference-header-content-length")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/v2/models/other/infer", 404, "model 'other' is not served here; served are ['delay']"),
        ("POST", "/v2/models/delay/versions/3.0.0/infer", 404, "version '3.0.0' of model 'delay' is not served; served are ['1.0.0']"),
        ("GET", "/v2/models/other", 404, "model 'other' is not served here"),
        ("GET", "/v2/models/other/ready", 404, "model 'other' is not served here"),
        ("GET", "/v3", 404, "GET /v3: Not Found"),
        ("GET", "/v2/models/delay/infer", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_here_is_said_in_json(shared: Any, method: str, path: str, status: int, sentence: str) -> None:
    answer = httpx.request(method, shared.url + path)

    assert status == answer.status_code
    assert sentence in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused_from_its_header_alone(shared: Any) -> None:
    with socket.create_connection(("127.0.0.1", shared.server.port)) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n\r\n".encode())
        answer = raw.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_json_that_is_too_large_and_a_gzip_bomb_are_413(shared: Any) -> None:
    padded = b'{"inputs": [' + b" " * JSON_BYTES_MAX + b"]}"
    bomb = gzip.compress(bytes(BODY_BYTES_MAX + 1))
    answers = [
        httpx.post(shared.url + INFER, content=padded),
        httpx.post(shared.url + INFER, content=bomb, headers={"Content-Encoding": "gzip"}),
    ]

    assert [answer.status_code for answer in answers] == [413, 413]
    assert "binary data" in answers[0].json()["error"]


def test_nan_and_infinity_reach_a_model_as_binary_data(running: Any, stage: Callable[..., Any]) -> None:
    sides = {side: (Tensor(name=name, datatype="FP16", shape=(-1,)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    running.serve(stage("1.0.0", onnx_of("Identity", TensorProto.FLOAT16, [None]), **sides))
    data = np.array([np.nan, np.inf, 0.5], np.float16)
    tensor = {"name": "X", "datatype": "FP16", "shape": [3], "parameters": {"binary_data_size": 6}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = httpx.post(running.url + INFER, content=head + data.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))})
    start = int(answer.headers["inference-header-content-length"])

    np.testing.assert_array_equal(np.frombuffer(answer.content[start:], np.float16), data)


def test_parameters_that_ask_for_nothing_are_no_mistake(shared: Any, regressors: Any) -> None:
    asks_nothing = {"sequence_id": 0, "sequence_start": False, "priority": 0, "timeout": None, "event_time": None, "headers": None}
    body = body_of(regressors.rows[:1], parameters=asks_nothing)
    body["inputs"][0]["parameters"] = {"content_type": None}

    assert httpx.post(shared.url + INFER, json=body).status_code == 200


def test_axes_of_0_that_a_model_declares_are_served(running: Any, stage: Callable[..., Any]) -> None:
    sides = {
        "inputs": (Tensor(name="X", datatype="FP32", shape=(2, 0, 4)),),
        "outputs": (Tensor(name="variable", datatype="FP32", shape=(2, 0, 4)),),
    }
    nothing = np.zeros((2, 0, 4), np.float32)
    running.serve(
        stage("1.0.0", onnx_of("Identity", TensorProto.FLOAT, [2, 0, 4]), golden=({"X": nothing}, {"variable": nothing}), **sides)
    )
    tensor = {"name": "X", "datatype": "FP32", "shape": [2, 0, 4]}
    answers = [httpx.post(running.url + INFER, json={"inputs": [{**tensor, "data": data}]}) for data in ([], [[], []])]
    refused = httpx.post(running.url + INFER, json={"inputs": [{**tensor, "shape": [2, 1, 4], "data": [0] * 8}]})

    assert [answer.json()["outputs"][0]["shape"] for answer in answers] == [[2, 0, 4], [2, 0, 4]]
    assert refused.json()["error"] == "X: shape: expected [2, 0, 4], found [2, 1, 4]: axis 1 has to be 0"


def test_an_output_that_json_cannot_carry_is_refused_and_binary_carries_it(running: Any, stage: Callable[..., Any]) -> None:
    tensors = {side: (Tensor(name=name, datatype="FP32", shape=(-1, 5)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    running.serve(stage("1.0.0", onnx_of("Sqrt", TensorProto.FLOAT, [None, 5]), **tensors))
    body = body_of(-np.ones((1, 5)))
    as_json = httpx.post(running.url + INFER, json=body)
    as_binary = httpx.post(running.url + INFER, json={**body, "parameters": {"binary_data_output": True}})
    start = int(as_binary.headers["inference-header-content-length"])

    assert as_json.status_code == 400
    assert "binary_data" in as_json.json()["error"]
    assert np.isnan(np.frombuffer(as_binary.content[start:], np.float32)).all()


@pytest.mark.parametrize(
    ("datatype", "element", "data"),
    [
        ("BYTES", TensorProto.STRING, ["Füße", "", "x"]),
        ("BOOL", TensorProto.BOOL, [True, False, True]),
        ("INT64", TensorProto.INT64, [2**62, -1, 0]),
        ("UINT8", TensorProto.UINT8, [0, 255, 7]),
        ("FP16", TensorProto.FLOAT16, [0.5, -2.0, 1.0]),
        ("FP64", TensorProto.DOUBLE, [0.1, 1e300, -0.0]),
    ],
)
def test_every_kind_of_tensor_goes_through_a_model_unchanged(
    running: Any, stage: Callable[..., Any], datatype: str, element: int, data: list[Any]
) -> None:
    sides = {side: (Tensor(name=name, datatype=datatype, shape=(-1,)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    running.serve(stage("1.0.0", onnx_of("Identity", element, [None]), **sides))
    answer = httpx.post(running.url + INFER, json={"inputs": [{"name": "X", "datatype": datatype, "shape": [3], "data": data}]})

    assert answer.json()["outputs"] == [{"name": "variable", "datatype": datatype, "shape": [3], "data": data}]


def test_a_full_queue_is_a_503_with_retry_after(
    served: Any, stage: Callable[..., Any], regressors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "QUEUE_REQUESTS_MAX", 2)
    (process_id,) = served.server.loaded().values()
    os.kill(process_id, signal.SIGSTOP)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(served.url + INFER, json=body_of(regressors.rows[:1])))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    until("the one that found the queue full to be answered while the worker stands still", lambda: answers)
    refused = answers[0]
    os.kill(process_id, signal.SIGCONT)
    for thread in asking:
        thread.join()

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503]


def test_a_port_in_use_is_refused_by_its_address(shared: Any) -> None:
    port = shared.server.port
    with pytest.raises(Refused, match=f"cannot listen on 127.0.0.1:{port}") as caught:
        Server(Listen(port=port), node="ewr-2", on_rows=print).start()

    assert caught.value.code is Code.PORT_IN_USE


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(Refused, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        Server(Listen(host="192.0.2.1", port=0), node="ewr-2", on_rows=print).start()

    assert caught.value.code is Code.SETTINGS_INVALID


def test_a_unix_socket_serves_and_one_left_behind_is_replaced(
    start: Callable[..., Any], stage: Callable[..., Any], regressors: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "node.sock")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    running = start(Listen(uds=path))
    running.serve(stage("1.0.0", regressors.linear.onnx))
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://node") as client:
        answer = client.post(INFER, json=body_of(regressors.rows[:1]))
    with pytest.raises(Refused) as caught:
        Server(Listen(uds=path), node="ewr-2", on_rows=print).start()

    assert answer.status_code == 200
    assert Path(path).stat().st_mode & 0o777 == 0o660
    assert caught.value.code is Code.PORT_IN_USE


def test_requests_on_an_inherited_socket_wait_while_the_agent_restarts(
    start: Callable[..., Any], stage: Callable[..., Any], regressors: Any
) -> None:
    staged = stage("1.0.0", regressors.linear.onnx)
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        first = start(Listen(fd=inherited.fileno()))
        first.serve(staged)
        first.server.stop()
        answers: list[httpx.Response] = []
        url = f"http://127.0.0.1:{inherited.getsockname()[1]}/v2/health/live"
        asking = threading.Thread(target=lambda: answers.append(httpx.get(url)))
        asking.start()
        asking.join(0.3)
        assert answers == []
        start(Listen(fd=inherited.fileno()))
        asking.join(60)

    assert [answer.status_code for answer in answers] == [200]


def test_a_model_that_takes_one_row_proves_itself_on_many_one_after_the_other(running: Any, stage: Callable[..., Any]) -> None:
    model = one_row_model()
    rows = np.arange(15, dtype=np.float32).reshape(3, 5)
    fields = {
        "inputs": (Tensor(name="X", datatype="FP32", shape=(1, 5)),),
        "outputs": (Tensor(name="variable", datatype="FP32", shape=(1, 5)),),
    }
    right, wrong = 2 * rows, 2 * rows.copy()
    wrong[2, 0] += 1

    proved = running.outcome(stage("1.0.0", model, golden=({"X": rows}, {"variable": right}), **fields))
    refused = running.outcome(stage("2.0.0", model, golden=({"X": rows}, {"variable": wrong}), **fields))

    assert isinstance(proved, Prepared)
    assert proved.evidence.golden_rows == 3
    assert isinstance(refused, Refused)
    assert refused.code is Code.MODEL_GOLDEN


def one_row_model() -> bytes:
    """y = x + x, of exactly one row."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in ("X", "variable")]
    graph = helper.make_graph([helper.make_node("Add", ["X", "X"], ["variable"])], "g", value[:1], value[1:])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_only_what_is_loaded_beside_something_served_waits_for_an_idle_moment(
    running: Any, stage: Callable[..., Any], regressors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, urgencies = Worker.start, list[bool]()

    async def watched(load: Load, *, urgent: bool = False) -> Worker:
        urgencies.append(urgent)
        return await start(load, urgent=urgent)

    monkeypatch.setattr(Worker, "start", watched)
    for version, model in (("1.0.0", regressors.linear), ("2.0.0", regressors.forest)):
        running.serve(stage(version, model.onnx))

    assert urgencies == [True, False]  # a device that answers nobody yet has nobody to keep waiting

"""What telemetry is told of requests by the real server: how long they took, what the worker held, and those that failed through no fault
of the client. Conversations are in test_talk_observed.py.
"""

import math
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from node.serving.request_telemetry import resident_bytes
from schemas.manifest import Tensor

INFER = "/v2/models/lookup/infer"
SIGNATURE = {
    "inputs": (Tensor(name="number", datatype="INT64", shape=(-1,)),),
    "outputs": (Tensor(name="value", datatype="FP32", shape=(-1,)),),
}


def lookup(*more: float) -> bytes:
    """A table of three values by number: there is no fourth, unless there are more."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "number"], ["value"])],
        "lookup",
        [helper.make_tensor_value_info("number", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(np.array([1, 2, 3, *more], np.float32), "table")],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    onnx.checker.check_model(model)
    return model


def body(*numbers: int) -> dict[str, Any]:
    return {"inputs": [{"name": "number", "datatype": "INT64", "shape": [len(numbers)], "data": list(numbers)}]}


def test_telemetry_is_told_of_latency_and_of_failures_and_not_of_wrong_requests(running: Any, stage: Callable[..., Any]) -> None:
    staged = stage("1.0.0", lookup(), model="lookup", **SIGNATURE)
    running.serve(staged)

    good = httpx.post(running.url + INFER, json=body(0, 2))
    failed = httpx.post(running.url + INFER, json=body(9))
    wrong = httpx.post(running.url + INFER, json={"inputs": []})

    assert (good.status_code, failed.status_code >= 500, wrong.status_code) == (200, True, 400)
    answered, lost = running.told(2)
    assert (answered.failed, answered.rows, lost.failed, lost.rows) == (False, 2, True, 1)
    assert (lost.digest, lost.outputs) == (staged.digest, {})
    assert answered.latency_ms > 0
    assert lost.latency_ms > 0


def test_telemetry_is_told_what_the_workers_process_holds(running: Any, stage: Callable[..., Any]) -> None:
    staged = stage("1.0.0", lookup(), model="lookup", **SIGNATURE)
    running.serve(staged)
    process_id = running.server.loaded()[staged.digest]

    httpx.post(running.url + INFER, json=body(0))
    httpx.post(running.url + INFER, json=body(9))

    answered, lost = running.told(2)
    loaded = resident_bytes(process_id)
    assert loaded is not None
    assert 0.5 < answered.memory_bytes / loaded < 2
    assert lost.memory_bytes == answered.memory_bytes  # looked at once a second, not once a request
    assert resident_bytes(2**22 + 1) is None  # beyond the largest process id of Linux


def test_an_answer_that_json_cannot_carry_is_counted_as_what_it_is(running: Any, stage: Callable[..., Any]) -> None:
    staged = stage("1.0.0", lookup(math.nan), model="lookup", **SIGNATURE)
    running.serve(staged)

    refused = httpx.post(running.url + INFER, json=body(0, 3))

    assert (refused.status_code, "NaN" in refused.json()["error"]) == (400, True)
    (seen,) = running.told(1)
    assert (seen.failed, seen.rows) == (False, 2)
    assert np.isnan(seen.outputs["value"]).tolist() == [False, True]

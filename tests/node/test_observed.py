"""What telemetry is told of requests by the real server: how long they took, and those that failed through no fault of the client."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from schemas.manifest import Tensor
from tests.hub.hubs import until

INFER = "/v2/models/lookup/infer"


def lookup() -> bytes:
    """A table of three values by number: there is no fourth."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "number"], ["value"])],
        "lookup",
        [helper.make_tensor_value_info("number", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(np.array([1, 2, 3], np.float32), "table")],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    onnx.checker.check_model(model)
    return model


def body(*numbers: int) -> dict[str, Any]:
    return {"inputs": [{"name": "number", "datatype": "INT64", "shape": [len(numbers)], "data": list(numbers)}]}


def test_telemetry_is_told_of_latency_and_of_failures_and_not_of_wrong_requests(running: Any, stage: Callable[..., Any]) -> None:
    tensors = {
        "inputs": (Tensor(name="number", datatype="INT64", shape=(-1,)),),
        "outputs": (Tensor(name="value", datatype="FP32", shape=(-1,)),),
    }
    staged = stage("1.0.0", lookup(), model="lookup", **tensors)
    running.serve(staged)

    good = httpx.post(running.url + INFER, json=body(0, 2))
    failed = httpx.post(running.url + INFER, json=body(9))
    wrong = httpx.post(running.url + INFER, json={"inputs": []})
    until("both to be told", lambda: len(running.observations) == 2)

    assert (good.status_code, failed.status_code >= 500, wrong.status_code) == (200, True, 400)
    answered, lost = running.observations
    assert (answered.failed, answered.rows, lost.failed, lost.rows) == (False, 2, True, 1)
    assert (lost.digest, lost.outputs) == (staged.digest, {})
    assert answered.latency_ms > 0
    assert lost.latency_ms > 0

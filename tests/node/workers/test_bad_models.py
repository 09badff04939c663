"""Models that crash, hang, take all memory, lie or need what is not there: each a clear error, while the old release serves on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from node.serving import activation, worker_pool
from node.workers import worker_handle
from schemas.errors import Code, Refused
from schemas.limits import MIB
from schemas.manifest import Limits, Tensor
from tests.node import bad_runtimes as bad

INFER = "/v2/models/delay/infer"
WIDE = {"outputs": (Tensor(name="variable", datatype="FP32", shape=(-1, 5)),)}


@pytest.fixture(autouse=True)
def runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Third parties' runtimes beside our own, where the worker's path has them."""
    found = {
        **worker_handle._runtimes(),
        **{name.lower(): f"tests.node.bad_runtimes:{name}" for name in ("Fragile", "Counting", "Running", "Unlinked")},
    }
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)


def body_of(rows: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


def row(how: float) -> np.ndarray:
    return np.array([[how, 1, 1, 1, 1]], np.float32)


@contextmanager
def traffic(url: str, rows: np.ndarray) -> Iterator[list[tuple[int, str]]]:
    """A client that asks the whole time: statuses and versions of its answers."""
    stop, seen = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=url) as client:
            while not stop.is_set():
                answer = client.post(INFER, json=body_of(rows[:2]))
                seen.append((answer.status_code, answer.json().get("model_version", answer.text)))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        stop.set()
        asking.join()


def graph(
    nodes: list[Any], *, opset: int = 17, more_opsets: tuple[Any, ...] = (), initializers: tuple[Any, ...] = (), width: Any = 5
) -> bytes:
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 5])]
    outputs = [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, width])]
    made = helper.make_graph(nodes, "bad", inputs, outputs, initializer=list(initializers))
    imports = [helper.make_opsetid("", opset), *more_opsets]
    payload: bytes = helper.make_model(made, opset_imports=imports, ir_version=8).SerializeToString()
    return payload


def endless_loop() -> bytes:
    """A Loop whose condition stays true and whose trip count is missing."""
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 5]) for name in ("a", "b")]
    trip = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    conditions = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "d")]
    nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["a"], ["b"])]
    inner = helper.make_graph(nodes, "loop", [trip, conditions[0], carried[0]], [conditions[1], carried[1]])
    true = numpy_helper.from_array(np.array(True), "true")
    return graph([helper.make_node("Loop", ["", "true", "X"], ["variable"], body=inner)], initializers=(true,))


def without_end() -> bytes:
    """X, expanded to forty gigabytes, and summed again."""
    shape = numpy_helper.from_array(np.array([2_000_000, 1000, 5], np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["X", "shape"], ["wide"]),
        helper.make_node("ReduceSum", ["wide", "axes"], ["variable"], keepdims=0),
    ]
    return graph(nodes, initializers=(shape, numpy_helper.from_array(np.array([0], np.int64), "axes")))


def external(location: str) -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[5], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value="20")
    return graph([helper.make_node("Add", ["X", "w"], ["variable"])], initializers=(weight,))


def unknown_operator() -> bytes:
    node = helper.make_node("Exfiltrate", ["X"], ["variable"], domain="com.example")
    return graph([node], more_opsets=(helper.make_opsetid("com.example", 1),))


ONNX: dict[str, tuple[Callable[[], bytes], dict[str, Any], Code, str]] = {
    "hangs": (endless_loop, WIDE, Code.WORKER_HUNG, r"no answer from the worker in 4 seconds"),
    "allocates without end": (
        without_end,
        {**WIDE, "limits": Limits(memory_bytes_max=512 * MIB)},
        Code.MODEL_TOO_LARGE,
        r"memory of the worker: expected at most \d+ bytes of data, found a model that asks for more "
        r"\(ONNX Runtime got no memory for what Expand gives\)",
    ),
    "nan": (
        lambda: graph([helper.make_node("Sub", ["X", "X"], ["z"]), helper.make_node("Div", ["z", "z"], ["variable"])]),
        WIDE,
        Code.MODEL_NOT_FINITE,
        "output variable: expected finite numbers, found NaN",
    ),
    "other shape": (
        lambda: graph([helper.make_node("Transpose", ["X"], ["variable"], perm=[1, 0])], width=None),
        WIDE,
        Code.MODEL_SIGNATURE,
        r"shape of variable: expected \[-1, 5\], found \[5, 1\]",
    ),
    "absent opset": (lambda: graph([helper.make_node("Abs", ["X"], ["variable"])], opset=99), WIDE, Code.MODEL_LOAD, "[Oo]pset"),
    "custom operator": (unknown_operator, WIDE, Code.MODEL_LOAD, r"com.example.*Exfiltrate"),
    "external data above": (lambda: external("../stranger.bin"), WIDE, Code.MODEL_EXTERNAL_DATA, "External data path validation failed"),
    "external data anywhere": (lambda: external("/etc/hostname"), WIDE, Code.MODEL_EXTERNAL_DATA, "Absolute path not allowed"),
    "external data absent": (lambda: external("weights.bin"), WIDE, Code.MODEL_EXTERNAL_DATA, r"does not exist: .*weights\.bin"),
}


@pytest.mark.parametrize("case", ONNX)
def test_a_bad_model_is_refused_while_the_old_release_serves_on(
    running: Any, stage: Callable[..., Any], regressors: Any, case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, fields, code, sentence = ONNX[case]
    monkeypatch.setattr(activation, "REQUEST_SECONDS_MAX", 4.0)
    (tmp_path / "stranger.bin").write_bytes(bytes(20))
    running.serve(stage("1.0.0", regressors.linear.onnx))
    slow = {"limits": Limits(latency_ms_max=400.0), **fields}
    staged = stage("2.0.0", make(), **slow)
    with traffic(running.url, regressors.rows) as seen, pytest.raises(Refused, match=sentence) as caught:
        raise running.outcome(staged)

    assert code is caught.value.code
    assert {(200, "1.0.0")} == set(seen)
    assert len(running.server.loaded()) == 1


def test_a_provider_that_is_not_here_is_named_with_those_that_are(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = replace(stage("1.0.0", regressors.linear.onnx), providers=("TensorrtExecutionProvider",))

    with pytest.raises(Refused, match=r"execution providers: expected TensorrtExecutionProvider, found .*CPUExecutionProvider") as caught:
        raise running.outcome(staged)

    assert caught.value.code is Code.MODEL_LOAD


def test_a_library_that_a_runtime_opens_late_is_named_with_its_package(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = replace(stage("1.0.0", regressors.linear.onnx), runtime="unlinked")

    with pytest.raises(Refused, match=r"the shared library libgomq\.so\.1 is not installed; on Debian: apt-get install libgomq1") as caught:
        raise running.outcome(staged)

    assert caught.value.code is Code.RUNTIME_ABSENT


def test_a_runtime_that_is_not_here_is_named_with_those_that_are(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    staged = replace(stage("1.0.0", regressors.linear.onnx), runtime="hailo")

    with pytest.raises(Refused, match=r"runtime 'hailo' is not installed here; installed are .*onnx") as caught:
        raise running.outcome(staged)

    assert caught.value.code is Code.RUNTIME_ABSENT


LOADING = {
    bad.SEGFAULT: (Code.WORKER_CRASHED, "killed by SIGSEGV"),
    bad.EXIT: (Code.WORKER_CRASHED, "exited with status 3"),
    bad.RAISE: (Code.MODEL_LOAD, "ZeroDivisionError: a bug of the runtime's"),
    bad.GREEDY: (Code.MODEL_TOO_LARGE, r"memory of the worker: expected at most \d+ bytes of data"),
}


@pytest.mark.parametrize("how", LOADING)
def test_a_runtime_that_fails_to_load_is_refused_while_the_old_release_serves_on(
    running: Any, stage: Callable[..., Any], regressors: Any, how: float
) -> None:
    code, sentence = LOADING[how]
    running.serve(stage("1.0.0", regressors.linear.onnx))
    staged = replace(stage("2.0.0", str(how).encode(), limits=Limits(memory_bytes_max=512 * MIB)), runtime="fragile")
    with traffic(running.url, regressors.rows) as seen, pytest.raises(Refused, match=sentence) as caught:
        raise running.outcome(staged)

    assert code is caught.value.code
    assert {(200, "1.0.0")} == set(seen)


SERVING = {
    bad.SEGFAULT: (500, "killed by SIGSEGV"),
    bad.EXIT: (500, "exited with status 3"),
    bad.HANG: (504, "no answer from the worker in 4 seconds"),
    bad.RAISE: (500, "ZeroDivisionError: a bug of the runtime's"),
    bad.GREEDY: (500, "memory of the worker: expected at most"),
    bad.COUNT: (500, "outputs: expected 1, the runtime gave 2"),
}


@pytest.mark.parametrize("how", SERVING)
def test_a_request_that_its_model_dies_of_fails_alone(
    running: Any, stage: Callable[..., Any], regressors: Any, how: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, sentence = SERVING[how]
    monkeypatch.setattr(activation, "REQUEST_SECONDS_MAX", 4.0 if how == bad.HANG else 60.0)  # who is greedy first fills what it may have
    fragile = stage("1.0.0", b"0", limits=Limits(memory_bytes_max=512 * MIB, latency_ms_max=400.0))
    running.serve(replace(fragile, runtime="fragile"))
    ordinary = regressors.rows[:2]
    with traffic(running.url, ordinary) as seen:
        answer = httpx.post(running.url + INFER, json=body_of(row(how)))
        after = httpx.post(running.url + INFER, json=body_of(ordinary))

    assert status == answer.status_code
    assert sentence in answer.json()["error"]
    assert {(200, "1.0.0")} == set(seen)
    np.testing.assert_allclose(after.json()["outputs"][0]["data"], ordinary.sum(axis=1), rtol=1e-4)


def test_an_answer_of_another_datatype_is_refused_at_activation(running: Any, stage: Callable[..., Any]) -> None:
    rows = row(bad.DATATYPE)
    staged = stage("1.0.0", b"0", golden=({"X": rows}, {"variable": rows.sum(axis=1, keepdims=True)}))

    with pytest.raises(Refused, match="datatype of variable: expected FP32, found FP64") as caught:
        raise running.outcome(replace(staged, runtime="fragile"))

    assert caught.value.code is Code.MODEL_SIGNATURE


def test_a_crash_loop_is_tried_ever_more_seldom_and_every_death_is_told(
    running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "READY_SECONDS_MAX", 0.5)
    staged = replace(stage("1.0.0", b"0"), runtime="fragile")
    running.serve(staged)
    staged.model_path.write_text(str(bad.SEGFAULT))  # from now on no worker of it can load
    answer = httpx.post(running.url + INFER, json=body_of(row(bad.SEGFAULT)))
    deadline = time.monotonic() + 120
    while len(running.exits) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ready = httpx.get(running.url + "/v2/health/ready")
    (entry,) = httpx.post(running.url + "/v2/repository/index").json()
    statistics = httpx.get(running.url + "/v2/models/delay/stats").json()["model_stats"][0]
    running.server.retire(staged.digest)
    told = len(running.exits)
    time.sleep(1)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert [deaths for _, _, _, deaths in running.exits[:4]] == [1, 2, 3, 4]
    assert all("SIGSEGV" in reason for _, _, reason, _ in running.exits)
    assert ready.status_code == 503
    assert entry["state"] == "UNAVAILABLE"
    assert "times in a row, the last time the worker process was killed by SIGSEGV" in entry["reason"]
    assert statistics["worker_deaths"] >= 4
    assert told == len(running.exits)


def test_the_pause_of_a_crash_loop_is_bounded_after_any_number_of_deaths() -> None:
    pauses = [
        min(worker_pool.RESTART_SECONDS_MAX, 0.5 * 2 ** min(deaths - 2, worker_pool.RESTART_DOUBLINGS_MAX))
        for deaths in (2, 5, 9, 10, 10**6)
    ]

    assert pauses == [0.5, 4.0, 60.0, 60.0, 60.0]

"""Rows of requests that wait together are asked together: each gets its own answer, and none suffers for another."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from node.core.inference.tensors import Raw, array_of, raw_of
from node.serving import activation, worker_pool
from node.serving.batching import ROWS_MAX, Batcher, join, split
from node.workers import worker_handle as workers
from schemas.manifest import Limits, Tensor
from tests.hub.hubs import until
from tests.node import bad_runtimes as bad

INFER = "/v2/models/delay/infer"


@pytest.fixture(autouse=True)
def runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**workers._runtimes(), **{name.lower(): f"tests.node.bad_runtimes:{name}" for name in ("Fragile", "Counting", "Running")}}
    monkeypatch.setattr(workers, "_runtimes", lambda: found)


def body_of(rows: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": datatype, "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


@contextmanager
def stopped_until(running: Any, waiting: int, model: str = "delay") -> Iterator[None]:
    """The model's worker stands still until so many requests wait for it."""
    (process_id,) = running.server.loaded().values()
    os.kill(process_id, signal.SIGSTOP)

    def wake() -> None:
        try:
            until("all to wait", lambda: running.server._pool.slots[model].waiting >= waiting)
        finally:
            os.kill(process_id, signal.SIGCONT)

    waking = threading.Thread(target=wake)
    waking.start()
    yield
    waking.join()


def at_once(url: str, bodies: Sequence[Mapping[str, Any]], path: str = INFER) -> list[httpx.Response]:
    """As many clients as bodies, all at the same moment."""
    gate = threading.Barrier(len(bodies))

    def ask(body: Mapping[str, Any]) -> httpx.Response:
        with httpx.Client(base_url=url) as client:
            client.get("/v2/health/live")  # the connection is there before the others are
            gate.wait()
            return client.post(path, json=body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(ask, bodies))


def golden_sum(rows: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"X": rows}, {"variable": rows.sum(axis=1, keepdims=True, dtype=np.float32)}


def joined(running: Any, model: str = "delay") -> int:
    return int(httpx.get(f"{running.url}/v2/models/{model}/stats").json()["model_stats"][0]["joined_count"])


def test_concurrent_clients_share_questions_and_get_their_own_rows(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    golden = {"X": regressors.rows[:8]}, {"variable": regressors.forest.predict(regressors.rows[:8])}
    running.serve(stage("1.0.0", regressors.forest.onnx, golden=golden))
    rows = [regressors.rows[n : n + 1 + n % 3] for n in range(24)]
    with stopped_until(running, waiting=24):  # so that all but the first wait together
        answers = at_once(running.url, [body_of(part) for part in rows])

    assert [answer.status_code for answer in answers] == [200] * 24
    for part, answer in zip(rows, answers, strict=True):
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], regressors.forest.predict(part).ravel(), rtol=1e-4)
    assert joined(running) >= 1


def test_a_model_sees_joined_rows_as_one_question_of_bounded_size(running: Any, stage: Callable[..., Any]) -> None:
    golden = np.zeros((4, 5), np.float32)
    golden[:, 0] = range(4)
    running.serve(replace(stage("1.0.0", b"0", golden=golden_sum(golden)), runtime="counting"))
    answers = at_once(running.url, [body_of(np.array([[0, 1, 0, 0, 0]], np.float32)) for _ in range(40)])
    sizes = [answer.json()["outputs"][0]["data"][0] for answer in answers]

    assert max(sizes) > 1  # the model itself says how many rows it was asked
    assert max(sizes) <= 0.25 / 0.02  # a row takes 20 ms, and nobody waits more than a quarter of a second for those beside it


def test_a_model_over_time_is_not_joined_though_its_first_axis_is_free(running: Any, stage: Callable[..., Any]) -> None:
    rows = np.ones((4, 5), np.float32)
    golden = {"X": rows}, {"variable": np.cumsum(rows.sum(axis=1, keepdims=True), axis=0, dtype=np.float32)}
    running.serve(replace(stage("1.0.0", b"0", golden=golden), runtime="running"))
    answers = at_once(running.url, [body_of(rows[:2]) for _ in range(16)])

    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[5.0, 10.0]] * 16
    assert joined(running) == 0


def test_one_bad_request_does_not_hurt_those_it_was_joined_with(running: Any, stage: Callable[..., Any]) -> None:
    golden = np.zeros((4, 5), np.float32)
    golden[:, 0] = range(4)
    running.serve(replace(stage("1.0.0", b"0", golden=golden_sum(golden)), runtime="counting"))
    bodies = [body_of(np.full((1, 5), 2.0, np.float32) * [[1, 0, 1, 1, 1]]) for _ in range(12)]
    bodies[5] = body_of(np.array([[bad.RAISE, 0, 0, 0, 0]], np.float32))
    bodies[7] = body_of(np.ones((1, 4)))
    answers = at_once(running.url, bodies)

    assert {number: answer.status_code for number, answer in enumerate(answers) if answer.status_code != 200} == {5: 500, 7: 400}
    assert all(answer.json()["outputs"][0]["data"] == [8.0] for answer in answers if answer.status_code == 200)


@pytest.mark.parametrize(("how", "status"), [(bad.SEGFAULT, 500), (bad.HANG, 504)])
def test_a_request_that_kills_the_worker_takes_none_of_those_it_was_joined_with(
    running: Any, stage: Callable[..., Any], how: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "REQUEST_SECONDS_MAX", 4.0)
    golden = np.zeros((4, 5), np.float32)
    golden[:, 0] = range(4)
    staged = stage("1.0.0", b"0", golden=golden_sum(golden), limits=Limits(latency_ms_max=400.0))
    running.serve(replace(staged, runtime="counting"))
    bodies = [body_of(np.array([[1, 0, 0, 0, number]], np.float32)) for number in range(12)]
    bodies[4] = body_of(np.array([[how, 0, 0, 0, 0]], np.float32))
    answers = at_once(running.url, bodies)

    assert {4: status} == {number: answer.status_code for number, answer in enumerate(answers) if answer.status_code != 200}
    assert all(answer.json()["outputs"][0]["data"] == [1.0 + n] for n, answer in enumerate(answers) if answer.status_code == 200)


def test_texts_are_joined_by_row_whatever_their_length(running: Any, stage: Callable[..., Any]) -> None:
    sides = [helper.make_tensor_value_info(name, TensorProto.STRING, [None, 2]) for name in ("X", "variable")]
    graph = helper.make_graph([helper.make_node("Identity", ["X"], ["variable"])], "text", sides[:1], sides[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    tensors = {side: (Tensor(name=name, datatype="BYTES", shape=(-1, 2)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    texts = np.array([["a", "Füße"], ["", "x" * 300]])
    running.serve(stage("1.0.0", model, golden=({"X": texts}, {"variable": texts}), **tensors))
    asked = [np.array([["é" * n, str(n)]] * (1 + n % 2), object) for n in range(16)]
    with stopped_until(running, waiting=16):
        answers = at_once(running.url, [body_of(part, "BYTES") for part in asked])

    assert [part.ravel().tolist() for part in asked] == [answer.json()["outputs"][0]["data"] for answer in answers]
    assert joined(running) >= 1


def test_the_257th_request_is_told_to_come_back(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    running.serve(stage("1.0.0", regressors.linear.onnx))
    (process_id,) = running.server.loaded().values()
    os.kill(process_id, signal.SIGSTOP)
    body = body_of(regressors.rows[:1])
    first = threading.Thread(target=at_once, args=(running.url, [body] * worker_pool.QUEUE_REQUESTS_MAX))
    first.start()
    until("all to wait", lambda: running.server._pool.slots["delay"].waiting >= worker_pool.QUEUE_REQUESTS_MAX)
    refused = httpx.post(running.url + INFER, json=body)
    os.kill(process_id, signal.SIGCONT)
    first.join()
    after = httpx.post(running.url + INFER, json=body)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"error": "256 requests for model 'delay' wait already"}
    assert after.status_code == 200


# The queue by itself, on a worker that is only a coroutine


class Echo:
    """Answers with its inputs once it is let; keeps how many rows each question had."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.gate = asyncio.Event()

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Any] | None = None) -> tuple[Raw, ...]:
        self.asked.append(tensors[0].shape[0])
        await self.gate.wait()
        return tuple(tensors)


def column(*values: float) -> tuple[Raw, ...]:
    return (raw_of("X", np.array(values, np.float32)[:, None]),)


def test_whoever_gives_up_is_not_asked_for_and_holds_up_nobody() -> None:
    async def run() -> tuple[list[int], list[float]]:
        worker = Echo()
        batcher = Batcher(worker, 0.0)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(batcher.infer(column(n), {})) for n in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # is being computed
        tasks[2].cancel()  # waits
        await asyncio.sleep(0)
        worker.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return worker.asked, [float(array_of(answer[0])[0, 0]) for answer in answers if isinstance(answer, tuple)]

    asked, answers = asyncio.run(run())

    assert asked == [1, 3]
    assert answers == [1.0, 3.0, 4.0]


def test_other_parameters_or_another_width_are_not_joined() -> None:
    async def run() -> list[int]:
        worker = Echo()
        batcher = Batcher(worker, 0.0)  # type: ignore[arg-type]
        wide = (raw_of("X", np.ones((1, 2), np.float32)),)
        asks = [(column(0), {}), (column(1), {}), (column(2), {"a": 1}), (wide, {}), (column(3), {})]
        tasks = [asyncio.create_task(batcher.infer(inputs, parameters)) for inputs, parameters in asks]
        await asyncio.sleep(0)
        worker.gate.set()
        await asyncio.gather(*tasks)
        return worker.asked

    assert asyncio.run(run()) == [1, 2, 1, 1]


def test_a_slow_row_is_joined_with_none() -> None:
    assert Batcher(Echo(), 0.3)._rows_max == 1  # type: ignore[arg-type]
    assert Batcher(Echo(), 0.05)._rows_max == 5  # type: ignore[arg-type]
    assert Batcher(Echo(), 1e-6)._rows_max == ROWS_MAX  # type: ignore[arg-type]


@given(st.lists(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 255)), min_size=1, max_size=4), min_size=1, max_size=6))
def test_what_is_joined_and_split_again_is_what_it_was(requests: list[list[tuple[str, int]]]) -> None:
    raws = [
        (
            raw_of("text", np.array([[text, text + "!"] for text, _ in rows], object)),
            raw_of("number", np.array([[number] for _, number in rows], np.uint8)),
        )
        for rows in requests
    ]
    parts = split(join(raws), [len(rows) for rows in requests])

    assert [[(raw.name, raw.shape, bytes(raw.data)) for raw in one] for one in raws] == [
        [(raw.name, raw.shape, bytes(raw.data)) for raw in one] for one in parts
    ]


def test_an_answer_with_other_rows_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"variable: 3 rows were asked, the answer has the shape \[2, 1\]"):
        split((raw_of("variable", np.ones((2, 1), np.float32)),), [1, 2])

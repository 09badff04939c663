"""A model inside the agent: the same answers, and nothing of what a process of its own gives."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from node.serving import activation
from node.workers import inline, worker_handle
from schemas.errors import Code, Refused
from schemas.manifest import Limits, Tensor
from tests.node import bad_runtimes as bad

INFER = "/v2/models/delay/infer"


@pytest.fixture(autouse=True)
def runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**worker_handle._runtimes(), **{name.lower(): f"tests.node.bad_runtimes:{name}" for name in ("Fragile", "Talking")}}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)


def body_of(rows: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


def test_inline_and_in_a_process_of_its_own_the_answers_are_the_same(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    rows = regressors.rows[:8]
    golden = {"X": rows}, {"variable": regressors.forest.predict(rows)}
    inside = replace(stage("1.0.0", regressors.forest.onnx, golden=golden), isolation="inline")
    apart = stage("2.0.0", regressors.forest.onnx, golden=golden)
    running.serve(inside)
    running.serve(apart)
    answers = [
        httpx.post(f"{running.url}/v2/models/delay/versions/{version}/infer", json=body_of(rows)).json()["outputs"]
        for version in ("1.0.0", "2.0.0")
    ]
    threads = {thread.name for thread in threading.enumerate()}

    assert answers[0] == answers[1]
    assert "inline-model" in threads
    assert running.server.loaded()[inside.digest] != running.server.loaded()[apart.digest]


def test_an_inline_release_is_refused_and_swapped_as_any(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    first, second = (replace(stage(version, regressors.linear.onnx), isolation="inline") for version in ("1.0.0", "2.0.0"))
    wrong = replace(stage("3.0.0", b"no ONNX"), isolation="inline")
    running.serve(first)
    running.serve(second)
    running.server.retire(first.digest)
    with pytest.raises(Refused, match="ONNX Runtime cannot load the model") as caught:
        raise running.outcome(wrong)
    answers = [httpx.post(running.url + INFER, json=body_of(np.ones((1, width)))) for width in (5, 4)]

    assert caught.value.code is Code.MODEL_LOAD
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[0].json()["model_version"] == "2.0.0"
    assert list(running.server.loaded()) == [second.digest]


def test_a_runtime_that_raises_is_a_500_and_goes_on(running: Any, stage: Callable[..., Any]) -> None:
    running.serve(replace(stage("1.0.0", b"0"), runtime="fragile", isolation="inline"))
    answers = [httpx.post(running.url + INFER, json=body_of(np.full((1, 5), how))) for how in (bad.RAISE, bad.COUNT, 1.0)]

    assert [answer.status_code for answer in answers] == [500, 500, 200]
    assert "ZeroDivisionError" in answers[0].json()["error"]
    assert "expected 1, the runtime gave 2" in answers[1].json()["error"]


def test_a_model_that_hangs_is_told_of_left_behind_and_loaded_anew(
    running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "REQUEST_SECONDS_MAX", 2.0)
    monkeypatch.setattr(inline, "CLOSE_SECONDS_MAX", 0.5)
    running.serve(replace(stage("1.0.0", b"0", limits=Limits(latency_ms_max=200.0)), runtime="fragile", isolation="inline"))
    hung = httpx.post(running.url + INFER, json=body_of(np.full((1, 5), bad.HANG)))
    after = httpx.post(running.url + INFER, json=body_of(np.ones((1, 5))))
    began = time.monotonic()
    running.server.stop()

    assert hung.status_code == 504
    assert "no answer from the model in 2 seconds" in hung.json()["error"]
    assert after.json()["outputs"][0]["data"] == [5.0]
    assert [deaths for _, _, _, deaths in running.exits] == [1]
    assert time.monotonic() - began < 100  # the thread that hangs for an hour keeps nobody


def test_a_conversation_is_held_inline_too(running: Any, stage: Callable[..., Any]) -> None:
    sides = {
        "inputs": (Tensor(name="prompt", datatype="BYTES", shape=(1,)),),
        "outputs": (Tensor(name="text", datatype="BYTES", shape=(1,)),),
    }
    running.serve(replace(stage("1.0.0", b"x", model="echo", **sides), runtime="talking", isolation="inline"))
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "a b c"}], stream=True)
        words = [chunk.choices[0].delta.content for chunk in stream]

    assert words == ["a ", "b ", "c "]

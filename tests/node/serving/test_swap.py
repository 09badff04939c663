"""No request is lost and none mixes two releases: not in a swap, not when a worker is killed, not in a rollback."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest

from node.serving.activation import Prepared
from schemas.errors import Code, Refused
from tests.hub.hubs import until

CLIENTS = 4
INFER = "/v2/models/delay/infer"


@dataclass
class Load:
    """Clients that ask over real connections until told to stop; each keeps its connection."""

    url: str
    rows: np.ndarray
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, dict[str, Any], int]] = field(default_factory=list)

    def ask(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=self.url) as client:
            while not self.stop.is_set():
                first, count = int(rng.integers(0, 300)), int(rng.integers(1, 20))
                rows = self.rows[first : first + count]
                tensor = {"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
                answer = client.post(INFER, json={"inputs": [tensor]})
                self.answers.append((answer.status_code, answer.json(), first))

    def run(self, meanwhile: Callable[[], None]) -> list[tuple[int, dict[str, Any], int]]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            futures = [pool.submit(self.ask, seed) for seed in range(CLIENTS)]
            try:
                meanwhile()
            finally:
                self.stop.set()
            for future in futures:
                future.result()
        return self.answers

    def wait_for(self, more: int) -> None:
        target, deadline = len(self.answers) + more, time.monotonic() + 120
        while len(self.answers) < target:
            assert time.monotonic() < deadline, "the clients are stuck"
            time.sleep(0.005)


def check(answers: list[tuple[int, dict[str, Any], int]], rows: np.ndarray, models: dict[str, Any]) -> set[str]:
    """Every request succeeded, and was answered wholly by the release that the answer names. Returns the versions seen."""
    for status, answer, first in answers:
        assert status == 200, answer
        output = answer["outputs"][0]
        expected = models[answer["model_version"]].predict(rows[first : first + output["shape"][0]])
        np.testing.assert_allclose(output["data"], expected.ravel(), rtol=1e-3, atol=1e-3)
    return {answer["model_version"] for _, answer, _ in answers}


def test_swaps_under_load_lose_nothing_and_mix_nothing(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    versions = [f"{number}.0.0" for number in range(1, 6)]
    models = {version: regressors.forest if number % 2 else regressors.linear for number, version in enumerate(versions)}
    releases = [stage(version, models[version].onnx) for version in versions]
    load = Load(running.url, regressors.rows)
    running.serve(releases[0])

    def swap() -> None:
        for old, new in pairwise(releases):
            load.wait_for(20)
            running.serve(new)
            running.server.retire(old.digest)
        load.wait_for(20)

    answers = load.run(swap)

    assert set(versions) == check(answers, regressors.rows, models)
    assert list(running.server.loaded()) == [releases[-1].digest]
    assert running.exits == []
    assert running.server.stats("delay", releases[-1].digest).errors == 0


def test_a_request_that_begins_after_the_switch_is_answered_by_the_new_release(
    running: Any, stage: Callable[..., Any], regressors: Any
) -> None:
    old, new = stage("1.0.0", regressors.linear.onnx), stage("2.0.0", regressors.forest.onnx)
    for release in (old, new):
        assert isinstance(running.outcome(release), Prepared)
    seen = []
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [0.0] * 5}
    with httpx.Client(base_url=running.url) as client:
        for turn in range(100):
            release = (old, new)[turn % 2]
            running.server.switch("delay", release.digest)
            seen.append((release.version, client.post(INFER, json={"inputs": [tensor]}).json()["model_version"]))

    assert all(expected == actual for expected, actual in seen)


def test_a_request_in_flight_finishes_on_the_old_release(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    old, new = stage("1.0.0", regressors.linear.onnx), stage("2.0.0", regressors.forest.onnx)
    running.serve(old)
    process_id = running.server.loaded()[old.digest]
    os.kill(process_id, signal.SIGSTOP)
    load = Load(running.url, regressors.rows)

    def swap() -> None:
        until("the first requests inside the stopped worker", lambda: running.server._pool.slots["delay"].waiting == CLIENTS)
        running.serve(new)
        running.server.retire(old.digest)
        os.kill(process_id, signal.SIGCONT)
        load.wait_for(CLIENTS + 20)

    answers = load.run(swap)

    assert {"1.0.0", "2.0.0"} == check(answers, regressors.rows, {"1.0.0": regressors.linear, "2.0.0": regressors.forest})
    assert sum(answer["model_version"] == "1.0.0" for _, answer, _ in answers) == CLIENTS


def test_a_worker_killed_under_load_fails_no_request(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    release = stage("1.0.0", regressors.linear.onnx)
    running.serve(release)
    load = Load(running.url, regressors.rows)

    def kill() -> None:
        load.wait_for(50)
        os.kill(running.server.loaded()[release.digest], signal.SIGKILL)
        load.wait_for(50)

    answers = load.run(kill)

    assert {"1.0.0"} == check(answers, regressors.rows, {"1.0.0": regressors.linear})
    assert [("delay", release.digest, "the worker process was killed by SIGKILL [worker.crashed]", 1)] == running.exits
    assert running.server.loaded()[release.digest] is not None


def test_after_a_crash_the_agent_can_roll_back_from_its_callback(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    good, bad = stage("1.0.0", regressors.linear.onnx), stage("2.0.0", regressors.forest.onnx)
    running.serve(good)
    running.serve(bad)

    def roll_back(model: str, digest: bytes, reason: str, deaths: int) -> None:
        running.server.switch(model, good.digest)
        running.server.retire(digest)

    running.server.on_worker_exit = roll_back
    load = Load(running.url, regressors.rows)

    def kill() -> None:
        load.wait_for(50)
        os.kill(running.server.loaded()[bad.digest], signal.SIGKILL)
        load.wait_for(50)

    answers = load.run(kill)

    assert {"1.0.0", "2.0.0"} == check(answers, regressors.rows, {"1.0.0": regressors.linear, "2.0.0": regressors.forest})
    assert list(running.server.loaded()) == [good.digest]


def test_a_release_whose_worker_died_after_preparing_is_not_switched_to(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    good, bad = stage("1.0.0", regressors.linear.onnx), stage("2.0.0", regressors.forest.onnx)
    running.serve(good)
    running.outcome(bad)
    bad.model_path.unlink()  # so that no other worker can take its place
    os.kill(running.server.loaded()[bad.digest], signal.SIGKILL)
    until("its death", lambda: running.server.loaded()[bad.digest] is None)

    with pytest.raises(Refused) as caught:
        running.server.switch("delay", bad.digest)

    assert caught.value.code is Code.WORKER_CRASHED
    assert httpx.get(running.url + "/v2/models/delay/versions/1.0.0/ready").status_code == 200


def test_a_release_that_is_asked_for_again_while_its_start_is_given_up_is_prepared_anew(
    running: Any, stage: Callable[..., Any], regressors: Any
) -> None:
    release, outcomes, done = stage("1.0.0", regressors.linear.onnx), [], threading.Semaphore(0)
    for _ in range(2):
        running.server.prepare(release, lambda outcome: (outcomes.append(outcome), done.release()))
        running.server.retire(release.digest)
    running.server.prepare(release, lambda outcome: (outcomes.append(outcome), done.release()))
    assert all(done.acquire(timeout=120) for _ in range(3))

    assert [getattr(outcome, "code", None) for outcome in outcomes] == [Code.RELEASE_UNKNOWN, Code.RELEASE_UNKNOWN, None]
    assert list(running.server.loaded()) == [release.digest]

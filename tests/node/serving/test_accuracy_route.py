"""Programs of a site say which answers were right over HTTP: bounded, parsed, durable before they are told so, and refused in sentences."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.serving import accuracy_route
from node.serving.accuracy_route import LabelsReported
from node.serving.server import Listen, Server
from node.storage.store import NodeStore
from tests.node.agent.telemetry.test_accuracy import WEEKS, answers, site

PATH = "/v2/models/m/labels"


class Agent:
    """The agent's loop as far as it takes labels: a thread of its own that owns the store."""

    def __init__(self, folder: Path) -> None:
        self.loop = ThreadPoolExecutor(1)
        self.here = site(folder)
        answers(self.here, 1000)
        self.asleep = threading.Event()
        self.asleep.set()
        self.server = Server(Listen(port=0), node="n1", on_rows=lambda seen: None, on_labels=self.hear)
        self.server.start()

    def hear(self, event: LabelsReported) -> None:
        self.loop.submit(lambda: (self.asleep.wait(), self.here.telemetry.labels.reported(event)))

    def post(self, path: str = PATH, **fields: Any) -> httpx.Response:
        body = {"at": WEEKS, "right": 90, "wrong": 10, **fields}
        return httpx.post(f"http://127.0.0.1:{self.server.port}{path}", json=body, timeout=100)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.asleep.set()
    made.server.stop()
    made.loop.shutdown()


def test_counts_are_on_the_disk_when_a_program_hears_that_they_are_taken(agent: Agent, tmp_path: Path) -> None:
    one = agent.post(id="batch 1")
    two = agent.post("/v2/models/m/versions/1.0.0/labels", at="2001-08-19T01:46:00+00:00", right=5, wrong=1)
    again = agent.post(id="batch 1")
    there = NodeStore.reading(tmp_path / "node.sqlite")

    assert (one.status_code, two.status_code, again.status_code) == (200, 200, 200)
    assert one.json() == {
        "model_name": "m",
        "model_version": "1.0.0",
        "from": "2001-08-19T01:46:00Z",
        "to": "2001-08-19T01:47:00Z",
        "right": 90,
        "wrong": 10,
        "counted": True,
        "leaves_at": "2001-09-10T01:46:40Z",
    }
    assert again.json() == {**one.json(), "counted": False}
    known = there.interval(there.declared("m")[0], WEEKS)
    assert (known.right, known.wrong) == (95, 11)


REFUSALS: dict[str, tuple[Callable[[Agent], httpx.Response], int, str]] = {
    "negative": (lambda agent: agent.post(right=-1), 400, "right"),
    "no time": (lambda agent: agent.post(at="noon"), 400, "at"),
    "unknown field": (lambda agent: agent.post(label="cat"), 400, "label"),
    "too large": (lambda agent: agent.post(id="x" * 9000), 413, "4096"),
    "another model": (lambda agent: agent.post("/v2/models/other/labels"), 404, "'other'"),
    "another version": (lambda agent: agent.post("/v2/models/m/versions/7/labels"), 404, "one of 1.0.0, found 7"),
    "too many": (lambda agent: agent.post(right=1000), 400, "at most 1000 that were given, found 1010"),
    "future": (lambda agent: agent.post(at=4e9), 400, "2096"),
    "no body": (lambda agent: httpx.post(f"http://127.0.0.1:{agent.server.port}{PATH}"), 400, "JSON"),
    "not said": (lambda agent: httpx.get(f"http://127.0.0.1:{agent.server.port}{PATH}"), 405, "Method Not Allowed"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_taken_is_refused_with_both_sides(agent: Agent, case: str) -> None:
    ask, status, words = REFUSALS[case]

    reply = ask(agent)

    assert (reply.status_code, words in reply.json()["error"]) == (status, True), reply.text


def test_what_comes_too_late_is_told_so(agent: Agent) -> None:
    agent.post()
    agent.loop.submit(lambda: agent.here.telemetry.tick(agent.here.now + 2 * 86_400)).result(30)

    reply = agent.post(right=1, wrong=0)

    assert (reply.status_code, "leaves once" in reply.json()["error"]) == (409, True)


def test_an_agent_without_time_is_asked_again_and_counts_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_route, "TAKEN_SECONDS_MAX", 0.2)
    agent.asleep.clear()

    busy = agent.post(id="batch 1")
    monkeypatch.undo()
    agent.asleep.set()
    good = agent.post(id="batch 1")

    assert (busy.status_code, busy.headers["Retry-After"], good.status_code) == (503, "1", 200)
    known = agent.loop.submit(lambda: agent.here.store.interval(agent.here.telemetry.labels.declared[0], WEEKS)).result(30)
    assert (known.right, known.wrong) == (90, 10)


def test_no_more_than_so_many_wait_at_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_route, "WAITING_MAX", 2)
    agent.asleep.clear()
    with ThreadPoolExecutor(3) as programs:
        asked = [programs.submit(agent.post, right=1, wrong=0) for _ in range(3)]
        refused = next(as_completed(asked)).result()
        agent.asleep.set()

    assert (refused.status_code, "wait already" in refused.json()["error"]) == (503, True)
    assert sorted(one.result().status_code for one in asked) == [200, 200, 503]


def test_a_node_that_sends_no_telemetry_says_so(agent: Agent) -> None:
    agent.here.telemetry.put_sends(sends=False)

    reply = agent.post()

    assert (reply.status_code, "sends no telemetry" in reply.json()["error"]) == (404, True)

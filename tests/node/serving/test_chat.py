"""Conversations through the real OpenAI client, with a runtime that is quick to start; test_language_model.py has a real model."""

import json
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from node.serving import chat, worker_pool
from node.workers import worker_handle
from schemas.manifest import Tensor
from schemas.parameters import Parameter
from tests.hub.hubs import until

URL = "/v1/chat/completions"


@pytest.fixture
def talkative(stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A release that holds conversations, with more fields of its manifest."""
    found = {**worker_handle._runtimes(), "talking": "tests.node.bad_runtimes:Talking"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    tensors = {
        "inputs": (Tensor(name="prompt", datatype="BYTES", shape=(1,)),),
        "outputs": (Tensor(name="text", datatype="BYTES", shape=(1,)),),
    }
    return lambda **fields: replace(stage("1.0.0", b"talk", model="echo", **tensors, **fields), runtime="talking")


@pytest.fixture
def talking(running: Any, talkative: Callable[..., Any]) -> Any:
    running.serve(talkative())
    return running


@pytest.fixture
def client(talking: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=talking.url + "/v1", api_key="none", max_retries=0) as connected:
        yield connected


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_conversation_comes_whole_or_word_by_word(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="echo", messages=says("one two three"))
    stream = list(client.chat.completions.create(model="echo", messages=says("one two three"), stream=True))

    assert whole.choices[0].message.content == "one two three"
    assert (whole.model, whole.object) == ("echo", "chat.completion")
    assert [chunk.choices[0].delta.content for chunk in stream] == ["one ", "two ", "three "]
    assert len({(chunk.created, chunk.system_fingerprint) for chunk in stream}) == 1
    assert whole.system_fingerprint == stream[0].system_fingerprint


def test_models_that_converse_are_listed_and_others_are_not(client: openai.OpenAI, talking: Any, stage: Any, regressors: Any) -> None:
    talking.serve(stage("1.0.0", regressors.linear.onnx))
    listed = [model.id for model in client.models.list()]
    entry = client.models.retrieve("echo")
    with pytest.raises(openai.BadRequestError, match="model 'delay' holds no conversations"):
        client.chat.completions.create(model="delay", messages=says("hello"))
    with pytest.raises(openai.NotFoundError, match="holds no conversations here"):
        client.models.retrieve("delay")

    assert listed == ["echo"]
    assert (entry.id, entry.owned_by) == ("echo", "ewr-1")


WRONG: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"hello", 400, "the body does not begin with a JSON object"),
    "a list": ([], 400, "the body does not begin with a JSON object"),
    "deep": (b"[" * 100_000, 400, "the JSON of the body is nested deeper than any request has to be"),
    "no model": ({"messages": says("x")}, 400, "model must be the name of a model"),
    "unknown model": ({"model": "gpt-9", "messages": says("x")}, 404, "model 'gpt-9' is not served here"),
    "no messages": ({"model": "echo"}, 400, "messages must be a list"),
    "messages of text": ({"model": "echo", "messages": ["x"]}, 400, "messages must be a list"),
    "two choices": ({"model": "echo", "messages": says("x"), "n": 2}, 400, "n: expected 1, found 2"),
    "stream": ({"model": "echo", "messages": says("x"), "stream": "yes"}, 400, "stream: expected true or false, found yes"),
    "an image": (
        {"model": "echo", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        400,
        "content of a message: expected parts of type text (this model takes text only), found image_url",
    ),
    "half a character": ({"model": "\ud800", "messages": says("x")}, 400, "a lone surrogate"),
    "too large": (b" " * (chat.CHAT_BYTES_MAX + 1), 413, "body bytes: expected at most 262144"),
    "raises": ({"model": "echo", "messages": says("raise")}, 500, "ZeroDivisionError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_body_gets_an_error_object_of_openais_kind(talking: Any, case: str) -> None:
    body, status, sentence = WRONG[case]
    answer = httpx.post(talking.url + URL, content=body if isinstance(body, bytes) else json.dumps(body).encode())
    error = answer.json()["error"]

    assert status == answer.status_code
    assert sentence in error["message"]
    assert {"message", "type", "param", "code"} == set(error)
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")


def test_a_request_asks_for_no_more_than_the_release_allows(running: Any, talkative: Callable[..., Any]) -> None:
    bounds = [("max_tokens", 2, 8, 64), ("temperature", 0, 0, 0.5)]
    parameters = tuple(Parameter(name=name, goes_to="runtime", min=low, default=own, max=high) for name, low, own, high in bounds)
    running.serve(talkative(parameters=parameters))

    def asked(**fields: Any) -> httpx.Response:
        return httpx.post(running.url + URL, json={"model": "echo", "messages": says("word"), **fields}, timeout=60)

    for name, value, allowed in (
        ("max_tokens", 150, "2 to 64"),
        ("max_completion_tokens", 65, "2 to 64"),
        ("max_tokens", 1, "2 to 64"),
        ("temperature", 0.75, "0 to 0.5"),
    ):
        answer = asked(**{name: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(f"{name}: expected {allowed}, which release 1.0.0 allows, found {value}")
    assert len(asked(max_tokens=64).json()["choices"][0]["message"]["content"].split()) == 64
    assert asked(temperature=0.01).status_code == 200


def test_a_clients_mistakes_never_count_against_the_release(talking: Any) -> None:
    (digest,) = talking.server.loaded()
    for body, status, _ in WRONG.values():
        if status < 500:
            httpx.post(talking.url + URL, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    assert talking.server.stats("echo", digest).errors == 0
    assert not talking.observations


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/nothing"])
def test_what_is_not_here_is_an_error_object_of_openais_kind(talking: Any, path: str) -> None:
    answer = httpx.post(talking.url + path)

    assert answer.status_code == 404
    assert "Not Found" in answer.json()["error"]["message"]


def test_a_refusal_before_the_first_word_is_a_status_and_a_crash_after_it_ends_the_stream(client: openai.OpenAI) -> None:
    heard = []
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
        client.chat.completions.create(model="echo", messages=says("raise"), stream=True)
    stream = client.chat.completions.create(model="echo", messages=says("segfault half way"), stream=True)
    with pytest.raises(openai.APIError, match="killed by SIGSEGV"):
        deque((heard.append(chunk.choices[0].delta.content) for chunk in stream), maxlen=0)
    again = client.chat.completions.create(model="echo", messages=says("still here"))

    assert heard == ["segfault ", "half "]
    assert again.choices[0].message.content == "still here"


def test_a_conversation_waits_for_the_one_before_it(talking: Any, client: openai.OpenAI) -> None:
    texts = [f"number {n} of several" for n in range(6)]
    answers: dict[str, str | None] = {}

    def ask(text: str) -> None:
        stream = client.chat.completions.create(model="echo", messages=says(text), stream=True, temperature=0.02)
        answers[text] = "".join(chunk.choices[0].delta.content or "" for chunk in stream).strip()

    asking = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert answers == {text: text for text in texts}


def test_more_conversations_than_may_wait_are_told_to_come_back(talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "CHATS_MAX", 2)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(httpx.post(talking.url + URL, json={"model": "echo", "messages": says("a b c")}).status_code)

    (process_id,) = talking.server.loaded().values()
    os.kill(process_id, signal.SIGSTOP)
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    until("two to be told", lambda: len(statuses) == 2)
    refused = list(statuses)
    os.kill(process_id, signal.SIGCONT)
    for thread in asking:
        thread.join()

    assert refused == [503, 503]
    assert statuses[2:] == [200, 200]


def words_said(path: Path) -> int:
    return int(until("the generation's end", lambda: path.exists() and path.read_text()))


@contextmanager
def begun(talking: Any, body: dict[str, Any], told: Path) -> Iterator[socket.socket]:
    """The connection of a request that its model has begun to answer."""
    payload = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", talking.server.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
        until("the first word", Path(f"{told}.begun").exists)
        yield raw


BEHIND = {"nothing": b"", "a question": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", "no HTTP": b"\0"}


@pytest.mark.parametrize(
    ("stream", "behind"), [(True, "nothing"), (False, "nothing"), (True, "a question"), (False, "a question"), (False, "no HTTP")]
)
def test_whoever_hangs_up_ends_the_generation(talking: Any, tmp_path: Path, stream: bool, behind: str) -> None:
    told = tmp_path / "words"
    body = {"model": "echo", "messages": says("word"), "stream": stream, "max_tokens": 3000, "temperature": 0.05, "user": str(told)}
    with begun(talking, body, told) as raw:
        raw.sendall(BEHIND[behind])
        if stream:
            raw.recv(1)

    assert words_said(told) < 3000
    until("nobody to wait", lambda: talking.server._pool.slots["echo"].waiting == 0)


def test_bytes_of_nothing_are_refused_behind_the_stream_and_not_in_it(talking: Any, tmp_path: Path) -> None:
    body = {
        "model": "echo",
        "messages": says("word"),
        "stream": True,
        "max_tokens": 30,
        "temperature": 0.01,
        "user": str(tmp_path / "words"),
    }
    data = b""
    with begun(talking, body, tmp_path / "words") as raw:
        raw.sendall(b"\0")
        while piece := raw.recv(65536):
            data += piece

    stream, _, refusal = data.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert stream.count(b"HTTP/1.1 ") == 1
    assert stream.count(b"word ") == 30
    assert refusal.startswith(b"HTTP/1.1 400 ")


def test_whoever_hangs_up_while_waiting_is_never_answered(talking: Any, client: openai.OpenAI, tmp_path: Path) -> None:
    told = tmp_path / "words"
    (process_id,) = talking.server.loaded().values()
    os.kill(process_id, signal.SIGSTOP)
    first = threading.Thread(target=lambda: client.chat.completions.create(model="echo", messages=says("word")))
    first.start()
    until("the first", lambda: talking.server._pool.slots["echo"].waiting == 1)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(model="echo", messages=says("word"), max_tokens=500, user=str(told))
    until("the second to be gone", lambda: talking.server._pool.slots["echo"].waiting == 1)
    os.kill(process_id, signal.SIGCONT)
    first.join()
    answer = client.chat.completions.create(model="echo", messages=says("next"))

    assert answer.choices[0].message.content == "next"
    assert not told.exists()


def test_a_reader_that_takes_nothing_is_let_go(talking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "STALLED_SECONDS_MAX", 1.0)
    monkeypatch.setattr(chat, "CHUNKS_WAITING_MAX", 64)
    told = tmp_path / "words"
    body = {"model": "echo", "messages": says("w" * 2000), "stream": True, "max_tokens": 100_000, "user": str(told)}
    payload = json.dumps(body).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", talking.server.port))
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
        said = words_said(told)
        with openai.OpenAI(base_url=talking.url + "/v1", api_key="none") as client:
            answer = client.chat.completions.create(model="echo", messages=says("still here"))

    assert said < 100_000
    assert answer.choices[0].message.content == "still here"


def test_a_slow_reader_that_keeps_up_hears_everything(client: openai.OpenAI) -> None:
    heard = []
    for chunk in client.chat.completions.create(model="echo", messages=says("word"), stream=True, max_tokens=50):
        heard.append(chunk.choices[0].delta.content)
        time.sleep(0.005)

    assert heard == ["word "] * 50


def test_streams_go_on_over_a_swap_and_new_ones_are_the_new_releases(
    talking: Any, client: openai.OpenAI, stage: Callable[..., Any]
) -> None:
    tensors = {
        "inputs": (Tensor(name="prompt", datatype="BYTES", shape=(1,)),),
        "outputs": (Tensor(name="text", datatype="BYTES", shape=(1,)),),
    }
    old = next(iter(talking.server.loaded()))
    new = replace(stage("2.0.0", b"talk", model="echo", **tensors), runtime="talking")
    stream = client.chat.completions.create(model="echo", messages=says("word"), stream=True, max_tokens=100, temperature=0.02)
    first = next(iter(stream))
    talking.serve(new)
    talking.server.retire(old)
    rest = list(stream)
    after = client.chat.completions.create(model="echo", messages=says("hello"))

    assert len(rest) == 99
    assert {first.system_fingerprint} == {chunk.system_fingerprint for chunk in rest}
    assert after.system_fingerprint == new.digest.hex()[:16]


def test_a_release_that_is_let_go_while_it_talks_to_nobody_costs_no_processor(talking: Any, tmp_path: Path) -> None:
    (digest,) = talking.server.loaded()
    body = {"model": "echo", "messages": says("word"), "max_tokens": 3, "temperature": 1.0, "user": str(tmp_path / "words")}
    with begun(talking, body, tmp_path / "words"):
        pass
    before = time.process_time()
    talking.server.retire(digest)
    words_said(tmp_path / "words")

    assert time.process_time() - before < 0.5  # it waits about a second for the word that is being said

"""What telemetry is told of conversations, and into which bins of really declared signals it falls: whole, streamed, and broken off."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hub.core.publish import signals
from node.agent.telemetry.windows import Telemetry
from node.core.telemetry.sketch import Sketch
from node.serving import chat, worker_pool
from node.serving.loaded_model import Observation
from node.serving.request_telemetry import Turn, asked_in
from node.storage.store import NodeStore
from node.workers import worker_handle
from schemas.manifest import Limits, Tensor
from schemas.signals import Baseline, Privacy, Signal

URL = "/v1/chat/completions"
TENSORS = {
    "inputs": (Tensor(name="prompt", datatype="BYTES", shape=(1,)),),
    "outputs": (Tensor(name="text", datatype="BYTES", shape=(1,)),),
}
NAMED = ["prompt:length", "prompt:tokens", "text:length", "text:tokens", "text:refusal", "text:stop"]
NAMED += ["service:latency_ms", "service:error", "service:memory_mib"]
QUIETLY = Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=1, sigma2_denominator=1, window_seconds=3600)


def baseline() -> Baseline:
    """Every signal of a model that generates, as `fleetcast publish --calibrate-rows` declares them."""
    model = signals.Model(TENSORS["inputs"], TENSORS["outputs"], Limits(), calibrates=True)
    found, _ = signals.declared(model, NAMED)
    declared = [
        one.spec.signal(edges=one.edges, categories=one.categories, counts=(0,) * ((len(one.edges) or len(one.categories) - 1) + 2))
        for one in found
    ]
    return Baseline(rows=1, blocks=1, signals=tuple(declared), calibration_rows=1000)


@pytest.fixture
def talking(running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    found = {**worker_handle._runtimes(), "talking": "tests.node.bad_runtimes:Talking"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    staged = stage("1.0.0", b"talk", model="echo", baseline=baseline(), privacy=QUIETLY, **TENSORS)
    running.serve(replace(staged, runtime="talking"))
    return running


def turn(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}], **fields}


def ask(talking: Any, text: str, **fields: Any) -> httpx.Response:
    return httpx.post(talking.url + URL, json=turn(text, **fields), timeout=60)


def words(seen: Observation) -> tuple[str | None, str | None]:
    """What was asked, and what was answered."""
    return tuple(str(side[name][0]) if side else None for side, name in ((seen.inputs, "prompt"), (seen.outputs, "text")))  # type: ignore[return-value]


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_is_told_with_its_texts_its_tokens_and_why_it_ended(talking: Any, stream: bool) -> None:
    answer = ask(talking, "I cannot say that", stream=stream)

    (seen,) = talking.told(1)
    assert answer.status_code == 200
    assert words(seen) == ("I cannot say that", "I cannot say that" + " " * stream)
    assert (seen.stop_reason, seen.prompt_tokens, seen.answer_tokens) == ("stop", 5, 4)
    assert (seen.rows, seen.failed, seen.event_time) == (1, False, None)
    assert seen.latency_ms > 0
    assert seen.memory_bytes > 2**20


def test_a_refusal_for_the_clients_fault_is_not_told_and_a_failure_is(talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(talking, "x", n=2)
    ask(talking, "raise")
    ask(talking, "segfault half way", stream=True)
    monkeypatch.setattr(worker_pool, "CHATS_MAX", 0)
    busy = ask(talking, "come back")

    told = talking.told(3)
    assert busy.status_code == 503
    assert [(seen.failed, seen.stop_reason, words(seen)) for seen in told] == [
        (True, None, ("raise", None)),
        (True, None, ("segfault half way", None)),
        (True, None, ("come back", None)),
    ]
    assert all(seen.latency_ms > 0 for seen in told)


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_is_hung_up_on_is_told_as_aborted_with_what_was_heard(talking: Any, tmp_path: Path, stream: bool) -> None:
    told = tmp_path / "words"
    payload = json.dumps(turn("word", stream=stream, max_tokens=3000, temperature=0.01, user=str(told))).encode()
    with socket.create_connection(("127.0.0.1", talking.server.port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
        heard_of(talking)
        if stream:
            raw.recv(1)

    (seen,) = talking.told(1)
    assert (seen.stop_reason, seen.failed, seen.answer_tokens) == ("abort", False, None)
    asked, said = words(seen)
    assert asked == "word"
    assert said is None if not stream else set(str(said).split()) == {"word"}


def heard_of(talking: Any) -> None:
    """Wait until the model says that it works on a turn."""
    (loaded,) = talking.server._pool.slots["echo"].loaded.values()
    deadline = time.monotonic() + 100
    while not loaded.worker.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    progress = loaded.worker._progress
    while loaded.worker._progress == progress:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    talking.server._call(lambda: None)


def test_a_reader_that_stalls_has_aborted(talking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "CHUNKS_WAITING_MAX", 8)
    payload = json.dumps(turn("w" * 9000, stream=True, max_tokens=100_000)).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", talking.server.port))
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)

        (seen,) = talking.told(1)

    assert (seen.stop_reason, seen.failed) == ("abort", False)
    assert len(str(seen.outputs["text"][0])) <= 64 * 1024  # of a text that is measured


def test_none_of_the_signals_that_are_declared_for_what_generates_lands_in_other(talking: Any, tmp_path: Path) -> None:
    (loaded,) = talking.server._pool.slots["echo"].loaded.values()
    telemetry = Telemetry(
        store=NodeStore(tmp_path / "node.sqlite"),
        topic=lambda model, cohort: f"{model}/{cohort}",
        cohort="lab",
        rho_day_max=0.7,
        grace_seconds=0,
        idle_seconds=10,
        witness=tmp_path / "witness",
        waiting_max=10,
        waiting_bytes_max=2**20,
        clock=lambda: 1_000_000_000.0,
    )
    telemetry.watch(loaded.staged.digest, loaded.staged.manifest)

    ask(talking, "one two three")
    ask(talking, "I cannot do four", stream=True)
    for seen in talking.told(2):
        telemetry.observe(seen)

    (counts,) = telemetry._watched[loaded.staged.digest].sketch.snapshot().values()
    found = dict(binned(loaded.staged.manifest.baseline.signals, counts))
    assert all(sum(row) == 2 and row[-1] == 0 for row in found.values()), found
    assert found["text:refusal"] == [1, 1, 0]
    assert found["text:stop"] == [2, 0, 0, 0]
    assert found["service:error"] == [2, 0, 0]
    assert np.flatnonzero(found["text:length"]).tolist() == [2, 3]  # words: 2 to 3, and 4 to 7
    assert np.flatnonzero(found["text:tokens"]).tolist() == [0]


def binned(declared: tuple[Signal, ...], counts: list[int]) -> list[tuple[str, list[int]]]:
    """Counts by signal."""
    ends = np.cumsum([signal.bins for signal in declared]).tolist()
    return [(signal.name, counts[end - signal.bins : end]) for signal, end in zip(declared, ends, strict=True)]


@pytest.mark.parametrize(
    ("messages", "asked"),
    [
        ([{"role": "user", "content": "hello"}], "hello"),
        ([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}], "hello"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "c"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "assistant", "content": "b"}], ""),
        ([{"role": "user"}, {"role": "user", "content": 7}, {"content": ["x", {"text": 1}]}], ""),
    ],
)
def test_what_a_turn_asks_is_what_it_adds_to_the_conversation(messages: list[dict[str, Any]], asked: str) -> None:
    assert asked_in(messages) == asked


def test_an_absurd_number_of_tokens_is_none() -> None:
    turn = Turn(asked="hello")

    turn.end(None, {"usage": {"prompt_tokens": 10**400, "completion_tokens": 4}})  # type: ignore[arg-type]

    assert (turn.prompt_tokens, turn.answer_tokens) == (None, 4)


def test_a_turn_is_counted_whole_or_not_at_all() -> None:
    sketch = Sketch(baseline(), 3600)

    with pytest.raises(TypeError):
        sketch.observe({"prompt": np.array(["hello"], object)}, {}, 1, 0.0, {"latency_ms": 1.0, "prompt_tokens": 10**400})  # no float

    assert sketch.snapshot() == {}

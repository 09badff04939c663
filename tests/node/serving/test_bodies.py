"""Bodies that do not come, come in pieces, or come packed: bounded in time and bytes, and nobody else waits for them."""

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

import httpx
import numpy as np
import pytest

from node.serving import bodies, oip_routes
from tests.hub.hubs import until

INFER = "/v2/models/delay/infer"


@pytest.fixture
def served(running: Any, stage: Callable[..., Any], regressors: Any) -> Any:
    running.serve(stage("1.0.0", regressors.linear.onnx))
    return running


@pytest.fixture
def asked(regressors: Any) -> bytes:
    rows = regressors.rows[:2]
    return json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 5], "data": rows.tolist()}]}).encode()


def opened(port: int, head: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode() + head + b"\r\n")
    return connection


def test_a_body_that_does_not_come_is_given_up(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.3)
    with opened(served.server.port, b"Content-Length: 100\r\n") as connection:
        connection.sendall(b'{"inputs": ')
        answer = HTTPResponse(connection)  # its head and its body may come apart
        answer.begin()
        body = answer.read()

    assert answer.status == 400
    assert b"the body did not arrive within 0.3 seconds" in body


def test_a_body_in_small_pieces_is_one_body(served: Any, asked: bytes) -> None:
    with opened(served.server.port, b"Content-Length: %d\r\n" % len(asked)) as connection:
        for at in range(0, len(asked), 40):
            connection.sendall(asked[at : at + 40])
            time.sleep(0.005)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_large_bodies_on_their_way_are_bounded_together_and_given_back(served: Any, asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oip_routes, "BODIES_BYTES_MAX", 3 * oip_routes.BODY_BYTES_MAX)
    waiting = [opened(served.server.port, b"Content-Length: %d\r\n" % oip_routes.BODY_BYTES_MAX) for _ in range(3)]
    refused = until("a refusal", lambda: (answer := httpx.post(served.url + INFER, content=asked)).status_code != 200 and answer)
    for connection in waiting:
        connection.close()
    answer = until("an answer", lambda: (answer := httpx.post(served.url + INFER, content=asked)).status_code == 200 and answer)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "are being answered already" in refused.json()["error"]
    assert answer.json()["model_version"] == "1.0.0"


def test_many_clients_may_pack_their_bodies(served: Any, asked: bytes) -> None:
    packings = {"gzip": gzip.compress(asked), "deflate": zlib.compress(asked)}
    statuses: list[int] = []

    def ask(encoding: str) -> None:
        statuses.append(httpx.post(served.url + INFER, content=packings[encoding], headers={"Content-Encoding": encoding}).status_code)

    asking = [threading.Thread(target=ask, args=(("gzip", "deflate")[n % 2],)) for n in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert statuses == [200] * 20


@pytest.mark.parametrize("body", [b"not packed at all", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
def test_what_is_not_packed_as_it_says_is_a_400(served: Any, body: bytes) -> None:
    answer = httpx.post(served.url + INFER, content=body, headers={"Content-Encoding": "gzip"})

    assert answer.status_code == 400
    assert "body is" in answer.json()["error"]


def test_more_outputs_than_json_is_made_of_come_as_binary(
    running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, regressors: Any
) -> None:
    monkeypatch.setattr("node.core.inference.oip.ELEMENTS_MAX", 10)
    running.serve(stage("1.0.0", regressors.linear.onnx))
    tensor = {"name": "X", "datatype": "FP32", "shape": [11, 5], "data": np.ones(55).tolist()}
    refused = httpx.post(running.url + INFER, json={"inputs": [tensor]})
    answered = httpx.post(running.url + INFER, json={"inputs": [tensor], "parameters": {"binary_data_output": True}})

    assert refused.status_code == 400
    assert "elements of outputs in JSON (ask for them with binary_data): expected at most 10, found 11" in refused.json()["error"]
    assert answered.status_code == 200

"""The real curl against every path of the Open Inference Protocol, over TCP and over a Unix socket."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from node.serving import worker_pool
from tests.hub.hubs import until
from tests.node.conftest import serving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="needs curl")
INFER = "/v2/models/delay/infer"


@dataclass
class Curl:
    """Where to ask. An answer is its status, its headers in lower case and its body."""

    base: list[str]

    def __call__(self, path: str, *more: str, data: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        body = ["--data-binary", "@-", "-H", "content-type: application/json"] if data is not None else []
        command = ["curl", "-sS", "-i", *self.base[:-1], *more, *body, self.base[-1] + path]
        said = subprocess.run(command, input=data, capture_output=True, check=True).stdout
        while said.startswith(b"HTTP/1.1 100"):
            said = said.partition(b"\r\n\r\n")[2]
        head, _, payload = said.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1]), headers, payload


@pytest.fixture(scope="module", params=["tcp", "unix"])
def curl(request: Any, regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curl]:
    folder = tmp_path_factory.mktemp("curl")
    with serving(folder, regressors.linear, regressors.forest) as running:
        yield Curl([running.url] if request.param == "tcp" else ["--unix-socket", str(folder / "node.sock"), "http://node"])


def asked(rows: np.ndarray, **fields: Any) -> bytes:
    tensor = {"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}
    return json.dumps({"inputs": [tensor], **fields}).encode()


GETS: dict[str, dict[str, Any]] = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"live": True, "ready": True},
    "/v2/models/delay/ready": {"name": "delay", "ready": True},
    "/v2/models/delay/versions/1.0.0/ready": {"name": "delay", "ready": True},
    "/v2/models/delay": {
        "name": "delay",
        "versions": ["1.0.0", "2.0.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}],
        "outputs": [{"name": "variable", "datatype": "FP32", "shape": [-1, 1]}],
    },
}


@pytest.mark.parametrize("path", GETS)
def test_health_and_metadata_are_as_the_protocol_says(curl: Curl, path: str) -> None:
    status, headers, body = curl(path)

    assert (status, headers["content-type"]) == (200, "application/json")
    assert GETS[path] == json.loads(body)


def test_the_server_names_itself_and_its_extensions(curl: Curl) -> None:
    status, _, body = curl("/v2")
    metadata = json.loads(body)

    assert status == 200
    assert {"name", "version", "extensions"} == set(metadata)
    assert metadata["name"] == "ewr-1"
    assert {"binary_tensor_data", "model_repository", "statistics"} == set(metadata["extensions"])


@pytest.mark.parametrize(("path", "model"), [(INFER, "forest"), ("/v2/models/delay/versions/1.0.0/infer", "linear")])
def test_rows_are_answered_flat_or_nested_by_the_version_named(curl: Curl, regressors: Any, path: str, model: str) -> None:
    rows = regressors.rows[:3]
    flat = {"name": "X", "datatype": "FP32", "shape": [3, 5], "data": rows.ravel().tolist()}
    answers = [json.loads(curl(path, data=data)[2]) for data in (asked(rows, id="a"), json.dumps({"inputs": [flat]}).encode())]
    expected = getattr(regressors, model).predict(rows).ravel()

    assert answers[0]["id"] == "a"
    assert "id" not in answers[1]
    for answer in answers:
        assert answer["outputs"][0]["shape"] == [3, 1]
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected, rtol=1e-4)


def test_binary_tensors_go_both_ways(curl: Curl, regressors: Any) -> None:
    rows = regressors.rows[:4]
    tensor = {"name": "X", "datatype": "FP32", "shape": [4, 5], "parameters": {"binary_data_size": rows.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = ("-H", f"Inference-Header-Content-Length: {len(header)}", "-H", "Content-Type: application/octet-stream")
    status, headers, body = curl(INFER, *length, data=header + rows.tobytes())
    split = int(headers["inference-header-content-length"])
    output = json.loads(body[:split])["outputs"][0]

    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert output["parameters"] == {"binary_data_size": 16}
    assert "data" not in output
    np.testing.assert_allclose(np.frombuffer(body[split:], "<f4"), regressors.forest.predict(rows).ravel(), rtol=1e-4)


WRONG: dict[str, tuple[tuple[str, ...], bytes | None, int, str]] = {
    "no model": (("/v2/models/other/infer",), b"{}", 404, "model 'other' is not served here"),
    "no version": (("/v2/models/delay/versions/9/infer",), b"{}", 404, "version '9' of model 'delay' is not served"),
    "no path": (("/v2/nothing",), None, 404, "Not Found"),
    "no method": ((INFER,), None, 405, "Method Not Allowed"),
    "no JSON": ((INFER,), b"rows", 400, "JSON object"),
    "encoding": ((INFER, "-H", "Content-Encoding: br"), b"{}", 400, "expected gzip, deflate or none, found br"),
    "too large": ((INFER, "-H", f"Content-Length: {2**40}"), b"{}", 413, "body bytes: expected at most"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_is_an_object_with_a_sentence(curl: Curl, case: str) -> None:
    (path, *more), data, expected, sentence = WRONG[case]
    status, headers, body = curl(path, *more, data=data)

    assert (expected, "application/json") == (status, headers["content-type"])
    assert sentence in json.loads(body)["error"]


def test_a_body_of_unknown_length_is_taken(curl: Curl, regressors: Any) -> None:
    status, _, body = curl(INFER, "-H", "Transfer-Encoding: chunked", data=asked(regressors.rows[:1]))

    assert status == 200
    assert json.loads(body)["model_version"] == "2.0.0"


def test_what_is_not_ready_is_a_503_with_retry_after(
    running: Any, stage: Callable[..., Any], regressors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "READY_SECONDS_MAX", 0.2)
    staged = stage("1.0.0", regressors.linear.onnx)
    running.serve(staged)
    staged.model_path.unlink()  # no other worker can take its place
    os.kill(running.server.loaded()[staged.digest], signal.SIGKILL)
    until("the worker's end", lambda: running.exits)
    curl = Curl([running.url])
    answers = [curl("/v2/health/ready"), curl("/v2/models/delay/ready"), curl(INFER, data=asked(regressors.rows[:1]))]

    assert [(status, headers["retry-after"]) for status, headers, _ in answers] == [(503, "1")] * 3
    assert json.loads(answers[1][2]) == {"name": "delay", "ready": False, "error": "not ready"}
    assert json.loads(answers[2][2]) == {"error": "model 'delay' has no live worker at the moment"}
    assert curl("/v2/health/live")[0] == 200

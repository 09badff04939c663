"""Whom a node is measured beside: mlserver and LitServe in virtual environments of their own, and the least code that answers at all."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.process_group import process_group

MLSERVER, LITSERVE = "mlserver==1.7.1", "litserve==0.2.19"

_MLSERVER_MODEL = """
import numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = np.array(payload.inputs[0].data.root, np.float32).reshape(payload.inputs[0].shape)
        (answer,) = self._session.run(None, {"X": rows})
        output = ResponseOutput(name="variable", shape=list(answer.shape), datatype="FP32", data=answer.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
"""

_LITSERVE = """
import sys
import litserve, numpy as np, onnxruntime

class Onnx(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        one = request["inputs"][0]
        return np.array(one["data"], np.float32).reshape(one["shape"])

    def batch(self, inputs):
        return np.concatenate(inputs)

    def unbatch(self, output):
        return list(output)

    def predict(self, rows):
        return self._session.run(None, {"X": rows})[0]

    def encode_response(self, output):
        answer = np.asarray(output)
        return {"outputs": [{"name": "variable", "datatype": "FP32", "shape": answer.shape, "data": answer.ravel().tolist()}]}

if __name__ == "__main__":
    server = litserve.LitServer(Onnx(max_batch_size=8), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error")
"""

# A model in a process of its own behind a socket, and nothing else: no checks, no protocol beyond lengths, one connection at a time.
_LEAST = """
import re, socket, sys
import numpy as np, onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
(wanted,) = session.get_inputs()
length, json_length = (re.compile(field + rb": ([0-9]+)") for field in (b"\\r\\nContent-Length", b"Inference-Header-Content-Length"))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := client.recv(1 << 18):
        end = data.find(b"\\r\\n\\r\\n") + 4
        found = length.search(data, 0, end)
        if found is None:
            client.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
            continue
        while len(data) < end + int(found[1]):
            data += client.recv(1 << 18)
        begin = end + int(json_length.search(data, 0, end)[1])
        rows = np.frombuffer(data, np.float32, offset=begin).reshape([int(axis) for axis in sys.argv[3].split(",")])
        answer = session.run(None, {wanted.name: rows})[0]
        head = b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % answer.nbytes
        client.sendmsg([head, memoryview(np.ascontiguousarray(answer)).cast("B")])
"""

_BARE = """
import json, sys
import numpy as np, onnxruntime, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])

async def infer(request):
    one = (await request.json())["inputs"][0]
    (answer,) = session.run(None, {"X": np.array(one["data"], np.float32).reshape(one["shape"])})
    return JSONResponse({"outputs": [{"name": "variable", "datatype": "FP32", "shape": answer.shape, "data": answer.ravel().tolist()}]})

uvicorn.run(Starlette(routes=[Route("/", infer, methods=["POST"])]), port=int(sys.argv[1]), log_level="error", access_log=False)
"""


@contextmanager
def mlserver(model: Path) -> Iterator[int]:
    """Its port, with one model in one process of its own (parallel workers off: one core is the other side's)."""
    environment_of_its_own = _environment("mlserver", MLSERVER)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        http, grpc, metrics = _free(), _free(), _free()
        settings = {
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "parallel_workers": 0,
            "host": "127.0.0.1",
            "debug": False,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "onnx_model.py").write_text(_MLSERVER_MODEL)
        described = {"name": "many", "implementation": "onnx_model.Onnx", "parameters": {"uri": str(model)}}
        (folder / "model-settings.json").write_text(json.dumps(described))
        environment = {**os.environ, "PYTHONPATH": name}
        command = [str(environment_of_its_own / "bin" / "mlserver"), "start", name]
        with _process(command, f"http://127.0.0.1:{http}/v2/models/many/ready", environment):
            yield http


@contextmanager
def bare(model: Path) -> Iterator[int]:
    """Its port: Starlette, uvicorn and ONNX Runtime in one process, no checks, no protocol, no isolation."""
    port = _free()
    with _process([sys.executable, "-c", _BARE, str(port), str(model)], f"http://127.0.0.1:{port}/", dict(os.environ)):
        yield port


@contextmanager
def litserve(model: Path) -> Iterator[int]:
    """Its port: one process that takes requests, one that has the model, and up to eight requests joined, as its documentation advises."""
    port = _free()
    with tempfile.TemporaryDirectory() as name:
        program = Path(name, "serve.py")
        program.write_text(_LITSERVE)
        command = [str(_environment("litserve", LITSERVE) / "bin" / "python"), str(program), str(port), str(model)]
        with _process(command, f"http://127.0.0.1:{port}/health", dict(os.environ)):
            yield port


@contextmanager
def least(model: Path, shape: Sequence[int]) -> Iterator[int]:
    """Its port: what a model in a process of its own costs at the least, asked with one input of this shape."""
    port = _free()
    command = [sys.executable, "-c", _LEAST, str(port), str(model), ",".join(map(str, shape))]
    with _process(command, f"http://127.0.0.1:{port}/", dict(os.environ)):
        yield port


def _environment(name: str, requirement: str) -> Path:
    """A virtual environment with this peer and ONNX Runtime in it, made once for each version."""
    folder = Path(tempfile.gettempdir()) / f"fleetcast-bench-{requirement}"
    if not (folder / "done").exists():
        print(f"installing {name} into {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement, "onnxruntime"]
        subprocess.run(command, check=True, timeout=900, stderr=subprocess.DEVNULL)
        (folder / "done").touch()
    return folder


@contextmanager
def _process(command: list[str], url: str, environment: dict[str, str]) -> Iterator[None]:
    with process_group(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        deadline = time.monotonic() + 120
        while not _answers(url):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.2)
        yield


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code in (200, 405)
    except httpx.HTTPError:
        return False


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

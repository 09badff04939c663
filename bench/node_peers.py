"""Whom a node's throughput is measured beside: mlserver in a virtual environment of its own, and the least code that answers at all."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

MLSERVER = "mlserver==1.7.1"
ENVIRONMENT = Path(tempfile.gettempdir()) / "fleetcast-bench-mlserver"

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
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", MLSERVER, "onnxruntime"]
        subprocess.run(command, check=True, timeout=900, stderr=subprocess.DEVNULL)
        (ENVIRONMENT / "done").touch()
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
        command = [str(ENVIRONMENT / "bin" / "mlserver"), "start", name]
        with _process(command, f"http://127.0.0.1:{http}/v2/models/many/ready", environment):
            yield http


@contextmanager
def bare(model: Path) -> Iterator[int]:
    """Its port: Starlette, uvicorn and ONNX Runtime in one process, no checks, no protocol, no isolation."""
    port = _free()
    with _process([sys.executable, "-c", _BARE, str(port), str(model)], f"http://127.0.0.1:{port}/", dict(os.environ)):
        yield port


@contextmanager
def _process(command: list[str], url: str, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not _answers(url):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code in (200, 405)
    except httpx.HTTPError:
        return False


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

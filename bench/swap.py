"""Requests while releases are switched under them: how many fail, and how much slower the slow ones get."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.neural_network import MLPRegressor

from bench.figures import Figure, quantile
from node.serving import Listen, Prepared, Server, Staged
from schemas.manifest import Block, File, Limits, Manifest, Tensor, Variant
from schemas.names import sha256

CLIENTS, PAUSE_SECONDS, STEADY_SECONDS, SWAPS = 2, 0.004, 8.0, 20


def measure() -> list[Figure]:
    """Two steady clients against one node's server; p99 of them undisturbed, then over twenty swaps between two real models."""
    with tempfile.TemporaryDirectory() as folder:
        releases = [_release(Path(folder), seed) for seed in (0, 1)]
        server = Server(Listen(port=0), node="bench", on_rows=lambda _: None)
        server.start()
        sys.setswitchinterval(0.0005)  # as `fleetcast-node run` does
        try:
            _bring(server, releases[0])
            steady, failed_steady = _load(server.port, STEADY_SECONDS, lambda: None)

            def swaps() -> None:
                for number in range(SWAPS):
                    new, old = releases[(number + 1) % 2], releases[number % 2]
                    _bring(server, new)
                    server.retire(old.digest)

            swapping, failed = _load(server.port, 0.0, swaps)
        finally:
            server.stop()
    before, during = quantile(steady, 0.99), quantile(swapping, 0.99)
    return [
        Figure("swap.dropped", float(failed + failed_steady), f"of {len(steady) + len(swapping)} requests, {SWAPS} swaps", "0", "", None),
        Figure("swap.p99_ratio", during / before, "p99 while swapping over steady", "<= 2", "steady p99, ms", before * 1000),
    ]


def _release(folder: Path, seed: int) -> Staged:
    inputs, target = load_diabetes(return_X_y=True)
    model = MLPRegressor(hidden_layer_sizes=(64, 64), random_state=seed, max_iter=50).fit(inputs, target)
    data = to_onnx(model, inputs[:1].astype(np.float32)).SerializeToString()
    path = folder / f"{seed}.onnx"
    path.write_bytes(data)
    block = Block(sha256(data), len(data))
    manifest = Manifest(
        model="bench",
        version=f"1.{seed}.0",
        created=0,
        inputs=(Tensor(name="X", datatype="FP32", shape=(-1, inputs.shape[1])),),
        outputs=(Tensor(name="variable", datatype="FP32", shape=(-1, 1)),),
        variants=(Variant(name="fp32", files=(File(path="model.onnx", bytes=len(data), digest=block.digest, blocks=(block,)),)),),
        limits=Limits(),
    )
    return Staged("bench", manifest.version, sha256(path.name.encode()), manifest, path, None)


def _bring(server: Server, release: Staged) -> None:
    ready: list[object] = []
    done = threading.Event()
    server.prepare(release, lambda result: (ready.append(result), done.set()))  # type: ignore[func-returns-value]
    done.wait(60)
    if not isinstance(ready[0], Prepared):
        raise RuntimeError(f"not prepared: {ready[0]}")
    server.switch(release.model, release.digest)


def _load(port: int, seconds: float, meanwhile: Callable[[], None]) -> tuple[list[float], int]:
    """Clients in a process of their own, until `meanwhile` is over and so many seconds have passed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CLIENTS, str(port), str(CLIENTS), str(PAUSE_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(1)  # it has begun by now
    meanwhile()
    time.sleep(seconds)
    said, _ = child.communicate("stop\n", timeout=60)
    answer = json.loads(said)
    return answer["times"], answer["failures"]


_CLIENTS = """
import http.client, json, sys, threading, time
port, clients, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 10], "data": [0.01] * 10}]})
stop, times, failures = threading.Event(), [], []
def ask():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not stop.is_set():
        began = time.perf_counter()
        try:
            connection.request("POST", "/v2/models/bench/infer", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failures.append(response.status)
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        times.append(time.perf_counter() - began)
        stop.wait(pause)
threads = [threading.Thread(target=ask) for _ in range(clients)]
for thread in threads:
    thread.start()
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"times": times, "failures": len(failures)}))
"""

"""Clients of a node in a process of their own: `python -m bench.node_clients steady|overhead|many ARGUMENTS`, JSON on standard output.

They write a request that is made beforehand on a socket that stays open, so that what they measure is the node and hardly themselves.
"""

import json
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np


def binary_request(path: str, inputs: dict[str, np.ndarray]) -> bytes:
    """A whole HTTP request of the Open Inference Protocol with binary tensors, answered likewise."""
    names = {"float32": "FP32", "int64": "INT64"}
    listed = [
        {"name": key, "datatype": names[value.dtype.name], "shape": list(value.shape), "parameters": {"binary_data_size": value.nbytes}}
        for key, value in inputs.items()
    ]
    header = json.dumps({"inputs": listed, "parameters": {"binary_data_output": True}}).encode()
    return request(path, header + b"".join(value.tobytes() for value in inputs.values()), len(header))


def json_request(path: str, inputs: dict[str, np.ndarray]) -> bytes:
    """Likewise, of float32 in JSON."""
    listed = [
        {"name": key, "datatype": "FP32", "shape": list(value.shape), "data": value.ravel().tolist()} for key, value in inputs.items()
    ]
    return request(path, json.dumps({"inputs": listed}).encode(), None)


def request(path: str, body: bytes, header_bytes: int | None) -> bytes:
    """A POST over a connection that is kept."""
    more = f"Inference-Header-Content-Length: {header_bytes}\r\n" if header_bytes is not None else ""
    kind = "application/json" if header_bytes is None else "application/octet-stream"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """Asks one request after the other."""

    def __init__(self, where: int | socket.socket) -> None:
        if isinstance(where, socket.socket):
            self._socket = where
            return
        self._socket = socket.create_connection(("127.0.0.1", where), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, whole: bytes) -> tuple[int, bytes]:
        """Status and body."""
        self._socket.sendall(whole)
        data = self._socket.recv(1 << 20)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._socket.recv(1 << 20)
        head = data[:end].lower()
        at = head.index(b"content-length:") + 15
        left = int(head[at : (head + b"\r\n").index(b"\r\n", at)]) - (len(data) - end - 4)
        parts = [data[end + 4 :]]
        while left > 0:
            parts.append(self._socket.recv(1 << 20))
            if not parts[-1]:
                raise ConnectionError("the connection was closed")
            left -= len(parts[-1])
        return int(data[9:12]), b"".join(parts)


def steady(port: int, path: str, clients: int, pause: float, inputs: dict[str, np.ndarray]) -> dict[str, object]:
    """Until a line comes on standard input: when each request began (CLOCK_MONOTONIC), what it took, and how many failed."""
    stop, taken, failures = threading.Event(), [], []
    whole = json_request(path, inputs)

    def ask() -> None:
        connection = Connection(port)
        while not stop.is_set():
            began = time.monotonic()
            try:
                status, _ = connection.ask(whole)
                if status != 200:
                    failures.append(status)
            except OSError as error:
                failures.append(repr(error))
                connection = Connection(port)
            taken.append((began, time.monotonic() - began))
            stop.wait(pause)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    return {"taken": taken, "failures": failures}


def overhead(port: int, path: str, rounds: int, model: Path, inputs: dict[str, np.ndarray]) -> dict[str, object]:
    """Turn by turn: the model in this process, and through the node. Seconds of each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    connection, whole = Connection(port), binary_request(path, inputs)
    direct, through = [], []
    for turn in range(rounds + 20):
        began = time.perf_counter()
        session.run(None, inputs)
        between = time.perf_counter()
        status, _ = connection.ask(whole)
        ended = time.perf_counter()
        if status != 200:
            raise SystemExit(f"status {status}")
        if turn >= 20:
            direct.append(between - began)
            through.append(ended - between)
    return {"direct": direct, "through": through}


def many(port: int, path: str, clients: int, seconds: float, inputs: dict[str, np.ndarray]) -> dict[str, object]:
    """Requests a second, of so many connections that never pause."""
    counts, failures = [0] * clients, []
    whole = json_request(path, inputs)
    until = time.monotonic() + seconds

    def ask(own: int) -> None:
        connection = Connection(port)
        while time.monotonic() < until:
            status, _ = connection.ask(whole)
            if status == 200:
                counts[own] += 1
            else:
                failures.append(status)

    threads = [threading.Thread(target=ask, args=(own,)) for own in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_second": sum(counts) / seconds, "failures": failures}


if __name__ == "__main__":
    what, arrays, *rest = sys.argv[1:]
    with np.load(arrays) as loaded:
        tensors = {name: loaded[name] for name in loaded.files}
    port_, path_ = int(rest[0]), rest[1]
    if what == "steady":
        found = steady(port_, path_, int(rest[2]), float(rest[3]), tensors)
    elif what == "overhead":
        found = overhead(port_, path_, int(rest[2]), Path(rest[3]), tensors)
    else:
        found = many(port_, path_, int(rest[2]), float(rest[3]), tensors)
    json.dump(found, sys.stdout)

"""How fast and with how few bytes beside the payloads one node takes a release, by the real programs over mosquitto."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.figures import Figure, median
from hub.core.delivery.delta_base import Earlier, ancestor, plan
from hub.core.delivery.encode import encode_block
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.names import sha256

BIN = Path(sys.executable).parent
MODEL_BYTES = 48 * MIB  # within the default budget of blocks retained at the broker
PUBLISHED_BYTES = 8 * MIB  # half of it zeros
ROUNDS = 3
MOSQUITTO = "/usr/sbin/mosquitto"


def measure() -> list[Figure]:
    """Incompressible float32 weights, fetched by a fresh node three times; a bare subscriber takes the same payloads between."""
    if not Path(MOSQUITTO).exists():
        raise SystemExit("bench delivery needs mosquitto: apt-get install mosquitto")
    with tempfile.TemporaryDirectory() as folder, _mosquitto(Path(folder)) as port:
        fleet = _Fleet(Path(folder), port)
        fleet.publish()
        ours, bare, overheads = [], [], []
        for number in range(ROUNDS):
            bare.append(_bare_rate(fleet.payloads(), port))
            rate, overhead = fleet.fetch(f"node-{number}")
            ours.append(rate)
            overheads.append(overhead)
        fleet.stop()
        publishing = _publishing(Path(folder))
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return [
        Figure("delivery.rate_ratio", median(ratios), "of the peer's rate", ">= 0.6", "bare paho subscriber, MB/s", median(bare) / 1e6),
        Figure("delivery.rate_mb_s", median(ours) / 1e6, "MB/s, verified and synced", "", "bare paho subscriber, MB/s", median(bare) / 1e6),
        Figure("delivery.wire_overhead", median(overheads), "bytes both ways over payload bytes, less 1", "<= 0.015", "", None),
        *publishing,
    ]


def _publishing(folder: Path) -> list[Figure]:
    """CPU seconds of planning and encoding weights as an update, with random heads around zeros, beside zstd -19 of the same bytes."""
    rng = np.random.default_rng(11)
    before = rng.normal(0, 0.05, PUBLISHED_BYTES // 8).astype(np.float32)
    after = before + rng.normal(0, 1e-4, before.shape).astype(np.float32)
    old, new = (rng.bytes(65536) + bytes(PUBLISHED_BYTES // 2) + weights.tobytes() for weights in (before, after))
    cuts = plan(old, []).cuts
    earlier = Earlier(cuts, [sha256(old[at : at + size]) for at, size in cuts], [], lambda at, size: old[at : at + size])
    begin = time.process_time()
    planned = plan(new, [], [earlier])
    for (at, size), likeness in zip(planned.cuts, planned.likenesses[0], strict=True):
        encode_block(new[at : at + size], parents=[ancestor(likeness, earlier)])
    ours = time.process_time() - begin
    (folder / "published").write_bytes(new)
    begin_children = os.times().children_user + os.times().children_system
    subprocess.run(
        ["zstd", "-q", "-f", "-19", "--single-thread", str(folder / "published"), "-o", str(folder / "published.zst")], check=True
    )
    peer = os.times().children_user + os.times().children_system - begin_children
    peer_name = "zstd -19, CPU seconds"
    return [Figure("publish.cpu_ratio", ours / peer, "CPU of planning and encoding / peer's", "", peer_name, peer)]


@contextlib.contextmanager
def _mosquitto(folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    conf = folder / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 65000\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: _answers(port), 10)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class _Fleet:
    folder: Path
    port: int
    hub: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Make the fleet and start its hub."""
        (self.folder / "pass").write_text("bench\n")
        (self.folder / "pass").chmod(0o600)
        broker = f"mqtt://127.0.0.1:{self.port}"
        self.cli("init", str(self.folder / "fleet"), "--fleet", "bench", "--model", "m", "--broker", broker, *self.secret)
        self.run_hub()

    def run_hub(self) -> None:
        """Until nodes can reach it."""
        ready = self.folder / "fleet" / "hub.ready"
        self.hub = subprocess.Popen(
            [str(BIN / "fleetcast"), "hub", str(self.folder / "fleet"), *self.secret], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait(ready.exists, 30)

    def publish(self) -> None:
        """Begin, publish and roll out."""
        self.begin()
        _model(self.folder / "model.onnx")
        self.cli("publish", str(self.folder / "model.onnx"), "--name", "m", "--version", "1.0.0", *self.secret)
        self.cli("rollout", "start", "m@1.0.0", "--stages", "100")

    @property
    def secret(self) -> list[str]:
        """Opens the fleet's keys."""
        return ["--passphrase-file", str(self.folder / "pass")]

    @property
    def environment(self) -> dict[str, str]:
        """Of its commands."""
        return {**os.environ, "FLEETCAST_DIR": str(self.folder / "fleet")}

    def fetch(self, name: str) -> tuple[float, float]:
        """A fresh node's rate in bytes a second, and its wire overhead."""
        directory = self.folder / name
        directory.mkdir()
        road = _CountingRoad(self.port)
        (directory / "node.toml").write_text(
            f'id = "{name}"\nfleet = "bench"\nbroker = "mqtt://127.0.0.1:{road.port}"\ndata = "data"\n'
            'root = "../fleet/root.json"\nport = 0\n'
        )
        log = directory / "log"
        with log.open("wb") as target:
            node = subprocess.Popen([str(BIN / "fleetcast-node"), "run", "--settings", str(directory / "node.toml")], stderr=target)
        try:
            _wait(lambda: b"fetch.completed" in log.read_bytes(), 120)
        finally:
            node.terminate()
            node.wait(20)
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        times = {event["event"]: datetime.fromisoformat(event["timestamp"]) for event in events if event["event"].startswith("fetch.")}
        seconds = (times["fetch.completed"] - times["fetch.started"]).total_seconds()
        payload_bytes = sum(len(data) for data in self.payloads())
        shutil.rmtree(directory)
        return payload_bytes / seconds, road.bytes / payload_bytes - 1

    def payloads(self) -> list[bytes]:
        """What a node fetches: incompressible, so the raw blocks."""
        data = (self.folder / "model.onnx").read_bytes()
        return [data[at : at + BLOCK_BYTES_MAX] for at in range(0, len(data), BLOCK_BYTES_MAX)]

    def cli(self, *arguments: str) -> None:
        """Run one of its commands."""
        subprocess.run([str(BIN / "fleetcast"), *arguments], check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def stop(self) -> None:
        """End the hub."""
        if self.hub is not None:
            self.hub.terminate()
            self.hub.wait(20)


class _CountingRoad:
    """A TCP proxy that counts every byte of both directions."""

    def __init__(self, broker_port: int) -> None:
        self.bytes = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(broker_port,), daemon=True).start()

    def _accept(self, broker_port: int) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", broker_port))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    self.bytes += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def _bare_rate(payloads: list[bytes], port: int) -> float:
    """A paho subscriber in a process of its own that does nothing with what it gets; bytes a second, through the same kind of road."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    road = _CountingRoad(port)
    program = _BARE.format(port=road.port, count=len(payloads))
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()  # subscribed
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_socket_open = lambda c, u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.max_inflight_messages_set(64)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for number, data in enumerate(payloads):
        client.publish(f"bare/{number}", data, qos=1)
    seconds = float(child.stdout.readline())
    child.wait()
    client.disconnect()
    client.loop_stop()
    return sum(map(len, payloads)) / seconds


_BARE = """
import socket, sys, time
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
client.on_socket_open = lambda c, u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
seen = [0, 0.0]
def take(c, u, message):
    seen[1] = seen[1] or time.perf_counter()
    seen[0] += 1
    if seen[0] == {count}:
        print(time.perf_counter() - seen[1], flush=True)
        client.disconnect()
client.on_message = take
client.on_subscribe = lambda *a: print("ready", flush=True)
client.connect("127.0.0.1", {port})
client.subscribe("bare/#", 1)
client.loop_forever()
"""


def _model(path: Path) -> None:
    """An ONNX model of random float32 weights that runs: x times a tall matrix."""
    rng = np.random.default_rng(0)
    columns = 16
    weights = rng.integers(0, 2**32, MODEL_BYTES // 4, dtype=np.uint32).view(np.float32)
    weights = np.where(np.isfinite(weights), weights, np.float32(1)).reshape(-1, columns)
    nodes = [helper.make_node("Slice", ["w", "start", "end"], ["few"]), helper.make_node("MatMul", ["x", "few"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([0], np.int64), "start"),
            numpy_helper.from_array(np.array([4], np.int64), "end"),
        ],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    onnx.checker.check_model(str(path))


def _wait(probe, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

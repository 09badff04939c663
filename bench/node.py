"""A node under load: swaps, what the agent adds to a model, throughput beside mlserver and a bare handler, memory, readiness."""

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np

from bench.delivery import BIN, MOSQUITTO, _Fleet, _mosquitto, _wait
from bench.figures import Figure, median, quantile
from bench.node_clients import Connection, binary_request
from bench.node_peers import bare, least, litserve, mlserver
from bench.node_staged import Arrays, bring, linear, mlp, recogniser, served, silero, staged
from bench.process_group import process_group

CLIENTS, PAUSE_SECONDS = 2, 0.004
ROUNDS, STEADY_SECONDS, SWAPS_A_ROUND = 6, 5.0, 5
OVERHEAD_ROUNDS = 3
BATCH_ROWS, GIVEN_BACK_SECONDS = 5_000_000, 5.0
ASKED = 3000  # of a small model; a large one a tenth
MANY_CLIENTS, MANY_SECONDS, MANY_ROUNDS = 8, 3.0, 3
LEAK_SWAPS, LEAK_BEFORE = 100, 20
INFER = "/v2/models/{}/infer"
NAME = "bench"


def measure() -> list[Figure]:
    """All of it, two cores shared by clients, agent and workers."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_swaps(Path(folder)),
            *_overheads(Path(folder)),
            *_throughput(Path(folder)),
            *_leak(Path(folder)),
            *_processes(Path(folder)),
        ]


def _swaps(folder: Path) -> Iterator[Figure]:
    """Undisturbed and disturbed seconds by turns, so that the machine's own moods fall on both."""
    (first, rows), (second, _) = mlp(0), mlp(1)
    releases = [staged(folder, NAME, data, version, rows) for data, version in ((first, "1.0.0"), (second, "2.0.0"))]
    spans: dict[str, list[tuple[float, float]]] = {"steady": [], "swapping": []}
    current = 0
    with served(releases[:1]) as server, _clients(folder, server.port, {"X": rows["X"][:1]}) as stop:
        for _ in range(ROUNDS):
            for kind, phases in spans.items():
                began = time.monotonic()
                if kind == "steady":
                    time.sleep(STEADY_SECONDS)
                for _ in range(SWAPS_A_ROUND if kind == "swapping" else 0):
                    current = 1 - current
                    bring(server, releases[current])
                    server.retire(releases[1 - current].digest)
                    time.sleep(0.05)
                phases.append((began, time.monotonic()))
        said = stop()
    times = {
        kind: [took for at, took in said["taken"] if any(begin <= at < end for begin, end in phases)] for kind, phases in spans.items()
    }
    before, during = (quantile(times[kind], 0.99) for kind in ("steady", "swapping"))
    swaps = ROUNDS * SWAPS_A_ROUND
    yield Figure("node.swap_dropped", float(len(said["failures"])), f"of {len(said['taken'])} requests, {swaps} swaps", "0", "", None)
    yield Figure("node.swap_p99_ratio", during / before, "p99 while swapping over steady", "<= 2", "steady p99, ms", before * 1e3)


@contextmanager
def _clients(folder: Path, port: int, inputs: Arrays) -> Iterator[Callable[[], dict]]:  # type: ignore[type-arg]
    child = _child("steady", _arrays(folder, inputs), port, INFER.format(NAME), CLIENTS, PAUSE_SECONDS)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield lambda: json.loads(child.communicate("stop\n", timeout=60)[0])
    finally:
        child.kill()


def _overheads(folder: Path) -> Iterator[Figure]:
    """Median of what a request takes longer than the model in the client's own process, asked by turns."""
    small, rows = mlp(0)
    models = {"mlp": (small, {"X": rows["X"][:1]}), "silero-vad": silero(), "rapidocr-rec": recogniser()}
    for name, (data, inputs) in models.items():
        release = staged(folder, name, data, "1.0.0", inputs)
        rounds = (ASKED // 10 if len(data) > 5_000_000 else ASKED) // OVERHEAD_ROUNDS
        with ExitStack() as stack:
            ports = {"ours": stack.enter_context(served([release])).port}
            if len(inputs) == 1:
                ports["least"] = stack.enter_context(least(release.model_path, next(iter(inputs.values())).shape))
            added: dict[str, list[float]] = {who: [] for who in ports}
            alone: list[float] = []
            for _ in range(OVERHEAD_ROUNDS):
                for who, port in ports.items():
                    child = _child("overhead", _arrays(folder, inputs), port, INFER.format(name), rounds, release.model_path)
                    found = json.loads(child.communicate(timeout=600)[0])
                    direct, through = (np.array(found[key]) for key in ("direct", "through"))
                    added[who].append(float(np.median(through - direct)) * 1e3)
                    alone.append(median(direct) * 1e3)
        unit = f"ms at p50 over ONNX Runtime in the client's process ({median(alone):.2g} ms), {len(data) / 1e6:.1f} MB"
        peer = ("a bare socket before the model, ms", median(added["least"])) if "least" in added else ("", None)
        yield Figure(f"node.overhead_ms.{name}", median(added["ours"]), unit, "<= 0.5", *peer)


def _throughput(folder: Path) -> Iterator[Figure]:
    """Eight connections that never pause; ours and each peer's by turns. Rows proved independent, so ours are joined."""
    data, rows = mlp(0)
    release = staged(folder, "many", data, "1.0.0", rows)
    arrays = _arrays(folder, {"X": rows["X"][:1]})
    path, own = release.model_path, INFER.format("many")
    with served([release]) as server, mlserver(path) as theirs, bare(path) as handler, litserve(path) as lit:
        places = {"ours": (server.port, own), "mlserver": (theirs, own), "bare": (handler, "/"), "litserve": (lit, "/predict")}
        rates: dict[str, list[float]] = {who: [] for who in places}
        for _ in range(MANY_ROUNDS):
            for who, (port, path) in places.items():
                found = json.loads(_child("many", arrays, port, path, MANY_CLIENTS, MANY_SECONDS).communicate(timeout=120)[0])
                assert not found["failures"], (who, found["failures"][:3])
                rates[who].append(found["per_second"])
    of = {who: median(rates[who]) for who in places}
    ours = of["ours"]
    yield Figure(
        "node.throughput_ratio", ours / of["mlserver"], f"of mlserver's; ours {ours:.0f}/s", ">= 1", "mlserver, /s", of["mlserver"]
    )
    yield Figure("node.throughput_ratio.litserve", ours / of["litserve"], "of LitServe's", ">= 1", "LitServe, /s", of["litserve"])
    yield Figure(
        "node.throughput_ratio.bare",
        ours / of["bare"],
        "of a bare Starlette and ONNX Runtime handler's",
        "",
        "bare handler, /s",
        of["bare"],
    )


def _leak(folder: Path) -> Iterator[Figure]:
    (first, rows), (second, _) = mlp(0), mlp(1)
    releases = [staged(folder, "leak", data, version, rows) for data, version in ((first, "1.0.0"), (second, "2.0.0"))]
    with served(releases[:1]) as server:
        for number in range(LEAK_BEFORE + LEAK_SWAPS):
            if number == LEAK_BEFORE:
                before = _memory(Path("/proc/self/status"), "VmRSS")
            new, old = releases[(number + 1) % 2], releases[number % 2]
            bring(server, new)
            server.retire(old.digest)
        grown = (_memory(Path("/proc/self/status"), "VmRSS") - before) / 2**20
    yield Figure(f"node.leak_mib.{LEAK_SWAPS}_swaps", grown, "MiB of the agent's resident memory", "<= 4", "before, MiB", before / 2**20)


def _processes(folder: Path) -> Iterator[Figure]:
    """The real programs: what they hold when idle, and how long a device that starts takes until it answers."""
    if not Path(MOSQUITTO).exists():
        raise SystemExit("bench node needs mosquitto: apt-get install mosquitto")
    data, rows = mlp(0)
    place = folder / "fleet-of-one"
    place.mkdir()
    with _mosquitto(place) as port:
        fleet = _Fleet(place, port)
        fleet.begin()
        (place / "model.onnx").write_bytes(data)
        fleet.cli("publish", str(place / "model.onnx"), "--name", "m", "--version", "1.0.0", *fleet.secret)
        fleet.cli("rollout", "start", "m@1.0.0", "--stages", "100")
        (place / "wide.onnx").write_bytes(linear())
        fleet.cli("publish", str(place / "wide.onnx"), "--name", "wide", "--version", "1.0.0", *fleet.secret)
        node = place / "node"
        node.mkdir()
        (node / "node.toml").write_text(
            f'id = "node"\nfleet = "bench"\nbroker = "mqtt://127.0.0.1:{port}"\ndata = "data"\nroot = "../fleet/root.json"\n'
            f'port = 0\nsocket = "node.sock"\n'
        )
        readies = []
        for turn in range(4):
            began = time.monotonic()
            with _running(node) as process:
                _wait(lambda: _ready(node / "node.sock"), 60)
                if turn:  # at first it has nothing yet
                    readies.append(time.monotonic() - began)
                if turn == 3:
                    time.sleep(10)
                    agent, private = (_memory(Path(f"/proc/{process.pid}/status"), field) for field in ("VmRSS", "RssAnon"))
                    (first,) = _children(process.pid)
                    worker = _memory(Path(f"/proc/{first}/status"), "VmRSS")
                    fleet.cli("rollout", "start", "wide@1.0.0", "--stages", "100")
                    _wait(lambda: _ready(node / "node.sock", "/v2/models/wide/ready"), 60)
                    (second,) = _children(process.pid) - {first}
                    kept = list(_kept(node / "node.sock", process.pid, second))
        fleet.stop()
    bare_rss = _bare_rss(folder, data, rows)
    yield Figure("node.rss_mib.agent", agent / 2**20, "MiB resident, idle, one model", "<= 70", "of it not of a file, MiB", private / 2**20)
    yield Figure(
        "node.rss_mib.worker",
        worker / 2**20,
        "MiB resident, a model of 30 KB",
        "<= 4 more",
        "python, numpy, ORT and the model, MiB",
        bare_rss,
    )
    for who, (before, peak, after) in zip(("agent", "worker"), kept, strict=True):
        unit = f"MiB kept {GIVEN_BACK_SECONDS:.0f} s after a batch of {BATCH_ROWS} rows, of {before / 2**20:.0f} MiB before"
        yield Figure(f"node.kept_mib.{who}", (after - before) / 2**20, unit, "<= 4", "the most held meanwhile, MiB", peak / 2**20)
    yield Figure("node.ready_s", median(readies), "s from start to ready, release on disk", "", "", None)


@contextmanager
def _running(node: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(BIN / "fleetcast-node"), "run", "--settings", str(node / "node.toml")]
    with (node / "log").open("ab") as log, process_group(command, stderr=log) as process:
        yield process


def _children(process_id: int) -> set[str]:
    return set(subprocess.run(["pgrep", "-P", str(process_id)], capture_output=True, text=True, check=True).stdout.split())


def _kept(path: Path, *process_ids: object) -> Iterator[tuple[int, int, int]]:
    """Resident bytes of each process before a large batch, the most until its answer came, and a while after it."""
    places = [Path(f"/proc/{process_id}/status") for process_id in process_ids]
    whole = binary_request(INFER.format("wide"), {"X": np.ones((BATCH_ROWS, 3), np.float32)})
    before = [_memory(place, "VmRSS") for place in places]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        status, _ = Connection(client).ask(whole)
        assert status == 200, status
    time.sleep(GIVEN_BACK_SECONDS)
    return zip(before, [_memory(place, "VmHWM") for place in places], [_memory(place, "VmRSS") for place in places], strict=True)


def _ready(path: Path, what: str = "/v2/health/ready") -> bool:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node") as client:
            return client.get(what).status_code == 200
    except httpx.HTTPError:
        return False


def _bare_rss(folder: Path, data: bytes, rows: Arrays) -> float:
    (folder / "bare.onnx").write_bytes(data)
    program = (
        "import sys, re, numpy, onnxruntime; session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']);"
        "session.run(None, {'X': numpy.zeros((1, 10), numpy.float32)});"
        "print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    said = subprocess.run([sys.executable, "-c", program, str(folder / "bare.onnx")], check=True, capture_output=True, text=True).stdout
    return int(said) / 1024


def _memory(status: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _arrays(folder: Path, inputs: Arrays) -> Path:
    path = folder / f"inputs-{threading.get_ident()}-{time.monotonic_ns()}.npz"
    np.savez(path, **inputs)
    return path


def _child(what: str, arrays: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.node_clients", what, str(arrays), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])

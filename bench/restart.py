"""How soon a node that is just being restarted follows a rollout, beside one that was not: the real programs over the embedded broker."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.figures import Figure, median

ROUNDS = 5
WAIT_SECONDS = 120.0
LOOK_SECONDS = 0.02
BIN = Path(sys.executable).parent


def measure() -> list[Figure]:
    """Restart one of two nodes, killed or ended, and begin a rollout in the same moment; the peer is the node that goes on."""
    with tempfile.TemporaryDirectory() as name, _Plant(Path(name)).running() as plant:
        plant.roll_out(0)
        found = [plant.follow(number, kill=number % 2 == 0) for number in range(1, ROUNDS + 1)]
    restarted, steady = (median([pair[place] for pair in found]) for place in (0, 1))
    return [
        Figure(
            "node.restart_follow_s",
            round(restarted, 2),
            f"seconds from the start of a process and of a rollout to serving it; {restarted / steady:.2f} times the peer's",
            "<= 2 times the peer's",
            "a node that was not restarted",
            round(steady, 2),
        )
    ]


class _Plant:
    """A fleet's folder, its hub and two nodes, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, dict[str, subprocess.Popen[bytes]]()
        self.ports = {name: _free_port() for name in ("broker", "steady", "restarted")}
        (folder / "secret").write_text("bench\n")
        (folder / "secret").chmod(0o600)
        self.env = {
            **os.environ,
            "FLEETCAST_DIR": str(folder / "plant"),
            "FLEETCAST_PASSPHRASE_FILE": str(folder / "secret"),
            "FLEETCAST_BROKER_PORT": str(self.ports["broker"]),
        }

    @contextmanager
    def running(self) -> Iterator["_Plant"]:
        try:
            self._run([sys.executable, "-m", "tools.example", str(self.folder / "example")], cwd=Path(__file__).parents[1])
            self.cli("init", str(self.folder / "plant"), "--fleet", "plant", "--model", "delay")
            self._start("hub", [str(BIN / "fleetcast"), "hub", str(self.folder / "plant")])
            _until((self.folder / "plant" / "hub.ready").exists)
            for name in ("steady", "restarted"):
                (self.folder / name).mkdir()
                settings = {
                    "id": name,
                    "fleet": "plant",
                    "broker": f"mqtt://127.0.0.1:{self.ports['broker']}",
                    "data": "data",
                    "root": str(self.folder / "plant" / "root.json"),
                }
                lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
                (self.folder / name / "node.toml").write_text("\n".join([*lines, f"port = {self.ports[name]}"]) + "\n")
                self.start_node(name)
            _until(lambda: len(json.loads(self.cli("nodes", "--json"))) == 2)
            yield self
        finally:
            for process in self.processes.values():
                process.send_signal(signal.SIGTERM)
            for process in self.processes.values():
                process.wait(WAIT_SECONDS)

    def roll_out(self, number: int) -> None:
        self._publish(number)
        self.cli("rollout", "start", f"delay@1.{number}.0", "--wait")

    def follow(self, number: int, *, kill: bool) -> tuple[float, float]:
        """Return after how many seconds the restarted node and the other one serve a new release."""
        self._publish(number)
        self.processes["restarted"].send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.processes["restarted"].wait(WAIT_SECONDS)
        command = subprocess.Popen(
            [str(BIN / "fleetcast"), "rollout", "start", f"delay@1.{number}.0"], env=self.env, stdout=subprocess.DEVNULL
        )
        self.start_node("restarted")
        began, found = time.monotonic(), dict[str, float]()
        _until(lambda: self._look(f"1.{number}.0", began, found))
        command.wait(WAIT_SECONDS)
        self.cli("rollout", "status", "delay")
        time.sleep(2.0)  # Nothing of this round is to be left in the next one.
        return found["restarted"], found["steady"]

    def start_node(self, name: str) -> None:
        self._start(name, [str(BIN / "fleetcast-node"), "run", "--settings", str(self.folder / name / "node.toml")])

    def cli(self, *arguments: str) -> str:
        return self._run([str(BIN / "fleetcast"), *arguments])

    def _publish(self, number: int) -> None:
        example = self.folder / "example"
        said = ["--name", "delay", "--version", f"1.{number}.0", "--probation-seconds", "1"]
        self.cli("publish", str(example / "model.onnx"), *said)

    def _look(self, version: str, began: float, found: dict[str, float]) -> bool:
        for name in {"steady", "restarted"} - found.keys():
            if self._served(name) == version:
                found[name] = time.monotonic() - began
        return len(found) == 2

    def _served(self, name: str) -> str | None:
        tensor = {"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [2, 6, 1400, 10, 10]}
        url = f"http://127.0.0.1:{self.ports[name]}/v2/models/delay/infer"
        request = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"})
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own address
            return str(json.load(answer)["model_version"])
        return None

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)

    def _run(self, command: list[str], **more: Any) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS, **more)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout


def _until(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(LOOK_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

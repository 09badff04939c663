"""A server in a process of its own, with a model that says what it is asked: `python -m tests.node.serving.served_process FOLDER`.

It writes its port, the one for gRPC (0: without), and the process id of its model's worker, and ends when its standard input does.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleetcast.memory_trim import keep_little

ROOT = Path(__file__).parents[3]
MODEL = "same"


@dataclass(frozen=True)
class Victim:
    """A running process, and what the kernel knows of it."""

    process: "subprocess.Popen[str]"
    port: int
    grpc_port: int

    def memory_mib(self, field: str = "VmRSS") -> float:
        """What it has resident now, or (`VmHWM`) ever had."""
        return memory_mib(self.process.pid, field)

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """What a process has resident now, or (`VmHWM`) ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served_process(folder: Path, *, descriptors: int = 1024, grpc: bool = False) -> Iterator[Victim]:
    """Run one, with this limit of descriptors."""

    command = [
        "prlimit",
        f"--nofile={descriptors}:{descriptors}",
        sys.executable,
        "-m",
        "tests.node.serving.served_process",
        str(folder),
        *(["grpc"] if grpc else []),
    ]
    with (folder / "served.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "served.log").read_text()
        port, grpc_port = (int(word) for word in line.split())
        yield Victim(process, port, grpc_port)
    finally:
        process.stdin.close()
        process.wait(100)


def main() -> None:
    keep_little(arenas_max=1)  # as the agent does
    import structlog  # here, since the test that starts this needs none of it
    from onnx import TensorProto

    from node.serving.server import Listen, Server
    from schemas.manifest import Tensor
    from tests.node.conftest import Running, staging
    from tests.node.serving.test_serving import onnx_of

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    folder, grpc = Path(sys.argv[1]), sys.argv[2:] == ["grpc"]
    tensors = {side: (Tensor(name=name, datatype="FP32", shape=(-1,)),) for side, name in (("inputs", "X"), ("outputs", "variable"))}
    # Nobody keeps what telemetry would look at: each observation holds a request's rows.
    server = Server(Listen(port=0, grpc_port=0 if grpc else None), node="ewr-1", on_rows=lambda _: None)
    server.start()
    try:
        onnx = onnx_of("Identity", TensorProto.FLOAT, [None])
        Running(server, [], []).serve(staging(folder)("1.0.0", onnx, model=MODEL, **tensors))
        print(server.port, server.grpc_port, flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()

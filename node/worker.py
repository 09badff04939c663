"""The worker process: loads one model and answers frames on an inherited socket, in order, until the socket closes.

Started as `python -m node.worker <socket descriptor> <parent's process id>`. Knows no manifest, release or HTTP. A model that crashes,
leaks or hangs takes down this process and no other; when the agent dies, however it dies, this process ends too.
"""

import ctypes
import os
import re
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.core.frames import PREFIX, Frame, Malformed, check_sizes, decode, encode
from node.core.tensors import Array, Raw, Spec, array_of, raw_of
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from node.runtime import Runtime

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def main() -> None:
    """Serve until the agent closes the socket."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a terminal or systemd signals the whole group, while the agent still drains
        signal.signal(signum, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        try:
            serve(connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the agent is done with this worker, or gone
        except Malformed as error:
            sys.exit(f"worker: {error}")


def serve(connection: socket.socket) -> None:
    """Answer frames one after the other; pipelined ones wait in the socket.

    Raises:
        EOFError: the agent closed the socket.
        Malformed: the agent speaks another protocol.
    """
    runtime: Runtime | None = None
    while True:
        frame = read_frame(connection)
        try:
            if frame.kind == "load":
                runtime = load(frame.fields)
                reply = encode(frame.id, "loaded", {"inputs": runtime.inputs, "outputs": runtime.outputs})
            elif frame.kind == "memory":
                reply = encode(frame.id, "memory", {"bytes": memory_bytes_peak()})
            elif frame.kind == "infer" and runtime is not None:
                reply = encode(frame.id, "answer", {}, infer(runtime, frame))
            else:
                raise Malformed(f"unexpected frame {frame.kind!r}")
        except Refused as refusal:
            reply = encode(frame.id, "error", {"code": refusal.code, "reason": refusal.reason})
        connection.sendall(b"".join(reply))


def load(fields: Mapping[str, Any]) -> "Runtime":
    """The model that the agent names; `quiet`: by a thread that runs only when no other wants the processor.

    Raises:
        Refused: MODEL_LOAD.
    """
    outcome: list[Runtime | Exception] = []

    def run() -> None:
        if fields["quiet"]:
            _only_when_idle()
        try:
            outcome.append(_runtime(fields))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _runtime(fields: Mapping[str, Any]) -> "Runtime":
    if fields["runtime"] == "files":
        return Files(Path(fields["path"]))
    from node.runtime import OnnxRuntime  # noqa: PLC0415  # the slow import, quietly

    return OnnxRuntime(Path(fields["path"]), threads=fields["threads"])


class Files:
    """A release that another program on the device reads: nothing is run here, and the files are there."""

    inputs: tuple[Spec, ...] = ()
    outputs: tuple[Spec, ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise Refused(Code.MODEL_LOAD, f"{path.name} cannot be read: {error.strerror}") from None

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Nothing, of nothing.

        Raises:
            Refused: REQUEST_INVALID when somebody asks for more.
        """
        if inputs:
            raise Refused(Code.REQUEST_INVALID, "this release is files for another program: nothing is run here")
        return []


def infer(runtime: "Runtime", frame: Frame) -> list[Raw]:
    """Every tensor that the model gives: telemetry watches outputs that a client may not have asked for.

    Raises:
        Refused: the inputs do not fit, or the model fails on them.
    """
    answers = runtime.run({raw.name: array_of(raw) for raw in frame.tensors})
    return [raw_of(spec.name, answer) for spec, answer in zip(runtime.outputs, answers, strict=True)]


def read_frame(connection: socket.socket) -> Frame:
    """The next frame.

    Raises:
        EOFError: the stream ended.
        Malformed: it is not a frame.
    """
    header_bytes, payload_bytes = PREFIX.unpack(_read(connection, PREFIX.size))
    check_sizes(header_bytes, payload_bytes)
    body = _read(connection, header_bytes + payload_bytes)
    return decode(body[:header_bytes], body[header_bytes:])


def memory_bytes_peak() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the agent's pages from before exec
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read(connection: socket.socket, size: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    at = 0
    while at < size:
        received = connection.recv_into(buffer[at:])
        if received == 0:
            raise EOFError
        at += received
    return buffer


def _only_when_idle() -> None:
    """For the calling thread, and for good. A niceness of 10, measured, still made some requests wait for a whole time slice."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the agent dies, even in the middle of an inference that never looks at the socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(Code.WORKER_CRASHED)


if __name__ == "__main__":
    main()

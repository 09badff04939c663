"""The worker process: loads one model and answers frames on an inherited socket, in order, until the socket closes.

Started as `python -m node.worker <socket descriptor> <descriptor of cancelled ids> <parent's process id>`. Knows no manifest, release or
HTTP. A model that crashes, leaks or hangs takes down this process and no other; when the agent dies, however it dies, this ends too.
"""

import ctypes
import importlib
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from node.core.frames import PREFIX, Frame, Malformed, check_sizes, decode, encode
from node.core.tensors import Raw, array_of, raw_of
from node.runtimes import Chats, Options, Runtime
from schemas.errors import Code, Refused
from schemas.limits import MIB

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
STACK_BYTES: Final = 8 * MIB  # a thread's stack counts as its data; what glibc reserves for each
INTERPRETER_BYTES: Final = 64 * MIB  # Python, numpy and a runtime's own tables, before any model
OOM_SCORE: Final = 500  # a device that runs out of memory kills a model before it kills the agent that can start it again
CANCEL: Final = struct.Struct("<Q")  # the id of a request that nobody waits for any more


def main() -> None:
    """Serve until the agent closes the socket."""
    descriptor, cancels, parent = (int(argument) for argument in sys.argv[1:4])
    _die_with(parent)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a terminal or systemd signals the whole group, while the agent still drains
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    with socket.socket(fileno=descriptor) as connection:
        try:
            serve(connection, Cancels(cancels))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the agent is done with this worker, or gone
        except Malformed as error:
            sys.exit(f"worker: {error}")


class Cancels:
    """Requests that nobody waits for any more, told on a pipe beside the socket, because the socket is read only between two requests."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ids: set[int] = set()

    def holds(self, id: int) -> bool:
        """Whether this request was given up."""
        while select.select([self._descriptor], [], [], 0)[0]:
            said = os.read(self._descriptor, CANCEL.size)
            if len(said) < CANCEL.size:
                break  # the agent is gone; the socket says so too
            self._ids.add(CANCEL.unpack(said)[0])
        self._ids = {one for one in self._ids if one >= id}
        return id in self._ids


def serve(connection: socket.socket, cancels: Cancels) -> None:
    """Answer frames one after the other; pipelined ones wait in the socket.

    Raises:
        EOFError: the agent closed the socket.
        Malformed: the agent speaks another protocol.
    """
    runtime: Runtime | None = None
    names: list[str] = []
    while True:
        frame = read_frame(connection)
        try:
            if frame.kind == "load":
                runtime = load(frame.fields)
                signature = runtime.describe()
                names = [spec.name for spec in signature.outputs]
                fields = {"inputs": signature.inputs, "outputs": signature.outputs, "platform": signature.platform}
                reply = encode(frame.id, "loaded", {**fields, "chats": isinstance(runtime, Chats)})
            elif frame.kind == "memory":
                reply = encode(frame.id, "memory", {"bytes": memory_bytes_peak()})
            elif frame.kind == "infer" and runtime is not None:
                reply = encode(frame.id, "answer", {}, infer(runtime, names, frame))
            elif frame.kind == "chat" and isinstance(runtime, Chats):
                reply = encode(frame.id, "answer", {"body": chat(runtime, frame, connection, cancels)})
            else:
                raise Malformed(f"unexpected frame {frame.kind!r}")
        except Refused as refusal:
            reply = encode(frame.id, "error", {"code": refusal.code, "reason": refusal.reason})
        except MemoryError:
            reply = encode(frame.id, "error", {"code": Code.MODEL_TOO_LARGE, "reason": "no more memory within the worker's limit"})
        connection.sendall(b"".join(reply))


def load(fields: Mapping[str, Any]) -> Runtime:
    """The model that the agent names; `quiet`: by a thread that runs only when no other wants the processor.

    Raises:
        Refused: MODEL_LOAD, MODEL_TOO_LARGE or RUNTIME_ABSENT.
    """
    _limit_memory(fields.get("memory_bytes_max"), int(fields["threads"]))
    if cores := fields.get("cores"):
        os.sched_setaffinity(0, cores)
    outcome: list[Runtime | BaseException] = []

    def run() -> None:
        if fields["quiet"]:
            _only_when_idle()
        try:
            outcome.append(make(fields))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def make(fields: Mapping[str, Any]) -> Runtime:
    """A runtime of the kind that is named, with the model in it.

    Raises:
        Refused: as `load`.
    """
    module, _, attribute = str(fields["target"]).partition(":")
    try:
        runtime: Runtime = getattr(importlib.import_module(module), attribute)()  # the slow import, quietly
    except (ImportError, AttributeError) as error:
        raise Refused(Code.RUNTIME_ABSENT, f"the runtime {fields['target']} cannot be had on this device: {error}") from None
    options = Options(int(fields["threads"]), tuple(fields.get("providers", ())), fields.get("parameters"))
    runtime.load(Path(fields["path"]), options)
    return runtime


def infer(runtime: Runtime, names: list[str], frame: Frame) -> list[Raw]:
    """Every tensor that the model gives: telemetry watches outputs that a client may not have asked for.

    Raises:
        Refused: the inputs do not fit, or the model fails on them.
    """
    answers = runtime.infer({raw.name: array_of(raw) for raw in frame.tensors}, frame.fields.get("parameters") or {})
    if len(answers) != len(names):
        raise Refused(Code.MODEL_RUN, f"outputs: expected {len(names)}, the runtime gave {len(answers)}")
    return [raw_of(name, answer) for name, answer in zip(names, answers, strict=True)]


def chat(runtime: Chats, frame: Frame, connection: socket.socket, cancels: Cancels) -> Mapping[str, Any]:
    """One turn of a conversation, its chunks sent as they come."""

    def say(chunk: Mapping[str, Any]) -> bool:
        connection.sendall(b"".join(encode(frame.id, "part", {"chunk": chunk})))
        return not cancels.holds(frame.id)

    return {} if cancels.holds(frame.id) else runtime.chat(frame.fields["body"], frame.fields.get("parameters") or {}, say)


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


def _limit_memory(bytes_max: int | None, threads: int) -> None:
    """Have the kernel refuse memory beyond what the release states, so that a model that allocates without end fails by itself.

    Of the process's writable data (setrlimit(2), RLIMIT_DATA): what is only mapped from a file does not count.
    """
    if bytes_max is None or sys.platform != "linux":
        return
    limit = bytes_max + INTERPRETER_BYTES + (threads + 1) * STACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the agent dies, even in the middle of an inference that never looks at the socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(Code.WORKER_CRASHED)


if __name__ == "__main__":
    main()

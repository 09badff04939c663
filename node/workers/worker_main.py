"""Run a worker process: it loads one model, then answers frames on a socket, in order, until it closes.

Knows no manifest, release or HTTP. A model that crashes, leaks or hangs takes down the process that this runs in, and no other.
"""

import importlib
import os
import re
import resource
import select
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fleetcast.memory_trim import LARGE_BYTES, trim_memory
from fleetcast.missing_libraries import missing_library
from node.core.inference.frames import CANCEL, PREFIX, Frame, Malformed, body_bytes, decode, encode
from node.core.inference.tensors import Buffer, Raw, Spec, aligned_array, aligned_room, raw_of
from node.runtimes import Chats, Options, Runtime
from node.workers.idle_priority import in_thread
from schemas.errors import Code, Refused
from schemas.limits import MIB, TEXT_MAX

STACK_BYTES: Final = 8 * MIB  # a thread's stack counts as its data; what glibc reserves for each
BUFFERS_MAX: Final = 512  # at once; Linux takes 1024 (IOV_MAX)
LINE_CHARACTERS_MAX: Final = 300  # A line about an error of somebody else's code.


def answer(connection: socket.socket, cancels: int, *, quiet: bool) -> str | None:
    """Load what the first frame names, answer the others one after the other; pipelined ones wait in the socket.

    Returns why it ended, when that was not because the agent closed the socket or is gone.
    """
    try:
        frame = read_frame(connection)
        if frame.kind != "load":
            raise Malformed(f"unexpected frame {frame.kind!r}")
        try:
            runtime = load(frame.fields, quiet=quiet)
        except (Refused, MemoryError) as error:
            _send(connection, _refusal(frame.id, error))
            return None
        signature = runtime.describe()
        fields = {"inputs": signature.inputs, "outputs": signature.outputs, "platform": signature.platform}
        more = {"chats": isinstance(runtime, Chats), "rows_apart": signature.rows_apart}
        _send(connection, encode(frame.id, "loaded", {**fields, **more}))
        serve(connection, Cancels(cancels), runtime, [spec.name for spec in signature.outputs])
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Malformed as error:
        return f"worker: {error}"
    return None


class Cancels:
    """Read which requests nobody waits for any more, on a pipe beside the socket, because the socket is read only between two requests."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ids: set[int] = set()

    def holds(self, id: int) -> bool:
        """Return whether this request was given up."""
        while select.select([self._descriptor], [], [], 0)[0]:
            cancelled = os.read(self._descriptor, CANCEL.size)
            if len(cancelled) < CANCEL.size:
                break  # the agent is gone; the socket says so too
            self._ids.add(CANCEL.unpack(cancelled)[0])
        self._ids = {one for one in self._ids if one >= id}
        return id in self._ids


def serve(connection: socket.socket, cancels: Cancels, runtime: Runtime, names: list[str]) -> None:
    """Answer frames until there are no more.

    Raises:
        EOFError: the agent closed the socket.
        Malformed: the agent speaks another protocol.
    """
    while True:
        frame = read_frame(connection)
        try:
            if frame.kind == "memory":
                reply = encode(frame.id, "memory", {"bytes": memory_bytes_peak()})
            elif frame.kind == "infer":
                reply = _encoded(frame.id, {}, infer(runtime, names, frame))
            elif frame.kind == "chat" and isinstance(runtime, Chats):
                reply = _encoded(frame.id, {"body": chat(runtime, frame, connection, cancels)})
            else:
                raise Malformed(f"unexpected frame {frame.kind!r}")
        except (Refused, MemoryError) as error:
            reply = _refusal(frame.id, error)
        moved = sum(len(raw.data) for raw in frame.tensors) + sum(len(buffer) for buffer in reply)
        _send(connection, reply)
        del frame, reply  # the next request may come in an hour
        if moved >= LARGE_BYTES:
            trim_memory()


def load(fields: Mapping[str, Any], *, quiet: bool) -> Runtime:
    """Return the model that the agent names.

    Raises:
        Refused: MODEL_LOAD, MODEL_TOO_LARGE or RUNTIME_ABSENT.
    """
    if cores := fields.get("cores"):
        os.sched_setaffinity(0, cores)
    in_thread(lambda: runtime_class(str(fields["target"])), quiet=quiet)  # the slow import
    _limit_memory(fields.get("memory_bytes_max"), int(fields["threads"]))
    # The runtime's own threads would inherit the loading thread's policy, and keep it: with them, loading is never quiet.
    return in_thread(lambda: make(fields), quiet=quiet and int(fields["threads"]) == 1)


def runtime_class(target: str) -> Callable[[], Runtime]:
    """Return what makes a runtime, at `module:attribute`.

    Raises:
        Refused: RUNTIME_ABSENT.
    """
    module, _, attribute = target.partition(":")
    try:
        found: Callable[[], Runtime] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # somebody else's module may raise anything
        reason = missing_library(str(error)) or line_of(error)
        raise Refused(Code.RUNTIME_ABSENT, f"the runtime {target} cannot be loaded on this device: {reason}") from None
    return found


def make(fields: Mapping[str, Any]) -> Runtime:
    """Return a runtime of the kind that is named, with the model in it.

    Raises:
        Refused: as `load`; RUNTIME_ABSENT also where a library is missing that the runtime opens only now.
    """
    make_runtime = runtime_class(str(fields["target"]))
    inputs = tuple(Spec(name, datatype, tuple(shape)) for name, datatype, shape in fields.get("inputs", ()))
    options = Options(int(fields["threads"]), tuple(fields.get("providers", ())), fields.get("parameters"), inputs)
    try:
        runtime = make_runtime()
        runtime.load(Path(fields["path"]), options)
        runtime.describe()
    except (Refused, MemoryError):
        raise
    except Exception as error:
        if missing := missing_library(str(error)):
            raise Refused(Code.RUNTIME_ABSENT, f"the runtime {fields['target']} cannot be loaded on this device: {missing}") from None
        raise Refused(Code.MODEL_LOAD, f"the runtime {fields['target']} failed to load the model: {line_of(error)}") from None
    return runtime


def infer(runtime: Runtime, names: list[str], frame: Frame) -> list[Raw]:
    """Return every tensor that the model gives: telemetry watches outputs that a client may not have asked for.

    Raises:
        Refused: the inputs do not fit, or the model fails on them.
    """
    inputs = {raw.name: aligned_array(raw) for raw in frame.tensors}
    try:
        answers = runtime.infer(inputs, frame.fields.get("parameters") or {})
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(Code.MODEL_RUN, f"the runtime failed on these inputs: {line_of(error)}") from None
    if len(answers) != len(names):
        raise Refused(Code.MODEL_RUN, f"outputs: expected {len(names)}, the runtime gave {len(answers)}")
    return [raw_of(name, answer) for name, answer in zip(names, answers, strict=True)]


def chat(runtime: Chats, frame: Frame, connection: socket.socket, cancels: Cancels) -> Mapping[str, Any]:
    """Return one turn of a conversation, its chunks sent as they come.

    Raises:
        Refused: the body is not understood, or the model fails.
    """

    def report(chunk: Mapping[str, Any]) -> bool:
        _send(connection, encode(frame.id, "part", {"chunk": chunk}))
        return not cancels.holds(frame.id)

    if cancels.holds(frame.id):
        return {}
    try:
        return runtime.chat(frame.fields["body"], frame.fields.get("parameters") or {}, report)
    except (Refused, MemoryError, OSError, Malformed):
        raise
    except Exception as error:
        raise Refused(Code.MODEL_RUN, f"the runtime failed in this conversation: {line_of(error)}") from None


def read_frame(connection: socket.socket) -> Frame:
    """Return the next frame.

    Raises:
        EOFError: the stream ended.
        Malformed: it is not a frame.
    """
    id, header_bytes, fields_bytes, payload_bytes = PREFIX.unpack(_read(connection, PREFIX.size))
    begin, end = body_bytes(header_bytes, fields_bytes, payload_bytes)
    body = _read(connection, end)
    return decode(id, bytes(body[:header_bytes]), body[header_bytes : header_bytes + fields_bytes], body[begin:])


def memory_bytes_peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    held = _status("VmHWM")  # ru_maxrss would count the agent's pages from before exec
    if held is not None:
        return held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def line_of(error: BaseException) -> str:
    """Return what somebody else's exception says, in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:LINE_CHARACTERS_MAX] if lines else type(error).__name__


def _encoded(id: int, fields: dict[str, Any], tensors: list[Raw] | None = None) -> list[Buffer]:
    try:
        return encode(id, "answer", fields, tensors or ())
    except Malformed as error:  # the protocol is fine: the model gives more than it carries
        raise Refused(Code.SCHEMA_TOO_LARGE, f"the model's answer cannot be carried: {error}; ask for fewer rows") from None
    except TypeError as error:
        raise Refused(Code.MODEL_RUN, f"the runtime's answer is no JSON: {line_of(error)}") from None


def _refusal(id: int, error: Refused | MemoryError) -> list[Buffer]:
    code, reason = (error.code, error.reason) if isinstance(error, Refused) else (Code.MODEL_TOO_LARGE, "MemoryError")
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if code is Code.MODEL_TOO_LARGE and limit != resource.RLIM_INFINITY:
        reason = f"memory of the worker: expected at most {limit} bytes of data, found a model that asks for more ({reason})"
    return encode(id, "error", {"code": code, "reason": reason[:TEXT_MAX]})


def _send(connection: socket.socket, buffers: list[Buffer]) -> None:
    """Send all of it, copied nowhere but into the socket, which as a rule takes it at once."""
    if len(buffers) > BUFFERS_MAX:
        buffers = [b"".join(buffers)]
    sent = connection.sendmsg(buffers)
    for buffer in buffers:
        if sent < len(buffer):
            connection.sendall(memoryview(buffer)[sent:])
        sent = max(0, sent - len(buffer))


def _read(connection: socket.socket, size: int) -> memoryview:
    buffer = aligned_room(size)
    at = 0
    while at < size:
        received = connection.recv_into(buffer[at:])
        if received == 0:
            raise EOFError
        at += received
    return buffer


def _limit_memory(bytes_max: int | None, threads: int) -> None:
    """Have the kernel refuse memory beyond what the release states, so that a model that allocates without end fails by itself.

    Of the process's writable data (setrlimit(2), RLIMIT_DATA), over what Python, numpy and the runtime have asked for already, most of
    which is never touched; what is only mapped from a file does not count.
    """
    held = _status("VmData")
    if bytes_max is None or held is None:
        return
    limit = held + bytes_max + (threads + 1) * STACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _status(field: str) -> int | None:
    """Return bytes that Linux counts for this process; None elsewhere."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None

"""Run one worker process from the agent's side: start it, pipeline requests to it by id, see it die or hang. Knows no HTTP or release.

Everything here runs on one asyncio loop, except that processes are started by a thread of its own: starting one takes milliseconds, which
requests would wait for, and the kernel kills a worker when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG).
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, cast

from node.core.inference.frames import CANCEL, Assembler, Frame, Malformed, encode
from node.core.inference.tensors import Raw, Spec
from node.runtimes import available
from node.workers.gathered_write import write_gathered
from node.workers.idle_priority import LOUD, QUIET
from schemas.errors import Code, Refused
from schemas.parameters import Value

START_SECONDS_MAX: Final = 120.0  # importing a runtime and optimising a large graph from a slow SD card
QUIET_SECONDS_MAX: Final = 20.0  # for loading on idle processors only; a device that is never idle then loads as loudly as it must
REQUEST_SECONDS_MAX: Final = 30.0  # without any answer while requests wait; a slower model is no local service
REAP_SECONDS_MAX: Final = 5.0  # a killed process that the kernel does not let go is stuck in a driver

_SPAWNER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-spawner")  # its one thread lives until the agent exits


class WorkerLost(Refused):
    """Signal that the worker is gone with this request unanswered. `suspect`: the worker was busy with it, so it may be the cause;
    `joined`: with it and others.
    """

    def __init__(self, code: Code, reason: str, *, suspect: bool, joined: bool = False) -> None:
        super().__init__(code, reason)
        self.suspect: Final = suspect
        self.joined: Final = joined


@dataclass(frozen=True, slots=True)
class Load:
    """Hold a model and how it is to be loaded. `memory_bytes_max`: beyond it the kernel refuses memory; `cores`: the only ones it may
    use.
    """

    path: Path
    runtime: str = "onnx"
    threads: int = 1
    providers: tuple[str, ...] = ()
    parameters: Mapping[str, Value] | None = None
    inputs: tuple[Spec, ...] = ()
    memory_bytes_max: int | None = None
    cores: tuple[int, ...] = ()
    start_seconds: float = START_SECONDS_MAX
    request_seconds: float = REQUEST_SECONDS_MAX

    def fields(self) -> dict[str, Any]:
        """Return the fields as the worker reads them.

        Raises:
            Refused: RUNTIME_ABSENT.
        """
        return {
            "path": str(self.path.resolve()),
            "target": target_of(self.runtime),
            "threads": self.threads,
            "providers": list(self.providers),
            "parameters": dict(self.parameters or {}),
            "inputs": self.inputs,
            "memory_bytes_max": self.memory_bytes_max,
            "cores": list(self.cores),
        }


@cache
def _runtimes() -> dict[str, str]:
    return available()


def target_of(runtime: str) -> str:
    """Return where a runtime is found.

    Raises:
        Refused: RUNTIME_ABSENT, naming what is there.
    """
    found = _runtimes()
    if runtime not in found:
        raise Refused(Code.RUNTIME_ABSENT, f"the runtime {runtime!r} is not installed here; installed are {', '.join(found) or 'none'}")
    return found[runtime]


class Runner(Protocol):
    """Answer from a loaded model: a worker process, or the agent itself where a device is too small for two."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    platform: str
    chats: bool
    rows_apart: bool

    @property
    def process_id(self) -> int:
        """Return the id of the process that the model is in."""

    @property
    def alive(self) -> bool:
        """Return whether requests can still be sent."""

    @property
    def waiting(self) -> int:
        """Return requests without an answer yet."""

    def watch(self, on_exit: Callable[[Code, str], None]) -> None:
        """Have `on_exit(code, reason)` called once when it ends without having been closed, also when it has already."""

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Value] | None = None) -> tuple[Raw, ...]:
        """Return the model's outputs for these inputs."""

    async def chat(
        self, body: Mapping[str, Any], parameters: Mapping[str, Value], report: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        """Return one turn of a conversation; `report` is called with each chunk of a stream. Cancelling ends the generation."""

    async def memory_bytes(self) -> int:
        """Return the most memory that its process has held."""

    async def drained(self, seconds_max: float) -> bool:
        """Wait until nothing waits for an answer; False when that took too long."""

    async def close(self) -> None:
        """Give everything back."""


class Worker(asyncio.Protocol):
    """Drive one live worker process with its model loaded. Made by `Worker.start`; `inputs` and `outputs` are the model's own."""

    inputs: tuple[Spec, ...] = ()
    outputs: tuple[Spec, ...] = ()
    platform: str = ""
    chats: bool = False
    rows_apart: bool = False

    def __init__(self, process: subprocess.Popen[bytes], cancels: int, memory_bytes_max: int | None) -> None:
        self._process = process
        self._memory_bytes_max = memory_bytes_max
        self._cancels = cancels  # the pipe on which requests are given up
        self._parts: dict[int, Callable[[Mapping[str, Any]], None]] = {}
        self._on_exit: Callable[[Code, str], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = Assembler()
        self._pending: dict[int, asyncio.Future[Frame]] = {}  # oldest first, which is the order in which they are answered
        self._next_id = 0
        self._patience_seconds = START_SECONDS_MAX
        self._progress = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._cause: tuple[Code, str] | None = None
        self._closing = False
        self._gone: asyncio.Future[tuple[Code, str]] = self._loop.create_future()

    @classmethod
    async def start(cls, load: Load, *, urgent: bool = False) -> "Worker":
        """Return a worker that has loaded the model: on processors that nobody else wants, unless it is urgent.

        Raises:
            Refused: MODEL_LOAD, MODEL_TOO_LARGE, RUNTIME_ABSENT, WORKER_CRASHED (also when no process can be started) or WORKER_HUNG.
        """
        if not urgent and load.start_seconds > QUIET_SECONDS_MAX:
            try:
                return await cls._start(load, QUIET_SECONDS_MAX, quiet=True)
            except Refused as refusal:
                if refusal.code is not Code.WORKER_HUNG:
                    raise
        return await cls._start(load, load.start_seconds, quiet=False)

    @classmethod
    async def _start(cls, load: Load, start_seconds: float, *, quiet: bool) -> "Worker":
        fields = load.fields()
        try:
            process, ours, cancels = await _started(load.threads, QUIET if quiet else LOUD)
        except OSError as error:
            raise Refused(Code.WORKER_CRASHED, f"no worker process could be started: {error.strerror}") from None
        worker = cls(process, cancels, load.memory_bytes_max)
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        try:
            worker._be_patient(start_seconds)
            loaded = await worker._ask("load", fields)
        except BaseException:
            await worker.close()
            raise
        worker._be_patient(load.request_seconds)
        worker.inputs, worker.outputs = (_specs(loaded.fields[side]) for side in ("inputs", "outputs"))
        worker.platform, worker.chats = str(loaded.fields["platform"]), bool(loaded.fields["chats"])
        worker.rows_apart = bool(loaded.fields["rows_apart"])
        return worker

    def watch(self, on_exit: Callable[[Code, str], None]) -> None:
        """Have `on_exit(code, reason)` called once when the worker ends without having been closed, also when it has already."""
        self._on_exit = on_exit
        if self._gone.done() and not self._closing:
            self._loop.call_soon(on_exit, *self._gone.result())

    @property
    def process_id(self) -> int:
        """Return the id of the worker process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether requests can still be sent."""
        return not self._closing and self._transport is not None

    @property
    def waiting(self) -> int:
        """Return requests without an answer yet."""
        return len(self._pending)

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Value] | None = None) -> tuple[Raw, ...]:
        """Return the model's outputs for these inputs. The request is on its way before this first awaits.

        Raises:
            Refused: REQUEST_INVALID, MODEL_RUN or MODEL_TOO_LARGE from the runtime.
            WorkerLost: WORKER_CRASHED or WORKER_HUNG; another worker may answer.
        """
        return (await self._ask("infer", {"parameters": parameters} if parameters else {}, tensors)).tensors

    async def chat(
        self, body: Mapping[str, Any], parameters: Mapping[str, Value], report: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        """Return one turn of a conversation; `report` takes each chunk of a stream. When its caller is cancelled, so is the generation.

        Raises:
            Refused, WorkerLost: as `infer`.
        """
        id = self._next_id
        self._parts[id] = report
        try:
            answer: Mapping[str, Any] = (await self._ask("chat", {"body": body, "parameters": parameters})).fields["body"]
        except asyncio.CancelledError:
            with suppress(OSError):  # full, or closed: the answer's own bound ends it
                os.write(self._cancels, CANCEL.pack(id))
            raise
        finally:
            del self._parts[id]
        return answer

    async def memory_bytes(self) -> int:
        """Return the most memory that the worker has held.

        Raises:
            WorkerLost: the worker is gone.
        """
        return int((await self._ask("memory", {})).fields["bytes"])

    async def drained(self, seconds_max: float) -> bool:
        """Wait until nothing waits for an answer; False when that took too long."""
        waiting = [future for future in self._pending.values() if not future.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds_max)
        return not self._pending

    async def close(self) -> None:
        """End the process and wait until it is gone; what still waits for an answer fails with `WorkerLost`."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        await asyncio.shield(self._gone)

    def _ask(self, kind: str, fields: dict[str, Any], tensors: Sequence[Raw] = ()) -> asyncio.Future[Frame]:
        future: asyncio.Future[Frame] = self._loop.create_future()
        if self._closing or self._transport is None:
            future.set_exception(WorkerLost(Code.WORKER_CRASHED, "the worker is gone", suspect=False))
            return future
        id, self._next_id = self._next_id, self._next_id + 1
        try:
            buffers = encode(id, kind, fields, tensors)
        except Malformed as error:
            future.set_exception(Refused(Code.SCHEMA_TOO_LARGE, str(error)))
            return future
        if not self._pending:
            self._progress = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_at(self._progress + self._patience_seconds, self._look)
        self._pending[id] = future
        write_gathered(self._transport, buffers)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hear from asyncio: the socket is ours."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hear from asyncio: bytes of answers."""
        try:
            for frame in self._frames.feed(data):
                self._answered(frame)
        except (Malformed, ValueError, KeyError) as error:
            self._kill(Code.WORKER_CRASHED, f"the worker wrote what is no answer: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear from asyncio: the worker ended, or is being closed."""
        self._transport = None  # nobody sends to it while it is being reaped
        if self._watch is not None:
            self._watch.cancel()
        self._process.kill()  # it may still be inside an inference
        self._loop.create_task(self._reap())

    def _answered(self, frame: Frame) -> None:
        self._progress = self._loop.time()
        if frame.kind == "part":
            if frame.id in self._parts:
                self._parts[frame.id](frame.fields["chunk"])
            return
        future = self._pending.pop(frame.id)
        if future.done():  # its caller was cancelled
            return
        if frame.kind == "error":
            future.set_exception(Refused(Code(frame.fields["code"]), str(frame.fields["reason"])))
        else:
            future.set_result(frame)

    def _be_patient(self, seconds: float) -> None:
        if self._watch is not None:  # it is set for the end of a longer patience
            self._watch.cancel()
            self._watch = None
        self._patience_seconds = seconds

    def _look(self) -> None:
        """Look at the clock by one timer per worker, not per request: it fires when it might be late, and is set again for when it really
        would be.
        """
        self._watch = None
        if not self._pending:
            return
        due = self._progress + self._patience_seconds
        if self._loop.time() >= due:
            self._kill(Code.WORKER_HUNG, f"no answer from the worker in {self._patience_seconds:g} seconds")
        else:
            self._watch = self._loop.call_at(due, self._look)

    def _kill(self, code: Code, reason: str) -> None:
        self._cause = self._cause or (code, reason)
        self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def _reap(self) -> None:
        try:
            status = await asyncio.to_thread(self._process.wait, REAP_SECONDS_MAX)
            ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        except subprocess.TimeoutExpired:
            status, ended = 0, "killed, but the kernel still holds it"
        os.close(self._cancels)
        if status == -signal.SIGABRT and self._memory_bytes_max is not None:  # how C++ ends when nobody expects that memory is refused
            ended += f", as when a model asks for more memory than its limit of {self._memory_bytes_max} bytes"
        code, reason = self._cause or (Code.WORKER_CRASHED, "the worker was closed" if self._closing else f"the worker process was {ended}")
        for position, future in enumerate(self._pending.values()):
            if not future.done():
                future.set_exception(WorkerLost(code, reason, suspect=position == 0 and not self._closing))
        self._pending.clear()
        self._gone.set_result((code, reason))
        if self._on_exit is not None and not self._closing:
            self._on_exit(code, reason)


async def _started(threads: int, how: str) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Return a new process, our end of its socket, and of the pipe on which it hears what is given up.

    Raises:
        OSError: no process or descriptor is to be had.
    """
    with ExitStack() as ours:
        socket_ours, socket_theirs = socket.socketpair()
        ours.enter_context(socket_ours)
        ours.enter_context(socket_theirs)  # closed twice is closed
        cancels_theirs, cancels = os.pipe()
        ours.callback(os.close, cancels)
        spawning = asyncio.get_running_loop().run_in_executor(_SPAWNER, _spawn, socket_theirs, cancels_theirs, threads, how)
        try:
            process = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            with suppress(OSError):
                process = await spawning
                process.kill()
                process.wait()
            raise
        socket_ours.setblocking(False)
        os.set_blocking(cancels, False)
        ours.pop_all()
    return process, socket_ours, cancels


def _spawn(theirs: socket.socket, cancels: int, threads: int, how: str) -> subprocess.Popen[bytes]:
    """Start the process and close our copies of its ends of the socket and the pipe."""
    root = str(Path(__file__).resolve().parents[2])  # where the package `node` lies
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": root,
        # numpy's BLAS would start a thread a core at import, in a process that never multiplies with it.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    with theirs:
        try:
            return subprocess.Popen(
                # -P: a file in the folder where the agent happens to stand must not shadow a module.
                [sys.executable, "-P", "-m", "node.workers.worker_bootstrap", str(theirs.fileno()), str(cancels), str(os.getpid()), how],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), cancels],
                env=environment,
            )
        finally:
            os.close(cancels)


def _specs(listed: Sequence[Sequence[Any]]) -> tuple[Spec, ...]:
    return tuple(Spec(str(name), str(datatype), tuple(int(axis) for axis in shape)) for name, datatype, shape in listed)

"""Run a model inside the agent's own process (`isolation = "inline"`), for a device without the memory for a second Python.

What a worker process gives is given up: a model that crashes or leaks takes the agent with it, memory is not bounded, and one that hangs
cannot be ended, only left behind with its thread (docs/decisions/0012). The same runtimes and calls otherwise; one thread runs them.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from node.core.inference.tensors import Raw, aligned_array, raw_of
from node.runtimes import Chats, Runtime
from node.workers.worker_handle import Load, WorkerLost
from node.workers.worker_main import line_of, make, memory_bytes_peak
from schemas.errors import Code, Refused
from schemas.parameters import Value

CLOSE_SECONDS_MAX: Final = 5.0  # for the request that runs; then the thread is left behind


class Thread:
    """Run one call after the other, as a daemon: a model that never returns must not keep the agent from ending."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="inline-model", daemon=True).start()

    def call(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Return what `work` returns or raises."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.put((work, future))
        return future

    def end(self) -> None:
        """End after what is in the queue."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, future = call
            if future.cancelled():
                continue
            try:
                outcome, error = work(), None
            except BaseException as caught:
                outcome, error = None, caught
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_settle, future, outcome, error)
            del work, future, outcome, error, call  # a model that was dropped must not live on in this frame


def _settle(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)


class Inline:
    """Run a loaded model and the thread that runs it. Made by `Inline.start`."""

    def __init__(self, runtime: Runtime, thread: Thread, load: Load) -> None:
        signature = runtime.describe()
        self.inputs, self.outputs, self.platform = signature.inputs, signature.outputs, signature.platform
        self.chats, self.rows_apart = isinstance(runtime, Chats), signature.rows_apart
        self._runtime, self._thread = runtime, thread
        self._patience_seconds = load.request_seconds
        self._pending: set[asyncio.Future[Any]] = set()
        self._on_exit: Callable[[Code, str], None] | None = None
        self._closed = False
        self._progress = 0.0

    @classmethod
    async def start(cls, load: Load) -> "Inline":
        """Return a model that is loaded here.

        Raises:
            Refused: MODEL_LOAD, RUNTIME_ABSENT or WORKER_HUNG.
        """
        thread, fields = Thread(), load.fields()
        try:
            runtime = await asyncio.wait_for(thread.call(lambda: make(fields)), load.start_seconds)
        except BaseException as error:
            thread.end()
            if isinstance(error, TimeoutError):
                raise Refused(Code.WORKER_HUNG, f"the model was not loaded in {load.start_seconds:g} seconds") from None
            if isinstance(error, MemoryError):
                raise Refused(Code.MODEL_TOO_LARGE, "the model asks for more memory than the agent can have") from None
            raise
        return cls(runtime, thread, load)

    @property
    def process_id(self) -> int:
        """Return the agent's own process id."""
        return os.getpid()

    @property
    def alive(self) -> bool:
        """Return True until it is closed, or hangs."""
        return not self._closed

    @property
    def waiting(self) -> int:
        """Return requests without an answer yet."""
        return len(self._pending)

    def watch(self, on_exit: Callable[[Code, str], None]) -> None:
        """Do nothing but keep the listener: it ends with the agent, or when it hangs."""
        self._on_exit = on_exit

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Value] | None = None) -> tuple[Raw, ...]:
        """Return the model's outputs for these inputs.

        Raises:
            Refused: REQUEST_INVALID or MODEL_RUN from the runtime.
            WorkerLost: it was closed, or hangs.
        """
        inputs = {raw.name: aligned_array(raw) for raw in tensors}
        answers = await self._run(lambda: self._runtime.infer(inputs, parameters or {}))
        if len(answers) != len(self.outputs):
            raise Refused(Code.MODEL_RUN, f"outputs: expected {len(self.outputs)}, the runtime gave {len(answers)}")
        return tuple(raw_of(spec.name, answer) for spec, answer in zip(self.outputs, answers, strict=True))

    async def chat(
        self, body: Mapping[str, Any], parameters: Mapping[str, Value], report: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        """Return one turn of a conversation; cancelling ends the generation.

        Raises:
            Refused, WorkerLost: as `infer`.
        """
        runtime, loop = self._runtime, asyncio.get_running_loop()
        given_up = False

        def heard(chunk: Mapping[str, Any]) -> None:
            self._progress = loop.time()
            if not given_up:
                report(chunk)

        def on_chunk(chunk: Mapping[str, Any]) -> bool:
            loop.call_soon_threadsafe(heard, chunk)
            return not given_up

        if not isinstance(runtime, Chats):
            raise Refused(Code.REQUEST_INVALID, "this model holds no conversations")
        try:
            answer: Mapping[str, Any] = await self._run(lambda: runtime.chat(body, parameters, on_chunk))
        finally:
            given_up = True
        return answer

    async def memory_bytes(self) -> int:
        """Return the most that the agent has held, this model and all."""
        return memory_bytes_peak()

    async def drained(self, seconds_max: float) -> bool:
        """Wait until nothing waits for an answer; False when that took too long."""
        if self._pending:
            await asyncio.wait(list(self._pending), timeout=seconds_max)
        return not self._pending

    async def close(self) -> None:
        """Drop the model once the request that runs has ended, or leave both behind."""
        if self._closed:
            return
        self._closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._thread.call(self._runtime.close), CLOSE_SECONDS_MAX)
        self._thread.end()
        del self._runtime

    async def _run(self, work: Callable[[], Any]) -> Any:
        if self._closed:
            raise WorkerLost(Code.WORKER_CRASHED, "the model was closed", suspect=False)
        loop = asyncio.get_running_loop()
        if not self._pending:
            self._progress = loop.time()
        future = self._thread.call(work)
        first = not self._pending
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            while True:
                done, _ = await asyncio.wait((future,), timeout=max(0.0, self._progress + self._patience_seconds - loop.time()))
                if done:
                    break
                if loop.time() >= self._progress + self._patience_seconds:
                    self._hangs()
                    raise WorkerLost(Code.WORKER_HUNG, f"no answer from the model in {self._patience_seconds:g} seconds", suspect=first)
            self._progress = loop.time()
            return future.result()
        except asyncio.CancelledError:
            future.cancel()
            raise
        except (Refused, WorkerLost):
            raise
        except Exception as error:
            raise Refused(Code.MODEL_RUN, f"the runtime failed on these inputs: {line_of(error)}") from None

    def _hangs(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._thread.end()
        if self._on_exit is not None:
            self._on_exit(Code.WORKER_HUNG, f"no answer from the model in {self._patience_seconds:g} seconds; its thread is left behind")

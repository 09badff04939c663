"""A model inside the agent's own process (`isolation = "inline"`), for a device without the memory for a second Python.

What a worker process gives is given up: a model that crashes or leaks takes the agent with it, a hanging one cannot be ended, and memory is
not bounded (docs/decisions/0009). The same runtimes and the same calls otherwise; one thread runs them.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from node.core.tensors import Raw, array_of, raw_of
from node.runtimes import Chats, Runtime
from node.worker import make, memory_bytes_peak
from node.workers import Load, WorkerLost
from schemas.errors import Code, Refused
from schemas.parameters import Value


class Inline:
    """A loaded model and the thread that runs it. Made by `Inline.start`."""

    def __init__(self, runtime: Runtime, thread: ThreadPoolExecutor) -> None:
        signature = runtime.describe()
        self.inputs, self.outputs, self.platform = signature.inputs, signature.outputs, signature.platform
        self.chats = isinstance(runtime, Chats)
        self._runtime, self._thread = runtime, thread
        self._pending: set[asyncio.Future[Any]] = set()
        self._closed = False

    @classmethod
    async def start(cls, load: Load) -> "Inline":
        """A model that is loaded here.

        Raises:
            Refused: MODEL_LOAD or RUNTIME_ABSENT.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inline-model")
        try:
            runtime = await asyncio.get_running_loop().run_in_executor(thread, make, load.fields(quiet=False))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(runtime, thread)

    @property
    def process_id(self) -> int:
        """The agent's own."""
        return os.getpid()

    @property
    def alive(self) -> bool:
        """Until it is closed."""
        return not self._closed

    @property
    def waiting(self) -> int:
        """Requests without an answer yet."""
        return len(self._pending)

    def watch(self, on_exit: Callable[[Code, str], None]) -> None:
        """It ends with the agent only."""

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Value] | None = None) -> tuple[Raw, ...]:
        """The model's outputs for these inputs.

        Raises:
            Refused: REQUEST_INVALID or MODEL_RUN from the runtime.
            WorkerLost: it was closed.
        """
        inputs = {raw.name: array_of(raw) for raw in tensors}
        answers = await self._run(lambda: self._runtime.infer(inputs, parameters or {}))
        return tuple(raw_of(spec.name, answer) for spec, answer in zip(self.outputs, answers, strict=True))

    async def chat(
        self, body: Mapping[str, Any], parameters: Mapping[str, Value], say: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        """One turn of a conversation."""
        runtime, loop = self._runtime, asyncio.get_running_loop()
        given_up = False

        def tell(chunk: Mapping[str, Any]) -> bool:
            loop.call_soon_threadsafe(say, chunk)
            return not given_up

        if not isinstance(runtime, Chats):
            raise Refused(Code.REQUEST_INVALID, "this model holds no conversations")
        try:
            answer: Mapping[str, Any] = await self._run(lambda: runtime.chat(body, parameters, tell))
        except asyncio.CancelledError:
            given_up = True
            raise
        return answer

    async def memory_bytes(self) -> int:
        """The most that the agent has held, this model and all."""
        return memory_bytes_peak()

    async def drained(self, seconds_max: float) -> bool:
        """Wait until nothing waits for an answer; False when that took too long."""
        if self._pending:
            await asyncio.wait(list(self._pending), timeout=seconds_max)
        return not self._pending

    async def close(self) -> None:
        """Drop the model once the request that runs has ended."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._runtime.close)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], Any]) -> Any:
        if self._closed:
            raise WorkerLost(Code.WORKER_CRASHED, "the model was closed", suspect=False)
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            return await future
        except Refused:
            raise
        except Exception as error:  # a worker would have died of it
            raise Refused(Code.MODEL_RUN, f"the model failed: {type(error).__name__}") from error

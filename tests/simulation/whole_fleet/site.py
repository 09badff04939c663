"""What an agent serves through in a simulated fleet: the real server, pool and routes on a loop in virtual time, without a socket.

Workers are stand-ins. What a release does is in its file: one that loads and answers, one that fails its test, one that dies when it has
served for a while, one that loads slowly.
"""

import asyncio
import json
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from node.core.inference.tensors import DTYPES, Raw, Spec, raw_of
from node.serving.activation import Staged, specs_of
from node.serving.server import Server
from node.serving.worker_pool import WorkerPool
from node.workers.worker_handle import WorkerLost
from schemas.errors import Code, Refused
from tests.simulation.whole_fleet.world import PowerCutError, World

SLOW_SECONDS, CRASH_SECONDS = 25.0, 6.0


class SimLoop(BaseEventLoop):
    """asyncio in virtual time: nothing is waited for, and what another thread would do is done at once."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._selector = self
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._world.now

    def select(self, timeout: float | None = None) -> list[object]:
        return []

    def _process_events(self, events: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: ThreadPoolExecutor | None, func: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*arguments))
        except PowerCutError:
            raise
        except BaseException as error:
            future.set_exception(error)
        return future

    def pump(self) -> None:
        """Do all that can be done by now."""
        while self._ready or (self._scheduled and self._scheduled[0].when() <= self._world.now):
            self.call_soon(self.stop)
            self.run_forever()

    def next_at(self) -> float | None:
        return self._scheduled[0].when() if self._scheduled else None


@dataclass(eq=False)
class SimWorker:
    """A worker that answers with zeros, once it is warm, until it dies."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    kind: str
    platform: str = "simulated"
    chats: bool = False
    rows_apart: bool = False
    process_id: int = 1
    alive: bool = True
    waiting: int = 0
    closed: bool = False
    on_exit: Callable[[Code, str], None] | None = None
    death: tuple[Code, str] | None = None

    def watch(self, on_exit: Callable[[Code, str], None]) -> None:
        self.on_exit = on_exit
        if self.death is not None:
            on_exit(*self.death)

    async def infer(self, tensors: Sequence[Raw], parameters: Mapping[str, Any] | None = None) -> tuple[Raw, ...]:
        if not self.alive:
            raise WorkerLost(Code.WORKER_CRASHED, "it is gone", suspect=False)
        if self.kind == "broken":
            raise Refused(Code.MODEL_RUN, "this one fails at every row")
        rows = tensors[0].shape[0] if tensors else 1
        return tuple(
            raw_of(spec.name, np.zeros(tuple(rows if axis < 0 else axis for axis in spec.shape), DTYPES[spec.datatype]))
            for spec in self.outputs
        )

    async def memory_bytes(self) -> int:
        return 1

    async def drained(self, seconds_max: float) -> bool:
        return True

    async def close(self) -> None:
        self.alive, self.closed = False, True

    def die(self, reason: str = "killed by signal 9") -> None:
        if self.alive:
            self.alive = False
            self.death = (Code.WORKER_CRASHED, reason)
            if self.on_exit is not None:
                self.on_exit(*self.death)


@dataclass(eq=False)
class Site:
    """Everything that one agent process serves; `switched` hears of every switch."""

    world: World
    switched: Callable[[str, bytes], None]
    loop: SimLoop = field(init=False)
    workers: list[SimWorker] = field(default_factory=list)
    server: "SimServer | None" = None

    def __post_init__(self) -> None:
        self.loop = SimLoop(self.world)

    def make(self, *arguments: Any, **named: Any) -> "SimServer":
        self.server = SimServer(self, *arguments, **named)
        return self.server

    async def start(self, staged: Staged, *, urgent: bool = False) -> SimWorker:
        kind = staged.model_path.read_bytes().split(b" ")[2].decode()
        await asyncio.sleep(SLOW_SECONDS if kind == "slow" else 0.3)
        worker = SimWorker(specs_of(staged.manifest.inputs), specs_of(staged.manifest.outputs), kind)
        self.workers.append(worker)
        if kind == "crashing":
            asyncio.get_running_loop().call_later(CRASH_SECONDS, worker.die)
        return worker

    def end(self) -> None:
        """The process is gone, with all that it had begun."""
        self.workers.clear()
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop._ready.clear()
        self.loop._scheduled.clear()
        self.loop.close()


class SimServer(Server):
    """The real one, on a loop that is pumped."""

    def __init__(self, site: Site, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, start=site.start, **named)
        self._site = site
        self._pool.switch = self._switched(self._pool)  # type: ignore[method-assign]

    def _switched(self, pool: WorkerPool) -> Callable[[str, bytes], None]:
        def switch(model: str, digest: bytes) -> None:
            WorkerPool.switch(pool, model, digest)
            self._site.switched(model, digest)

        return switch

    def start(self) -> None:
        self._loop = self._site.loop

    def stop(self) -> None:
        self._loop = None

    def _running(self) -> asyncio.AbstractEventLoop:
        return self._site.loop

    def _call(self, work: Callable[[], Any]) -> Any:
        found: list[Any] = []

        def on_loop() -> None:
            try:
                found.append((work(), None))
            except Exception as error:
                found.append((None, error))

        loop = self._site.loop
        if loop.is_running():
            return work()
        loop.call_soon(on_loop)
        while not found:
            loop.call_soon(loop.stop)
            loop.run_forever()
        result, error = found[0]
        if error is not None:
            raise error
        return result

    def ask(self, model: str, value: float = 0.0) -> tuple[int, str]:
        """Ask over the routes as a client does; return the status and the version that answered, or the error."""
        held = self._pool.slots.get(model)
        inputs = held.current.inputs if held is not None and held.current is not None else (Spec("x", "FP32", (-1, 3)),)
        body = json.dumps(
            {
                "inputs": [
                    {"name": spec.name, "datatype": spec.datatype, "shape": [1, *spec.shape[1:]], "data": [value] * spec.shape[1]}
                    for spec in inputs
                ]
            }
        ).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": f"/v2/models/{model}/infer",
            "raw_path": f"/v2/models/{model}/infer".encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        loop = self._site.loop
        task = loop.create_task(self._app(scope, receive, send))  # type: ignore[arg-type]
        loop.pump()
        if not task.done():
            task.cancel()
            loop.pump()
            return 0, "no answer yet"
        task.result()
        status = int(sent[0]["status"])
        answer = json.loads(b"".join(one.get("body", b"") for one in sent[1:]) or b"{}")
        return status, str(answer.get("model_version") if status == 200 else answer.get("error"))

"""Which worker answers which request. Knows no HTTP.

One slot per model, holding the releases whose workers are warm; one of them is current. A request picks its release and sends to its worker
without awaiting in between, so that a switch falls between two requests and never inside one. Everything here runs on one loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from node.core.oip import Request, parse_request
from node.core.tensors import Array, Raw, Spec, array_of, rows_of
from node.serving.activation import Activated, Staged, specs_of, warm
from node.workers import Worker, WorkerLost
from schemas.errors import Code, Refused, Unreachable
from schemas.receipt import Evidence

log = structlog.get_logger(__name__)

QUEUE_REQUESTS_MAX: Final = 256  # a model, begun and unanswered; beyond it a client had better come back than wait
READY_SECONDS_MAX: Final = 10.0  # a request waits so long for a crashed worker's successor
DRAIN_SECONDS_MAX: Final = 30.0  # a retired worker's last requests; no longer than a hung one is waited for
RESTART_SECONDS_MAX: Final = 60.0  # between attempts to start a worker that keeps dying; the first follows at once
HEALTHY_SECONDS: Final = 60.0  # after which a worker's earlier deaths are forgotten
SUSPICIONS_MAX: Final = 2  # a request that was being computed when two workers died is not tried on a third
LATENCIES_KEPT: Final = 2048


class Busy(Unreachable):
    """No worker can take the request now; the same request may succeed in a moment."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a release has done since it was switched to. `errors`: requests that failed through no fault of the client."""

    requests: int
    errors: int
    latency_ms_p50: float
    latency_ms_p99: float


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered request, for telemetry: arrays by tensor name, read-only views. `event_time` is the client's, in Unix seconds."""

    model: str
    digest: bytes
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rows: int
    event_time: float | None


class Answer(NamedTuple):
    """An answered request, and the one release that answered it."""

    held: "Held"
    request: Request
    outputs: tuple[Raw, ...]

    def observation(self) -> Observation:
        """What telemetry may count."""
        return Observation(
            model=self.held.staged.model,
            digest=self.held.staged.digest,
            inputs={raw.name: array_of(raw) for raw in self.request.inputs},
            outputs={raw.name: array_of(raw) for raw in self.outputs},
            rows=rows_of(self.held.inputs, self.request.inputs),
            event_time=self.request.event_time,
        )


@dataclass(eq=False)
class Held:
    """A release with its worker; None while a dead one is being replaced."""

    staged: Staged
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    worker: Worker | None = None
    evidence: Evidence = field(default_factory=Evidence)
    sample: tuple[Raw, ...] = ()
    switched: bool = False  # only what was once proven in service is addressable by its version
    retired: bool = False
    deaths: int = 0
    started: float = 0.0
    requests: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))


@dataclass(eq=False)
class Slot:
    """A model's releases by digest."""

    held: dict[bytes, Held] = field(default_factory=dict)
    current: Held | None = None
    waiting: int = 0
    expected: bool = False  # a release is on its way back after a restart: requests wait for it
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Router:
    """Slots by model name. `on_worker_exit(model, digest, reason)` hears of every worker that ends by itself."""

    def __init__(self, on_worker_exit: Callable[[str, bytes, str], None]) -> None:
        self.slots: dict[str, Slot] = {}
        self._on_worker_exit = on_worker_exit
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, model: str, version: str | None) -> Held:
        """The release that a request for this model, and perhaps version, is for.

        Raises:
            Refused: RELEASE_UNKNOWN, naming what is served.
            Busy: the model is known, and nothing of it is served yet.
        """
        slot = self.slots.get(model)
        if slot is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"model {model[:64]!r} is not served here; served are {self.models() or 'none'}")
        if version is None or (slot.current is not None and slot.current.staged.version == version):
            if slot.current is None:
                raise Busy(f"no release of model {model!r} is active yet")
            return slot.current
        for held in slot.held.values():
            if held.staged.version == version and held.switched:
                return held
        raise Refused(Code.RELEASE_UNKNOWN, f"version {version[:64]!r} of model {model!r} is not served; served are {self.versions(model)}")

    def expect(self, model: str) -> None:
        """Have requests for this model wait until a release of it is switched to, instead of being told that there is none."""
        self.slots.setdefault(model, Slot()).expected = True

    def models(self) -> list[str]:
        """Names of the models with a current release."""
        return sorted(model for model, slot in self.slots.items() if slot.current is not None)

    def versions(self, model: str) -> list[str]:
        """Versions of a model that can be asked by name."""
        return [held.staged.version for held in self.slots[model].held.values() if held.switched]

    def ready(self) -> bool:
        """Whether something is served, and all that is served has a live worker."""
        current = [slot.current for slot in self.slots.values() if slot.current is not None]
        return bool(current) and all(held.worker is not None for held in current)

    async def answer(self, model: str, version: str | None, body: bytes, header_bytes: int | None) -> Answer:
        """The current release's answer, or that of the version asked for.

        A request whose worker dies is sent again, to whatever is current then: inference is idempotent.

        Raises:
            Refused: the request is wrong or too large, or its model, version is unknown; MODEL_RUN, WORKER_CRASHED, WORKER_HUNG.
            Busy: nothing can answer it now.
        """
        slot = self.slots.get(model)
        if slot is None or not slot.expected:
            self.find(model, version)
            slot = self.slots[model]
        if slot.waiting >= QUEUE_REQUESTS_MAX:
            raise Busy(f"{slot.waiting} requests for model {model!r} wait already")
        slot.waiting += 1
        try:
            return await self._answer(model, version, body, header_bytes)
        finally:
            slot.waiting -= 1

    async def _answer(self, model: str, version: str | None, body: bytes, header_bytes: int | None) -> Answer:
        deadline = time.monotonic() + READY_SECONDS_MAX
        suspicions = 0
        while self.slots[model].expected:
            await _until_changed(self.slots[model], deadline, model)
        while True:
            held = self.find(model, version)
            request = parse_request(body, header_bytes=header_bytes, inputs=held.inputs, outputs=held.outputs)
            if held.worker is None or not held.worker.alive:
                await _until_changed(self.slots[model], deadline, model)
                continue
            began = time.perf_counter()
            try:
                outputs = await held.worker.infer(request.inputs)
            except WorkerLost as lost:
                suspicions += lost.suspect
                if (lost.code is Code.WORKER_HUNG and lost.suspect) or suspicions >= SUSPICIONS_MAX:
                    _failed(held)
                    raise
                continue
            except Refused as refusal:
                if refusal.code is not Code.REQUEST_INVALID:
                    _failed(held)
                raise
            held.requests += 1
            held.latencies.append(time.perf_counter() - began)
            return Answer(held, request, outputs)

    def hold(self, staged: Staged, activated: Activated) -> None:
        """Keep a proven worker warm."""
        slot = self.slots.setdefault(staged.model, Slot())
        held = Held(staged, specs_of(staged.manifest.inputs), specs_of(staged.manifest.outputs))
        held.evidence, held.sample = activated.evidence, activated.sample
        slot.held[staged.digest] = held
        self._install(held, activated.worker)

    def lookup(self, digest: bytes) -> Held | None:
        """The release held under this digest."""
        return next((slot.held[digest] for slot in self.slots.values() if digest in slot.held), None)

    def switch(self, model: str, digest: bytes) -> None:
        """Make a held release the current one; the same one twice is nothing.

        Raises:
            Refused: RELEASE_UNKNOWN when it is not held; WORKER_CRASHED when its worker has died since it was prepared.
        """
        slot = self.slots.get(model)
        held = slot.held.get(digest) if slot else None
        if slot is None or held is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"release {digest.hex()[:16]} of model {model!r} is not prepared")
        if slot.current is held:
            return
        if held.worker is None or not held.worker.alive:
            raise Refused(
                Code.WORKER_CRASHED, f"the worker of release {held.staged.version} of model {model!r} has died since it was prepared"
            )
        slot.current, held.switched, slot.expected = held, True, False
        held.requests, held.errors = 0, 0
        held.latencies.clear()
        _announce(slot)
        log.info("release.switched", model=model, version=held.staged.version, digest=digest.hex()[:16])

    def retire(self, digest: bytes) -> None:
        """Stop addressing a release, and close its worker once it has answered what it has."""
        held = self.lookup(digest)
        if held is None:
            return
        slot = self.slots[held.staged.model]
        del slot.held[digest]
        held.retired = True
        if slot.current is held:
            slot.current = None
        if not slot.held:
            del self.slots[held.staged.model]
        _announce(slot)
        self._spawn(self._drain(held))

    def stats(self, model: str, digest: bytes) -> Stats:
        """What a held release has done since it was switched to.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        held = self.slots[model].held.get(digest) if model in self.slots else None
        if held is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"release {digest.hex()[:16]} of model {model!r} is not held")
        ordered = sorted(held.latencies) or [0.0]
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 for share in (0.5, 0.99))
        return Stats(held.requests + held.errors, held.errors, p50, p99)

    async def close(self) -> None:
        """End every worker."""
        everything = [held for slot in self.slots.values() for held in slot.held.values()]
        self.slots.clear()
        for held in everything:
            held.retired = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(held.worker.close() for held in everything if held.worker))

    def died(self, held: Held, code: Code, reason: str) -> None:
        """A held release's worker ended by itself: report it, and start another."""
        if held.retired:
            return
        if time.monotonic() - held.started > HEALTHY_SECONDS:
            held.deaths = 0
        held.deaths += 1
        held.worker = None
        model, digest = held.staged.model, held.staged.digest
        log.error("worker.exited", model=model, version=held.staged.version, code=code, reason=reason, deaths=held.deaths)
        self._spawn(self._restart(held))
        self._on_worker_exit(model, digest, f"{reason} [{code}]")

    def _install(self, held: Held, worker: Worker) -> None:
        held.worker, held.started = worker, time.monotonic()
        worker.watch(lambda code, reason: self.died(held, code, reason))
        slot = self.slots.get(held.staged.model)
        if slot is not None:
            _announce(slot)

    async def _restart(self, held: Held) -> None:
        """The same bytes proved themselves before: they are loaded and warmed up, not tested again."""
        while not held.retired:
            if held.deaths > 1:
                await asyncio.sleep(min(RESTART_SECONDS_MAX, 0.5 * 2 ** (held.deaths - 2)))
            try:
                worker = await Worker.start(held.staged.model_path, runtime=held.staged.runtime, threads=held.staged.threads)
            except Refused as refusal:
                held.deaths += 1
                log.warning("worker.not_restarted", model=held.staged.model, code=refusal.code, reason=refusal.reason)
                continue
            try:
                await warm(worker, held.sample)
            except BaseException as error:
                await worker.close()
                if not isinstance(error, Refused):
                    raise
                held.deaths += 1
                continue
            if held.retired:
                await worker.close()
                return
            self._install(held, worker)
            return

    async def _drain(self, held: Held) -> None:
        worker = held.worker
        if worker is not None:
            if not await worker.drained(DRAIN_SECONDS_MAX):
                log.warning("worker.not_drained", model=held.staged.model, version=held.staged.version, waiting=worker.waiting)
            await worker.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)


def _failed(held: Held) -> None:
    held.errors += 1


def _announce(slot: Slot) -> None:
    """Wake those who wait for a worker; the next ones wait for the next change."""
    slot.changed.set()
    slot.changed = asyncio.Event()


async def _until_changed(slot: Slot, deadline: float, model: str) -> None:
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await slot.changed.wait()
    except TimeoutError:
        raise Busy(f"model {model!r} has no live worker at the moment") from None

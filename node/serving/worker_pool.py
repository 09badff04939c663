"""Choose which worker answers a request. Knows no HTTP.

One slot per model, holding the releases whose workers are warm; one of them is current. A request picks its release and sends to its worker
without awaiting in between, so that a switch falls between two requests and never inside one. Everything here runs on one loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

import structlog

from node.core.activation.effective_parameters import EffectiveParameters
from node.core.activation.shadow_comparison import Agreement, compare
from node.core.inference.chat_request import check_bounds
from node.core.inference.tensors import Array, Raw, array_of, rows_of
from node.serving import activation
from node.serving.activation import Activated, Staged, StartWorker
from node.serving.batching import Batcher
from node.serving.former_release import FormerRelease
from node.serving.loaded_model import Answer, Busy, Coming, LoadedModel, Slot, Stats
from node.workers.worker_handle import Runner, WorkerLost
from schemas.errors import Code, Refused

log = structlog.get_logger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

QUEUE_REQUESTS_MAX: Final = 256  # a model, begun and unanswered; beyond it a client had better come back than wait
CHATS_MAX: Final = 16  # Conversations are held one after the other, and each takes seconds
READY_SECONDS_MAX: Final = 10.0  # a request waits this long for a crashed worker's successor
DRAIN_SECONDS_MAX: Final = 30.0  # a retired worker's last requests; no longer than a hung one is waited for
DRAIN_LOOK_SECONDS: Final = 0.01
RESTART_SECONDS_MAX: Final = 60.0  # between attempts to start a worker that keeps dying; the first follows at once
RESTART_DOUBLINGS_MAX: Final = 8  # Doublings of half a second, beyond the longest pause.
HEALTHY_SECONDS: Final = 60.0  # after which a worker's earlier deaths are forgotten
CLIENTS_FAULT: Final = {Code.REQUEST_INVALID, Code.SCHEMA_TOO_LARGE}
SUSPICIONS_MAX: Final = 2  # a request that was being computed when two workers died is not tried on a third
COMPARING_MAX: Final = 4  # A model's answers that wait to be compared: what comes meanwhile is not, and no client waits for any.


class WorkerPool:
    """Hold slots by model name. `on_worker_exit(model, digest, reason, deaths)` hears of every worker that ends by itself."""

    def __init__(self, on_worker_exit: Callable[[str, bytes, str, int], None], *, start: StartWorker = activation.start) -> None:
        self.slots: dict[str, Slot] = {}
        self._on_worker_exit, self._start_worker = on_worker_exit, start
        self.on_damage: Callable[[str, bytes, str], None] | None = None  # the files of a release that is loaded differ from its manifest
        self.coming: dict[str, Coming] = {}  # models of which nothing is served yet
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, model: str, version: str | None) -> LoadedModel:
        """Return the release that a request for this model, and perhaps version, is for.

        Raises:
            Refused: RELEASE_UNKNOWN, naming what is served.
            Busy: the model is known, and nothing of it is served yet.
        """
        slot = self.slots.get(model)
        if slot is None:
            self.check_not_coming(model)
            raise Refused(Code.RELEASE_UNKNOWN, f"model {model[:64]!r} is not served here; served are {self.models() or 'none'}")
        if version is None or (slot.current is not None and slot.current.staged.version == version):
            if slot.current is None:
                self.check_not_coming(model)
                raise Busy(f"no release of model {model!r} is active yet")
            return slot.current
        for loaded in slot.loaded.values():
            if loaded.staged.version == version and loaded.switched:
                return loaded
        if slot.current is None:
            self.check_not_coming(model)
        raise Refused(Code.RELEASE_UNKNOWN, f"version {version[:64]!r} of model {model!r} is not served; served are {self.versions(model)}")

    def check_not_coming(self, model: str) -> None:
        """Check that no first release of this model is on its way here.

        Raises:
            Busy: one is; says what it waits for.
        """
        if (coming := self.coming.get(model)) is not None:
            raise coming.busy(model)

    def expect(self, model: str) -> None:
        """Have requests for this model wait until a release of it is switched to, instead of being refused."""
        self.slots.setdefault(model, Slot()).expected = True

    def models(self) -> list[str]:
        """Return the names of the models with a current release."""
        return sorted(model for model, slot in self.slots.items() if slot.current is not None)

    def versions(self, model: str) -> list[str]:
        """Return versions of a model that can be asked by name."""
        return [loaded.staged.version for loaded in self.slots[model].loaded.values() if loaded.switched]

    def index(self) -> list[dict[str, str]]:
        """Return every release that is loaded, with what it is to those who ask."""
        found = []
        for model, slot in sorted(self.slots.items()):
            for loaded in slot.loaded.values():
                role = "serving" if loaded is slot.current else "compared with what serves" if loaded is slot.beside else "held"
                dead = "" if loaded.live else f"; its worker ended {loaded.deaths} times in a row, the last time {loaded.death}"
                state = "READY" if loaded.live else "UNAVAILABLE"
                found.append({"name": model, "version": loaded.staged.version, "state": state, "reason": role + dead})
        for model, coming in sorted(self.coming.items()):
            found.append({"name": model, "version": coming.version, "state": "LOADING", "reason": coming.state})
        return found

    def ready(self) -> bool:
        """Return whether something is served, and all that is served has a live worker."""
        current = [slot.current for slot in self.slots.values() if slot.current is not None]
        return bool(current) and all(loaded.live for loaded in current)

    def serves(self) -> bool:
        """Return whether a request to any model could be answered now, and so be slowed by what is loaded beside it."""
        return any(slot.current is not None and slot.current.live for slot in self.slots.values())

    async def answer(self, model: str, version: str | None, body: bytes, header_bytes: int | None) -> Answer:
        """Return the current release's answer, or that of the version asked for.

        A request whose worker dies is sent again, to whatever is current then: inference is idempotent.

        Raises:
            Refused: the request is wrong or too large, or its model, version is unknown; MODEL_RUN, WORKER_CRASHED, WORKER_HUNG.
            Busy: nothing can answer it now.
        """
        slot = self.slots.get(model)
        if slot is None or not slot.expected:
            self.find(model, version)
            slot = self.slots[model]

        async def ask(loaded: LoadedModel, worker: Runner, *, alone: bool) -> Answer:
            try:
                request = loaded.reads.read(body, header_bytes=header_bytes, fed=loaded.parameters.inputs)
            except Refused:
                if version is None and loaded.former is not None and loaded.former.takes(body, header_bytes):
                    loaded.turned_away += 1
                raise
            batcher = None if alone else loaded.batcher
            outputs = await (batcher or worker).infer(request.inputs, loaded.parameters.runtime)
            return Answer(loaded, request, outputs)

        answer = await self._waited(slot, model, version, ask, QUEUE_REQUESTS_MAX)
        if slot.beside is not None and slot.current is answer.loaded and slot.comparing < COMPARING_MAX:
            slot.comparing += 1
            self.spawn(self._compare(slot, slot.beside, answer))
        return answer

    async def chat(
        self, model: str, body: Mapping[str, Any], report: Callable[[LoadedModel, Mapping[str, Any]], None]
    ) -> tuple[LoadedModel, Mapping[str, Any]]:
        """Return one turn of a conversation with the current release, and which release that was; `report` takes each chunk of a stream,
        and an empty one whenever work goes on.

        Raises:
            Refused: the request is wrong, or the model holds no conversations; as `answer`.
            Busy: nothing can answer it now.
        """
        begun = False

        async def ask(loaded: LoadedModel, worker: Runner, *, alone: bool) -> tuple[LoadedModel, Mapping[str, Any]]:
            def begin(chunk: Mapping[str, Any]) -> None:
                nonlocal begun
                begun = begun or bool(chunk)
                report(loaded, chunk)

            if not loaded.chats:
                loaded.turned_away += loaded.former_chats
                raise Refused(Code.REQUEST_INVALID, f"model {model!r} holds no conversations; ask it under /v2/models/{model}/infer")
            check_bounds(body, loaded.staged.manifest.parameters or (), loaded.staged.version)
            try:
                return loaded, await worker.chat(body, loaded.parameters.runtime, begin)
            except WorkerLost as lost:
                if begun:  # the client has heard half of an answer: another worker cannot go on with it
                    raise Refused(lost.code, lost.reason) from None
                raise

        slot = self.slots.get(model)
        if slot is None or not slot.expected:
            self.find(model, None)
            slot = self.slots[model]
        return await self._waited(slot, model, None, ask, CHATS_MAX)

    async def probe(self, model: str, ask: "Ask[LoadedModel]") -> LoadedModel:
        """Return the release that answers those who ask this model now: asked as a client asks, and counted, compared and observed nowhere.

        Raises:
            Refused: as `answer`.
            Busy: nothing can answer it now.
        """
        slot = self.slots.get(model)
        if slot is not None and slot.current is not None and slot.current.requests:
            return slot.current  # it has answered clients since it was switched to, who need not wait for a question of ours
        if slot is None or not slot.expected:
            self.find(model, None)
            slot = self.slots[model]
        return await self._waited(slot, model, None, ask, QUEUE_REQUESTS_MAX, counted=False)

    async def _waited(self, slot: Slot, model: str, version: str | None, ask: "Ask[T]", waiting_max: int, *, counted: bool = True) -> T:
        if slot.waiting >= waiting_max:
            raise Busy(f"{slot.waiting} requests for model {model!r} wait already")
        slot.waiting += 1
        try:
            return await self._asked(model, version, ask, counted=counted)
        finally:
            slot.waiting -= 1

    async def _asked(self, model: str, version: str | None, ask: "Ask[T]", *, counted: bool) -> T:
        deadline = _now() + READY_SECONDS_MAX
        suspicions = 0
        while (slot := self.slots.get(model)) is not None and slot.expected:
            try:
                await _until_changed(slot, deadline, model)
            except Busy:
                slot.expected = False  # it did not come back; clients that ask from now on are refused at once
                raise
        while True:
            loaded = self.find(model, version)
            if loaded.worker is None or not loaded.worker.alive:
                await _until_changed(self.slots[model], deadline, model)
                continue
            began = time.perf_counter()
            try:
                answer = await ask(loaded, loaded.worker, alone=suspicions > 0)
            except WorkerLost as lost:
                suspicions += lost.suspect
                if (lost.code is Code.WORKER_HUNG and lost.suspect and not lost.joined) or suspicions >= SUSPICIONS_MAX:
                    if counted:
                        loaded.failed(time.perf_counter() - began)
                    raise
                deadline = _now() + READY_SECONDS_MAX  # for the successor, however long the lost one was waited for
                continue
            except Refused as refusal:
                if counted and refusal.code not in CLIENTS_FAULT:
                    loaded.failed(time.perf_counter() - began)
                raise
            if counted:
                rows = rows_of(loaded.inputs, answer.request.inputs) if isinstance(answer, Answer) else 1
                loaded.answered(rows, time.perf_counter() - began, time.time())
            return answer

    async def _compare(self, slot: Slot, beside: LoadedModel, answer: Answer) -> None:
        """Have the other release answer as well; only whether they agree is kept."""
        terms = beside.staged.manifest.limits.shadow or answer.loaded.staged.manifest.limits.shadow
        rows = rows_of(answer.loaded.inputs, answer.request.inputs)
        found = Agreement(rows, 0)
        try:
            if terms is None or beside.worker is None or not beside.live:
                return
            outputs = await beside.worker.infer(answer.request.inputs, beside.parameters.runtime)
            found = compare(_arrays(answer.outputs), _arrays(outputs), rows=rows, terms=terms)
        except WorkerLost:
            return  # reported to the agent by itself
        except Refused:
            pass  # it cannot answer what the other one could
        finally:
            slot.comparing -= 1
        if slot.beside is beside:
            slot.agreement = slot.agreement.plus(found)

    def hold(self, staged: Staged, activated: Activated) -> None:
        """Keep a proven worker warm."""
        loaded = LoadedModel.of(staged, activated)
        self.slots.setdefault(staged.model, Slot()).loaded[staged.digest] = loaded
        self._install(loaded, activated.worker)

    def lookup(self, digest: bytes) -> LoadedModel | None:
        """Return the release loaded under this digest."""
        return next((slot.loaded[digest] for slot in self.slots.values() if digest in slot.loaded), None)

    def switch(self, model: str, digest: bytes) -> None:
        """Make a loaded release the current one; the same one twice is nothing.

        Raises:
            Refused: RELEASE_UNKNOWN when it is not loaded; WORKER_CRASHED when its worker has died since it was prepared.
        """
        slot = self.slots.get(model)
        loaded = slot.loaded.get(digest) if slot else None
        if slot is None or loaded is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"release {digest.hex()[:16]} of model {model!r} is not prepared")
        if slot.current is loaded:
            return
        if loaded.worker is None or not loaded.worker.alive:
            raise Refused(
                Code.WORKER_CRASHED, f"the worker of release {loaded.staged.version} of model {model!r} has died since it was prepared"
            )
        slot.current, slot.expected, slot.beside = loaded, False, None
        self.coming.pop(model, None)
        loaded.begin()
        slot.announce()
        log.info("release.switched", model=model, version=loaded.staged.version, digest=digest.hex()[:16], rollout=loaded.staged.rollout)

    def remember(self, digest: bytes, former: FormerRelease | None) -> None:
        """Count requests that a loaded release refuses and `former` would have taken."""
        loaded = self.lookup(digest)
        if loaded is None:
            return
        before = self.lookup(former.digest) if former is not None else None
        if loaded.former is None or former is None:  # once that one has gone, nothing says whether it loaded conversations
            loaded.former_chats = before is not None and before.chats
        loaded.former = former

    def compare_with(self, model: str, digest: bytes) -> None:
        """Have this loaded release answer what the current one answers, and count how often they agree; it must not be the current one.

        Raises:
            Refused: RELEASE_UNKNOWN when it is not loaded, or nothing is served.
        """
        slot = self.slots.get(model)
        loaded = slot.loaded.get(digest) if slot else None
        if slot is None or loaded is None or slot.current in (None, loaded):
            raise Refused(Code.RELEASE_UNKNOWN, f"release {digest.hex()[:16]} of model {model!r} has nothing to be compared with")
        slot.beside, slot.agreement = loaded, Agreement()

    def agreement(self, model: str) -> Agreement:
        """Return the agreement of the current release and the one beside it."""
        return self.slots[model].agreement if model in self.slots else Agreement()

    def set_parameters(self, digest: bytes, parameters: EffectiveParameters) -> None:
        """Set what is in force for a loaded release from now on."""
        loaded = self.lookup(digest)
        if loaded is not None:
            loaded.parameters = parameters

    def retire(self, digest: bytes) -> None:
        """Stop addressing a release, and close its worker once it has answered what it has."""
        loaded = self.lookup(digest)
        if loaded is None:
            return
        slot = self.slots[loaded.staged.model]
        del slot.loaded[digest]
        loaded.retired = True
        if slot.current is loaded:
            slot.current = None
        if slot.beside is loaded:
            slot.beside = None
        if not slot.loaded:
            del self.slots[loaded.staged.model]
        slot.announce()
        self.spawn(self._drain(loaded))

    def forget(self, model: str) -> None:
        """Stop serving a model: requests for it are refused from now on, and those that it has are answered."""
        self.coming.pop(model, None)
        slot = self.slots.get(model)
        if slot is None:
            return
        for digest in list(slot.loaded):
            self.retire(digest)
        self.slots.pop(model, None)  # It is still there if a release of the model was expected.
        slot.announce()

    def stats(self, model: str, digest: bytes) -> Stats:
        """Return what a loaded release has done since it was switched to.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        slot = self.slots.get(model)
        loaded = slot.loaded.get(digest) if slot is not None else None
        if slot is None or loaded is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"release {digest.hex()[:16]} of model {model!r} is not held")
        return loaded.stats(current=slot.current is loaded)

    async def close(self) -> None:
        """End every worker."""
        everything = [loaded for slot in self.slots.values() for loaded in slot.loaded.values()]
        self.slots.clear()
        for loaded in everything:
            loaded.retired = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(loaded.worker.close() for loaded in everything if loaded.worker))

    def died(self, loaded: LoadedModel, code: Code, reason: str) -> None:
        """Report that a loaded release's worker ended by itself, and start another."""
        if loaded.retired:
            return
        if _now() - loaded.started > HEALTHY_SECONDS:
            loaded.deaths = 0
        loaded.worker = loaded.batcher = None
        self.spawn(self._restart(loaded))
        self._died(loaded, code, reason)

    def _died(self, loaded: LoadedModel, code: Code, reason: str) -> None:
        loaded.deaths += 1
        loaded.death = f"{reason} [{code}]"
        model, digest = loaded.staged.model, loaded.staged.digest
        version, rollout = loaded.staged.version, loaded.staged.rollout
        log.error("worker.exited", model=model, version=version, rollout=rollout, code=code, reason=reason, deaths=loaded.deaths)
        self._on_worker_exit(model, digest, loaded.death, loaded.deaths)

    def _install(self, loaded: LoadedModel, worker: Runner) -> None:
        loaded.worker, loaded.started = worker, _now()
        loaded.batcher = Batcher(worker, loaded.row_seconds) if loaded.joins_rows else None
        worker.watch(lambda code, reason: self.died(loaded, code, reason))
        slot = self.slots.get(loaded.staged.model)
        if slot is not None:
            slot.announce()

    async def _restart(self, loaded: LoadedModel) -> None:
        """Start a worker again. The same bytes proved themselves before: they are loaded and warmed up, not tested again. It is tried for
        as long as the release
        is held, ever more seldom, and every failure is reported: the listener may retire it.
        """
        while not loaded.retired:
            if loaded.deaths > 1:
                await asyncio.sleep(min(RESTART_SECONDS_MAX, 0.5 * 2 ** min(loaded.deaths - 2, RESTART_DOUBLINGS_MAX)))
            try:
                worker = await self._started(loaded)
            except Refused as refusal:
                if loaded.retired:
                    return
                if refusal.code is Code.DISK_DAMAGED and self.on_damage is not None:
                    loaded.deaths += 1  # so that the files are read ever more seldom until they are mended
                    self.on_damage(loaded.staged.model, loaded.staged.digest, refusal.reason)
                else:
                    self._died(loaded, refusal.code, refusal.reason)
                continue
            if loaded.retired:
                await worker.close()
                return
            self._install(loaded, worker)
            return

    async def _started(self, loaded: LoadedModel) -> Runner:
        slot = self.slots.get(loaded.staged.model)
        await activation.check_files(loaded.staged)
        worker = await self._start_worker(loaded.staged, urgent=slot is not None and slot.current is loaded)
        try:
            await activation.warm(worker, loaded.staged, loaded.sample)
        except BaseException:
            await worker.close()
            raise
        return worker

    def discard(self, worker: Runner) -> None:
        """Close a worker that nothing holds."""
        self.spawn(worker.close())

    async def _drain(self, loaded: LoadedModel) -> None:
        worker, batcher = loaded.worker, loaded.batcher
        if worker is None:
            return

        def waiting() -> int:
            return worker.waiting + (batcher.waiting if batcher is not None else 0)

        deadline = _now() + DRAIN_SECONDS_MAX
        while waiting() and (left := deadline - _now()) > 0:
            await worker.drained(left)
            await asyncio.sleep(DRAIN_LOOK_SECONDS)  # what is queued follows what was answered; what was given up is answered, too
        if waiting():
            log.warning("worker.not_drained", model=loaded.staged.model, version=loaded.staged.version, waiting=waiting())
        await worker.close()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Have something done meanwhile; it ends with the pool at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("routing.failed", exc_info=task.exception())


class Ask(Protocol[T_co]):
    """Put one question to the worker of a release."""

    def __call__(self, loaded: LoadedModel, worker: Runner, *, alone: bool) -> Awaitable[T_co]:
        """Ask. `alone`: a worker died of it, or of what it was joined with."""


def _arrays(raws: tuple[Raw, ...]) -> dict[str, Array]:
    return {raw.name: array_of(raw) for raw in raws}


async def _until_changed(slot: Slot, deadline: float, model: str) -> None:
    try:
        async with asyncio.timeout(max(0.0, deadline - _now())):
            await slot.changed.wait()
    except TimeoutError:
        raise Busy(f"model {model!r} has no live worker at the moment") from None


def _now() -> float:
    """Return the loop's own time: it is the monotonic clock, and that of a simulated fleet in one."""
    return asyncio.get_running_loop().time()

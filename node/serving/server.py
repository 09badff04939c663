"""Run a listening socket and an asyncio loop in a thread of its own, with the agent's handle on them. Knows no broker, store or rollout.

Every public method may be called from any thread. Callbacks are called on the loop's thread: they must be quick, and may call back.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import uvicorn

from node.core.activation.effective_parameters import EffectiveParameters
from node.core.activation.shadow_comparison import Agreement
from node.core.doctor.agent_health import AgentStatus
from node.serving.accuracy_route import OnLabels
from node.serving.activation import Activated, Prepared, Staged, StartWorker, activate, start
from node.serving.connection import Connection
from node.serving.connection_limits import ACCEPTED_AT_ONCE, ConnectionLimits
from node.serving.cross_site_check import Foreign
from node.serving.former_release import FormerRelease
from node.serving.loaded_model import Coming, Observation, Stats
from node.serving.oip_routes import application
from node.serving.request_telemetry import Observing
from node.serving.self_request import Done, start_probe
from node.serving.worker_pool import WorkerPool
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from node.serving.grpc_server import GrpcServer

log = structlog.get_logger(__name__)
T = TypeVar("T")

BACKLOG: Final = 2048  # connections that the kernel keeps while the agent is busy or restarts; the system's own limit may be lower
KEEP_ALIVE_SECONDS: Final = 75  # longer than the pause of most polling clients, so that they seldom meet a closing connection
STOP_SECONDS_MAX: Final = 5  # for requests that have begun: an agent ends within ten seconds
CALL_SECONDS_MAX: Final = 30.0  # a call into the loop is a few dictionary operations; longer means it is stuck, which is our bug
UDS_MODE: Final = 0o660  # the group that the integrator gives the folder may ask; nobody else


@dataclass(frozen=True, slots=True)
class Listen:
    """Describe where to listen: an inherited socket if `fd` is set (it stays open for its owner), else TCP (port 0: any) and a Unix
    socket.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    uds: str | None = None
    fd: int | None = None
    grpc_port: int | None = None  # for the protocol's gRPC form, on the same host
    allowed_hosts: tuple[str, ...] = ()  # names under which local programs ask, besides this device's own; `*` takes any
    allowed_origins: tuple[str, ...] = ()  # Web pages that may ask.
    counts_to_all: bool = False  # Show counts of what was asked also to scrapers on other machines.

    def __str__(self) -> str:
        if self.fd is not None:
            return f"inherited socket {self.fd}"
        places = [f"{self.host}:{self.port}"] if self.port is not None else []
        grpc = [f"{self.host}:{self.grpc_port} (gRPC)"] if self.grpc_port is not None else []
        return " and ".join([*places, *([self.uds] if self.uds else []), *grpc])


MakeServer = Callable[..., "Server"]


@dataclass(eq=False)
class _Preparation:
    """Hold a release on its way to being warm, and who waits to hear of it."""

    release: Staged
    task: asyncio.Task[Activated]
    waiting: list[Callable[[Prepared | Refused], None]]


class _Listening(uvicorn.Server):
    """Accept few connections in a turn of the loop, so that their bound is kept, while the kernel keeps many that wait."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


class Server:
    """Serve the releases that it is given. `on_worker_exit(model, digest, reason, deaths)` hears of every worker that ends by
    itself; `deaths` is how often in a row.
    """

    def __init__(
        self,
        listen: Listen,
        *,
        node: str,
        on_rows: Callable[[Observation], None],
        on_labels: OnLabels | None = None,
        start: StartWorker = start,
    ) -> None:
        self.on_worker_exit: Callable[[str, bytes, str, int], None] | None = None
        self._listen = listen
        self._start_worker = start
        self._pool = WorkerPool(self._worker_exited, start=start)
        foreign = Foreign(host=listen.host, hosts=listen.allowed_hosts, origins=listen.allowed_origins)
        self._status: AgentStatus | None = None
        self._node, self._observing = node, Observing(self._pool, on_rows)
        self._grpc: GrpcServer | None = None
        self._grpc_port = 0
        self._app = application(
            self._pool,
            node=node,
            observing=self._observing,
            on_labels=on_labels,
            foreign=foreign,
            status=lambda: self._status,
            counts_to_all=listen.counts_to_all,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._http: uvicorn.Server | None = None
        self._port = 0
        self._preparing: dict[bytes, _Preparation] = {}
        self._abandoned: set[_Preparation] = set()

    @property
    def port(self) -> int:
        """Return the TCP port that is bound; 0 for a Unix socket."""
        return self._port

    @property
    def grpc_port(self) -> int:
        """Return the port that is bound for gRPC; 0 where there is none."""
        return self._grpc_port

    def watch_files(self, on_damage: Callable[[str, bytes, str], None]) -> None:
        """Before `start`: have `on_damage(model, digest, reason)` called where a worker cannot start anew, for its files have changed."""
        self._pool.on_damage = on_damage

    def start(self) -> None:
        """Listen and serve; connections are taken from the moment this returns.

        Raises:
            Refused: PORT_IN_USE, or SETTINGS_INVALID when the address is none of this device's; both name it.
        """
        if self._thread is not None:
            raise RuntimeError("the server was started already")
        listeners = _bind(self._listen)
        for listener in listeners:
            if listener.family in (socket.AF_INET, socket.AF_INET6):
                self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=partial(Connection, limits=ConnectionLimits()),  # type: ignore[arg-type]  # what it calls to make one
            backlog=ACCEPTED_AT_ONCE,  # asyncio's word for it too; `_Listening` gives the kernel its own
            loop="none",  # ours is made here
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,  # an access log per inference would cost more than the inference
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS_MAX,
        )
        self._http = _Listening(config)
        self._loop = asyncio.new_event_loop()
        try:
            self._start_grpc(self._loop)
        except Refused:
            for listener in listeners:
                listener.close()
            raise
        self._thread = threading.Thread(target=self._run, args=(listeners,), name="serving", daemon=True)
        self._thread.start()
        log.info("serving.started", listen=str(self._listen), port=self._port)

    def _start_grpc(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._listen.grpc_port is None:
            return
        try:
            from node.serving.grpc_server import GrpcServer  # noqa: PLC0415  # 13 MiB that only those who ask for it pay
        except ImportError as error:
            reason = f"grpc_port needs gRPC, which is not installed ({error}): install fleetcast's extra `grpc`"
            raise Refused(Code.SETTINGS_INVALID, reason) from None
        self._grpc = GrpcServer(self._pool, self._observing, loop, node=self._node)
        self._grpc_port = self._grpc.start(self._listen.host, self._listen.grpc_port)

    def expect(self, model: str) -> None:
        """Have requests for this model wait a moment, before `start`: a release of it is about to be restored."""
        self._pool.expect(model)

    def announce_coming(self, model: str, coming: Coming | None) -> None:
        """Have requests for a model of which nothing is served yet answered with what its release waits for; None: none is on its way."""

        def on_loop() -> None:
            if coming is None:
                self._pool.coming.pop(model, None)
            else:
                self._pool.coming[model] = coming

        if self._thread is None:
            on_loop()
        else:
            self._running().call_soon_threadsafe(on_loop)

    def show(self, status: AgentStatus) -> None:
        """Have this report of the agent about itself among the metrics from now on."""
        self._status = status

    def stop(self) -> None:
        """Answer what has begun, then end the workers, the thread and the socket."""
        if self._thread is None or self._http is None:
            return
        if self._grpc is not None:
            self._grpc.stop()
            self._grpc = None
        self._http.should_exit = True
        self._thread.join()
        self._thread = None
        if self._listen.uds is not None and self._listen.fd is None:
            Path(self._listen.uds).unlink(missing_ok=True)
        log.info("serving.stopped")

    def prepare(self, release: Staged, done: Callable[[Prepared | Refused], None]) -> None:
        """Make the release warm and have it prove itself; `done` is called exactly once. Returns at once.

        A release that is loaded already is prepared; one that is being prepared is not started twice.
        """
        self._running().call_soon_threadsafe(self._begin, release, done)

    def switch(self, model: str, digest: bytes) -> None:
        """Have requests answered by this release from here on; those that have begun finish on the old one. Returns when switched.

        Raises:
            Refused: RELEASE_UNKNOWN when it is not prepared, WORKER_CRASHED when its worker has died since.
        """
        self._call(lambda: self._pool.switch(model, digest))

    def remember(self, digest: bytes, former: FormerRelease | None) -> None:
        """Have requests that this held release refuses counted if `former` would have taken them; None: none is looked at any more."""
        self._call(lambda: self._pool.remember(digest, former))

    def probe(self, model: str, done: Done) -> None:
        """Ask this model's endpoint as a client asks; `done` is called with the release that answered, or the error. Returns at once."""
        self._running().call_soon_threadsafe(start_probe, self._pool, model, done)

    def retire(self, digest: bytes) -> None:
        """Take no more requests for this release; its worker answers those it has (for a bounded time) and ends. Unknown: nothing.

        A release still being prepared is abandoned, and its `done` refused.
        """

        def on_loop() -> None:
            preparation = self._preparing.pop(digest, None)  # so that one begun after this is another
            if preparation is not None:
                self._abandoned.add(preparation)
                preparation.task.cancel()
            self._pool.retire(digest)

        self._call(on_loop)

    def forget(self, model: str) -> None:
        """Stop serving a model, whether it is served, held or expected. Its releases that are being prepared are retired one by one."""
        self._call(lambda: self._pool.forget(model))

    def compare_with(self, model: str, digest: bytes) -> None:
        """Have a prepared release answer beside the current one from now on; only how often they agree is kept.

        Raises:
            Refused: RELEASE_UNKNOWN when it is not loaded, or is itself the current one.
        """
        self._call(lambda: self._pool.compare_with(model, digest))

    def agreement(self, model: str) -> Agreement:
        """Return the agreement of the current release and the one beside it, since that was put there."""
        return self._call(lambda: self._pool.agreement(model))

    def set_parameters(self, digest: bytes, parameters: EffectiveParameters) -> None:
        """Set what is in force for a release, from the next request on."""
        self._call(lambda: self._pool.set_parameters(digest, parameters))

    def stats(self, model: str, digest: bytes) -> Stats:
        """Return what a loaded release has done since it was switched to.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        return self._call(lambda: self._pool.stats(model, digest))

    def loaded(self) -> dict[bytes, int | None]:
        """Return the process id of each loaded release's worker, by digest; None while a dead one is being replaced."""
        return self._call(self._loaded)

    def ask_loaded(self, done: Callable[[dict[bytes, int | None]], None]) -> None:
        """Have `done` called with what `loaded` returns. Returns at once: a stuck loop keeps nobody waiting, and its silence shows it."""
        self._running().call_soon_threadsafe(lambda: done(self._loaded()))

    def _loaded(self) -> dict[bytes, int | None]:
        everything = [loaded for slot in self._pool.slots.values() for loaded in slot.loaded.values()]
        return {loaded.staged.digest: loaded.worker.process_id if loaded.worker and loaded.live else None for loaded in everything}

    def loaded_of(self, model: str) -> set[bytes]:
        """Return the releases of a model that are loaded."""
        return self._call(lambda: set(self._pool.slots[model].loaded) if model in self._pool.slots else set())

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._thread is None:
            raise RuntimeError("the server is not running")
        return self._loop

    def _call(self, work: Callable[[], T]) -> T:
        loop = self._running()
        if self._thread is threading.current_thread():
            return work()  # a callback of ours calls back
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def on_loop() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        loop.call_soon_threadsafe(on_loop)
        return outcome.result(CALL_SECONDS_MAX)

    def _run(self, listeners: list[socket.socket]) -> None:
        assert self._loop is not None  # noqa: S101
        assert self._http is not None  # noqa: S101
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(self._http, listeners))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self, http: uvicorn.Server, listeners: list[socket.socket]) -> None:
        try:
            await http.serve(sockets=listeners)
        finally:
            tasks = [preparation.task for preparation in (*self._preparing.values(), *self._abandoned)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pool.close()

    def _begin(self, release: Staged, done: Callable[[Prepared | Refused], None]) -> None:
        loaded = self._pool.lookup(release.digest)
        if loaded is not None:
            _call_back(done, Prepared(release.digest, loaded.evidence))
        elif release.digest in self._preparing:
            self._preparing[release.digest].waiting.append(done)
        else:
            task = asyncio.get_running_loop().create_task(activate(release, urgent=not self._pool.serves(), start=self._start_worker))
            preparation = _Preparation(release, task, [done])
            self._preparing[release.digest] = preparation
            preparation.task.add_done_callback(lambda _: self._finish(preparation))

    def _finish(self, preparation: "_Preparation") -> None:
        release, task = preparation.release, preparation.task
        abandoned = preparation in self._abandoned
        self._abandoned.discard(preparation)
        if not abandoned:
            del self._preparing[release.digest]
        outcome: Prepared | Refused
        error = None if task.cancelled() else task.exception()
        if abandoned and error is None and not task.cancelled():  # it was ready in the very moment
            self._pool.discard(task.result().worker)
        if abandoned or task.cancelled():
            outcome = Refused(
                Code.RELEASE_UNKNOWN, f"release {release.version} of model {release.model!r} was retired while being prepared"
            )
        elif isinstance(error, Refused):
            outcome = error
        elif error is not None:
            log.error("release.prepare_failed", model=release.model, version=release.version, exc_info=error)
            outcome = Refused(Code.WORKER_CRASHED, f"preparing failed by our own fault: {type(error).__name__}")
        else:
            self._pool.hold(release, task.result())
            outcome = Prepared(release.digest, task.result().evidence)
        for done in preparation.waiting:
            _call_back(done, outcome)

    def _worker_exited(self, model: str, digest: bytes, reason: str, deaths: int) -> None:
        if self.on_worker_exit is not None:
            try:
                self.on_worker_exit(model, digest, reason, deaths)
            except Exception:
                log.exception("callback.failed", callback="on_worker_exit")


def _call_back(done: Callable[[Prepared | Refused], None], outcome: Prepared | Refused) -> None:
    try:
        done(outcome)
    except Exception:
        log.exception("callback.failed", callback="done")


def _bind(listen: Listen) -> list[socket.socket]:
    if listen.fd is not None:
        return [socket.socket(fileno=os.dup(listen.fd))]  # closing ours leaves the owner's listening
    bound: list[socket.socket] = []
    try:
        if listen.uds is not None:
            bound.append(_bind_uds(listen.uds))
        if listen.port is not None:
            family, kind, proto, _, address = socket.getaddrinfo(
                listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            bound.append(_listening(socket.socket(family, kind, proto), address))
    except OSError as error:
        for one in bound:
            one.close()
        code = Code.PORT_IN_USE if error.errno == errno.EADDRINUSE else Code.SETTINGS_INVALID
        raise Refused(code, f"cannot listen on {listen}: {error.strerror or error}") from None
    return bound


def _bind_uds(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise OSError(errno.EADDRINUSE, "a file that is no socket stands there")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        Path(path).unlink()  # left behind by a process that was killed
    return _listening(socket.socket(socket.AF_UNIX), path)


def _listening(listener: socket.socket, address: object) -> socket.socket:
    try:
        if listener.family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)  # type: ignore[arg-type]  # getaddrinfo's and ours
        if listener.family == socket.AF_UNIX:
            Path(str(address)).chmod(UDS_MODE)  # before anybody can connect
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener

"""Hold what the pool needs: a model's releases with their workers, what they have done, and what telemetry learns of a request."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from node.core.activation.effective_parameters import EffectiveParameters
from node.core.activation.shadow_comparison import Agreement
from node.core.inference.oip import Request, Requests, encode_request, parse_request
from node.core.inference.tensors import Array, Raw, Spec, array_of, rows_of
from node.serving.activation import Activated, Staged, specs_of
from node.serving.batching import Batcher
from node.serving.former_release import FormerRelease
from node.workers.worker_handle import Runner
from schemas.errors import Unreachable
from schemas.receipt import Evidence

LATENCIES_KEPT: Final = 2048


class Busy(Unreachable):
    """Signal that no worker can take the request now; the same request may succeed in a moment, or after `retry_seconds`."""

    def __init__(self, sentence: str, *, retry_seconds: int = 1) -> None:
        super().__init__(sentence)
        self.retry_seconds = retry_seconds


class Coming(NamedTuple):
    """Describe a release on its way to a model of which nothing is served yet: what it waits for, and when to ask again."""

    version: str
    state: str
    retry_seconds: int

    def busy(self, model: str) -> Busy:
        """Return what clients are answered until then."""
        return Busy(f"model {model!r} is not served yet: release {self.version} {self.state}", retry_seconds=self.retry_seconds)


@dataclass(frozen=True, slots=True)
class Stats:
    """Describe what a release has done since it was switched to. `errors`: requests that failed through no fault of the client.

    `turned_away`: requests that it has refused and the release before would have taken; they are not among `requests`.

    `deaths`: how often in a row its worker ended by itself; `joined`: questions that held several requests, to its present worker.
    `live`: it can be asked right now; `current`: it is what requests go to.
    """

    requests: int
    errors: int
    latency_ms_p50: float
    latency_ms_p99: float
    deaths: int = 0
    joined: int = 0
    live: bool = False
    current: bool = False
    turned_away: int = 0

    @property
    def serves(self) -> bool:
        """Return whether it is what answers clients right now."""
        return self.live and self.current


@dataclass(frozen=True, slots=True)
class Observation:
    """Hold one request, for telemetry: arrays by tensor name, read-only views. `event_time` is the client's, in Unix seconds.

    What was not answered, through no fault of the client, has no outputs, and `failed` is set.
    """

    model: str
    digest: bytes
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rows: int
    event_time: float | None
    latency_ms: float | None = None
    failed: bool = False
    memory_bytes: int | None = None  # Memory of the worker that answered.
    stop_reason: str | None = None  # Set for a generated answer, as are its tokens and those that it was made from.
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Answer(NamedTuple):
    """Hold an answered request, and the one release that answered it."""

    loaded: "LoadedModel"
    request: Request
    outputs: tuple[Raw, ...]

    def observation(self, latency_ms: float | None = None, memory_bytes: int | None = None) -> Observation:
        """Return what telemetry may count."""
        return Observation(
            model=self.loaded.staged.model,
            digest=self.loaded.staged.digest,
            inputs={raw.name: array_of(raw) for raw in self.request.inputs},
            outputs={raw.name: array_of(raw) for raw in self.outputs},
            rows=rows_of(self.loaded.inputs, self.request.inputs),
            event_time=self.request.event_time,
            latency_ms=latency_ms,
            memory_bytes=memory_bytes,
        )


@dataclass(eq=False)
class LoadedModel:
    """Hold a release with its worker; None while a dead one is being replaced."""

    staged: Staged
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    parameters: EffectiveParameters
    worker: Runner | None = None
    batcher: Batcher | None = None  # where its rows may be joined
    evidence: Evidence = field(default_factory=Evidence)
    sample: tuple[Raw, ...] = ()
    joins_rows: bool = False
    row_seconds: float = 0.0
    platform: str = ""
    chats: bool = False
    switched: bool = False  # only what was once proven in service is addressable by its version
    retired: bool = False
    deaths: int = 0
    death: str = ""  # what the last one was
    started: float = 0.0
    requests: int = 0
    rows: int = 0
    errors: int = 0
    former: FormerRelease | None = None  # Set while this release is on probation.
    former_chats: bool = False
    turned_away: int = 0
    seconds: float = 0.0  # All answered requests together.
    failed_seconds: float = 0.0
    last: float = 0.0  # when a request was answered, in Unix seconds
    reads: Requests = field(init=False)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))

    def __post_init__(self) -> None:
        self.reads = Requests(self.inputs, self.outputs)

    @classmethod
    def of(cls, staged: Staged, activated: Activated) -> "LoadedModel":
        """Return a proven release with its worker."""
        manifest, worker = staged.manifest, activated.worker
        loaded = cls(staged, specs_of(manifest.inputs), specs_of(manifest.outputs), staged.parameters)
        loaded.evidence, loaded.sample = activated.evidence, activated.sample
        loaded.joins_rows, loaded.row_seconds = activated.joins_rows, activated.row_seconds
        loaded.platform, loaded.chats = worker.platform, worker.chats
        return loaded

    def own_request(self) -> Request:
        """Return what a client could ask: the sample that it has proved itself with, in a body and read from it. What takes nothing is
        asked that.

        Raises:
            Refused: no client can ask that.
        """
        if not self.inputs:
            return Request(None, (), tuple((spec.name, True) for spec in self.outputs), None)
        body, header_bytes = encode_request(self.sample)
        return parse_request(body, header_bytes=header_bytes, inputs=self.inputs, outputs=self.outputs, fed=self.parameters.inputs)

    def stats(self, *, current: bool = False) -> Stats:
        """Return what it has done since it was switched to."""
        ordered = sorted(self.latencies) or [0.0]
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 for share in (0.5, 0.99))
        joined = self.batcher.joined if self.batcher else 0
        return Stats(
            self.requests + self.errors,
            self.errors,
            p50,
            p99,
            self.deaths,
            joined,
            live=self.live,
            current=current,
            turned_away=self.turned_away,
        )

    @property
    def live(self) -> bool:
        """Return whether it can be asked."""
        return self.worker is not None and self.worker.alive

    def begin(self) -> None:
        """Count anew: it is the current release from now on."""
        self.switched, self.requests, self.rows, self.errors, self.turned_away = True, 0, 0, 0, 0
        self.seconds = self.failed_seconds = 0.0
        self.latencies.clear()

    def answered(self, rows: int, seconds: float, now: float) -> None:
        """Count a request that was answered at `now`."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds
        self.last = now
        self.latencies.append(seconds)

    def failed(self, seconds: float) -> None:
        """Count a request that failed through no fault of the client."""
        self.errors += 1
        self.failed_seconds += seconds


@dataclass(eq=False)
class Slot:
    """Hold a model's releases by digest. `beside` answers the same requests as the current one, and its answers are only compared."""

    loaded: dict[bytes, LoadedModel] = field(default_factory=dict)
    current: LoadedModel | None = None
    beside: LoadedModel | None = None
    agreement: Agreement = field(default_factory=Agreement)
    comparing: int = 0
    waiting: int = 0
    expected: bool = False  # a release is on its way back after a restart: requests wait for it
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wake those who wait for a worker; the next ones wait for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()

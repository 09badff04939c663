"""A node's slots with the real store, disk, server and workers; what a broker would bring is brought by a courier, at once."""

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.agent.activation.slots import Slots
from node.agent.events import EndpointAnswered, TransferEnded, WorkerGone, WorkerReady
from node.core.activation.effective_parameters import EffectiveParameters
from node.core.activation.lifecycle import ModelSlot, Target
from node.host.site_parameters import Overrides
from node.serving.loaded_model import Observation
from node.serving.server import Listen, Server
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from node.storage.store import NodeStore
from node.trust.tuf_client import Release
from schemas import codec
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.receipt import Receipt
from schemas.state import Profile

SECONDS_MAX = 150.0
PROFILE = Profile(arch="any", cores=1, memory_bytes=2**30, providers=("CPUExecutionProvider",))


def verified(manifest: Manifest) -> Release:
    """As trust would have made it."""
    document = codec.encode(manifest)
    return Release(manifest=manifest, digest=sha256(document), document=document)


@dataclass
class Courier:
    """Brings the files of a release to disk."""

    artifacts: Artifacts
    inbox: "queue.Queue[Any]"
    contents: Mapping[bytes, bytes]  # by digest

    def start(self, model: str, target: Target, manifest: Manifest, variant: str, now: float, **more: Any) -> None:
        for file in manifest.files_of(variant):
            path = self.artifacts.relative(target.digest, variant, file)
            self.artifacts.allocate(path, file.bytes)
            self.artifacts.write([(path, 0, self.contents[file.digest])])
        self.inbox.put(TransferEnded(model, target, None))

    def carry(self, model: str, carriage: Any) -> None:
        pass

    def cancel(self, model: str) -> None:
        pass


@dataclass
class Site:
    """One process of a node in a folder; `faster`: how many of its seconds pass in one of ours."""

    folder: Path
    contents: Mapping[bytes, bytes]
    faster: float = 1.0
    window_open: bool = True
    rollout: dict[str, Any] = field(default_factory=dict)  # what a rollout sets
    observed: list[Observation] = field(default_factory=list)
    effective_parameters: dict[bytes, EffectiveParameters] = field(default_factory=dict)
    refusals: list[Refused] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.store = NodeStore(self.folder / "node.sqlite")
        self.server = Server(Listen(port=0), node="n", on_rows=self.observed.append)
        self.server.on_worker_exit = lambda *told: self.inbox.put(WorkerGone(*told))
        self._began, self._counts_from = time.time(), time.monotonic()
        artifacts = Artifacts(self.folder / "artifacts")
        self.parameters = Parameters(
            Overrides(self.folder / "parameters.toml"),
            rollout_parameters=lambda model, digest: self.rollout,
            refused=lambda refusal, model: self.refusals.append(refusal),
        )
        self.slots = Slots(
            store=self.store,
            artifacts=artifacts,
            fetcher=Courier(artifacts, self.inbox, self.contents),
            server=self.server,
            manifests=Manifests(artifacts, PROFILE),
            parameters=self.parameters,
            settings=NodeSettings(id="n", fleet="f", broker="mqtt://x", data=self.folder, root=self.folder / "root.json"),
            post=self.inbox.put,
            monotonic=self.monotonic,
            report=self._report,
            serving_changed=lambda digest, manifest, effective_parameters: self.effective_parameters.update({digest: effective_parameters}),
            carriage_of=lambda model: None,
            may_activate=lambda model, rollout, now: self.window_open,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def now(self) -> float:
        return self._began + (time.time() - self._began) * self.faster

    def monotonic(self) -> float:
        return (time.monotonic() - self._counts_from) * self.faster

    def start(self) -> None:
        self.server.start()
        self.slots.resume(self.now())

    def wants(self, release: Release, rollout: bytes = bytes(16)) -> None:
        self.slots.wanted(release, rollout, self.now())

    def slot(self, model: str = "m") -> ModelSlot:
        return self.store.slots().get(model) or ModelSlot(model=model)

    def receipts(self) -> list[Receipt]:
        return [codec.decode(Receipt, one.payload) for one in self.store.waiting(1000) if one.kind == "receipt"]

    def turn_until(self, over: Callable[[], bool], *, seconds_max: float = SECONDS_MAX) -> None:
        deadline = time.monotonic() + seconds_max
        while not over():
            assert time.monotonic() < deadline, f"stuck in {self.store.slots()}"
            self.turn()

    def turn(self) -> None:
        try:
            event = self.inbox.get(timeout=0.01)
        except queue.Empty:
            event = None
        match event:
            case TransferEnded(model, target, refusal):
                self.slots.fetched(model, target, refusal, self.now())
            case WorkerReady():
                self.slots.ready(event, self.now())
            case WorkerGone():
                self.slots.worker_gone(event, self.now())
            case EndpointAnswered():
                self.slots.endpoint_answered(event)
        if self.parameters.look(time.monotonic()):
            self.slots.parameters_changed()
        self.slots.tick(self.now())

    def _report(self, outcome: Any, *, model: Any, target: Any, code: str, reason: str, since: Any, evidence: Any, rollout: str) -> None:
        receipt = Receipt(
            node="n",
            sequence=self.store.next("receipt"),
            at=1,
            outcome=outcome,
            version=target.version,
            digest=target.digest,
            code=code,
            reason=reason[:512],
            evidence=evidence,
        )
        self.store.enqueue("receipt", "r", codec.encode(receipt))

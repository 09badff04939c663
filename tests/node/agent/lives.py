"""A node's slots living through four releases as a process of its own, which is killed where it is told to be.

The store, the disk, the server and the workers are the real ones; the releases are of files, so that workers start quickly, and what a
broker would bring is brought by `Courier`. Whoever lives on after a kill goes by what is on disk alone.
"""

import os
import queue
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.agent.job import Outcome, WorkerGone, WorkerReady
from node.agent.manifests import Manifests
from node.agent.parameters import Parameters
from node.agent.slots import Slots
from node.core.lifecycle import ModelSlot, Target
from node.files import Artifacts
from node.overrides import Overrides
from node.serving import Listen, Server
from node.settings import NodeSettings
from node.store import NodeStore
from node.trust import Release
from schemas import codec
from schemas.manifest import Block, File, Limits, Manifest, Shadow, Variant
from schemas.names import sha256
from schemas.receipt import Receipt
from schemas.state import Profile

FASTER = 20  # a second of the releases' own clock is 50 ms
LIFE_SECONDS_MAX = 30.0
WRITES = ("INSERT", "UPDATE", "DELETE")
GOOD, COMPARED, BROKEN, CRASHING = "1.0.0", "2.0.0", "3.0.0", "4.0.0"
ENDS = {GOOD: "serving", COMPARED: "serving", BROKEN: "refused", CRASHING: "rolled_back"}


def release(version: str) -> Release:
    content = f"content of {version}".encode()
    file = File(path="data.bin", bytes=len(content), digest=sha256(content), blocks=(Block(sha256(content), len(content)),))
    limits = {
        GOOD: Limits(probation_seconds=0),
        COMPARED: Limits(probation_seconds=0, shadow=Shadow(seconds=1)),
        BROKEN: Limits(),
        CRASHING: Limits(probation_seconds=3600),
    }
    manifest = Manifest(
        model="m",
        version=version,
        created=1,
        inputs=(),
        outputs=(),
        variants=(Variant(name="v", runtime="files", files=(file,)),),
        limits=limits[version],
    )
    document = codec.encode(manifest)
    return Release(manifest=manifest, digest=sha256(document))


class Courier:
    """Brings a release's file to disk at once; the broken one's is gone again before it is loaded."""

    def __init__(self, artifacts: Artifacts, inbox: "queue.SimpleQueue[Any]") -> None:
        self._artifacts, self._inbox = artifacts, inbox

    def start(self, model: str, target: Target, manifest: Manifest, variant: str, now: float, **more: Any) -> None:
        file = manifest.variants[0].files[0]
        path = self._artifacts.relative(target.digest, variant, file)
        self._artifacts.allocate(path, file.bytes)
        self._artifacts.write([(path, 0, f"content of {target.version}".encode())])
        if target.version == BROKEN:
            self._artifacts.path(path).unlink()
        self._inbox.put(Outcome(model, target, None))

    def carry(self, model: str, carriage: Any) -> None:
        pass

    def cancel(self, model: str) -> None:
        pass


class Life:
    """One process's share of the slots' life in a folder."""

    def __init__(self, folder: Path, *, kill_at: int | None) -> None:
        self.store = NodeStore(folder / "node.sqlite")
        self.writes, self._kill_at, self._within = 0, kill_at, False
        self.store._db.set_trace_callback(self._count)
        self._began = time.time()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        artifacts = Artifacts(folder / "artifacts")
        profile = Profile(arch="any", cores=1, memory_bytes=2**30)
        manifests = Manifests(artifacts, profile)
        self.server = Server(Listen(port=0), node="n", on_rows=lambda seen: None)
        self.server.on_worker_exit = lambda *told: self._inbox.put(WorkerGone(*told))
        settings = NodeSettings(id="n", fleet="f", broker="mqtt://x", data=folder, root=folder / "root.json")
        parameters = Parameters(Overrides(folder / "none"), rollout_says=lambda model, digest: {}, refused=lambda refusal, model: None)
        self.slots = Slots(
            store=self.store,
            artifacts=artifacts,
            fetcher=Courier(artifacts, self._inbox),
            server=self.server,
            manifests=manifests,
            parameters=parameters,
            settings=settings,
            post=self._inbox.put,
            report=self._report,
            serving_changed=lambda digest, manifest, in_force: None,
            carriage_of=lambda model: None,
        )

    def _count(self, statement: str) -> None:
        """SQLite says what it is about to run. Within a transaction one statement is like another: only its begin and its end count."""
        within, self._within = self._within, statement == "BEGIN IMMEDIATE" or (self._within and statement != "COMMIT")
        if statement in {"BEGIN IMMEDIATE", "COMMIT"} or (statement.startswith(WRITES) and not within):
            self.writes += 1
            if self.writes == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def now(self) -> float:
        return self._began + (time.time() - self._began) * FASTER

    def _report(self, outcome: Any, *, model: Any, target: Any, code: str, reason: str, since: Any, evidence: Any) -> None:
        receipt = Receipt(
            node="n", sequence=self.store.next("receipt"), at=1, outcome=outcome, version=target.version, digest=target.digest, code=code
        )
        self.store.enqueue("receipt", "r", codec.encode(receipt))

    def receipts(self) -> list[Receipt]:
        return [codec.decode(Receipt, one.payload) for one in self.store.waiting(1000)]

    def slot(self) -> ModelSlot:
        return self.store.slots().get("m") or ModelSlot(model="m")

    def live(self) -> None:
        """To the end of all four releases, as a hub would ask for them: the next one when a receipt says how the last one ended."""
        self.server.start()
        try:
            self.slots.resume(self.now())
            for version, outcome in ENDS.items():
                wanted = release(version)
                if not self._is_over(wanted, outcome):
                    self.slots.wanted(wanted, bytes(16), self.now())
                self._turn_until(lambda wanted=wanted, outcome=outcome: self._is_over(wanted, outcome))  # type: ignore[misc]
            self._turn_until(lambda: self.server.held_of("m") == {release(COMPARED).digest})
        finally:
            self.server.stop()

    def _is_over(self, wanted: Release, outcome: str) -> bool:
        said = any(one.digest == wanted.digest and one.outcome == outcome for one in self.receipts())
        slot = self.slot()
        return said and (slot.proven or slot.serving is None or slot.serving.digest != wanted.digest)

    def _turn_until(self, over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIFE_SECONDS_MAX
        while not over():
            assert time.monotonic() < deadline, f"stuck in {self.slot()}"
            try:
                event = self._inbox.get(timeout=0.01)
            except queue.Empty:
                event = None
            match event:
                case Outcome(model, target, refusal):
                    self.slots.fetched(model, target, refusal, self.now())
                case WorkerReady():
                    self.slots.ready(event, self.now())
                case WorkerGone():
                    self.slots.worker_gone(event, self.now())
            self.slots.tick(self.now())
            self._crash_what_crashes()

    def _crash_what_crashes(self) -> None:
        slot = self.slot()
        if slot.state == "probation" and slot.serving is not None and slot.serving.version == CRASHING:
            process_id = self.server.held().get(slot.serving.digest)
            if process_id is not None:
                os.kill(process_id, signal.SIGKILL)


def live(folder: Path, kill_at: int | None, writes: Any = None) -> None:
    """What a process of its own runs."""
    life = Life(folder, kill_at=kill_at)
    life.live()
    if writes is not None:
        writes.value = life.writes

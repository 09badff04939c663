"""Carries out the lifecycle: durable first, then done. Everything that happens to a model slot passes through `_apply`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from node.agent.job import Stalled
from node.core import lifecycle
from node.core.budget import BUDGET_CODES
from node.core.lifecycle import ModelSlot, Target
from node.files import Artifacts
from node.serving import Prepared, Server, Staged
from node.store import NodeStore
from node.trust import Release
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import MANIFEST_BYTES_MAX
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.receipt import Evidence
from schemas.rollout import Carriage
from schemas.state import Profile, Slot
from schemas.variant import choose

log = structlog.get_logger()

PROBATION_REQUESTS_MIN = 20  # fewer say nothing about an error ratio


class Fetcher(Protocol):
    """What brings releases to disk."""

    def start(
        self, model: str, target: Target, manifest: Manifest, variant: str, now: float, *, carriage: Carriage | None, follows: bool
    ) -> None:
        """Begin."""

    def carry(self, model: str, carriage: Carriage | None) -> None:
        """The rollout says otherwise how the bytes may travel."""

    def cancel(self, model: str) -> None:
        """Give up."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker was prepared, or why not."""

    model: str
    target: Target
    result: Prepared | Refused


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker ended by itself."""

    model: str
    digest: bytes
    reason: str
    deaths: int  # in a row


class Slots:
    """The model slots of a node."""

    def __init__(
        self,
        *,
        store: NodeStore,
        artifacts: Artifacts,
        fetcher: Fetcher,
        server: Server,
        profile: Profile,
        threads: int,
        post: Callable[[WorkerReady], None],
        report: Callable[..., None],
        serving_changed: Callable[[bytes, Manifest], None],
        carriage_of: Callable[[str], Carriage | None],
    ) -> None:
        self._store, self._artifacts, self._fetcher, self._server = store, artifacts, fetcher, server
        self._profile, self._threads, self._post, self._report = profile, threads, post, report
        self._serving_changed, self._carriage_of = serving_changed, carriage_of
        self._slots: dict[str, ModelSlot] = {}
        self._manifests: dict[bytes, Manifest] = {}
        self._restoring: set[bytes] = set()
        self._announced: dict[str, tuple[tuple[bytes, int, tuple[bytes, ...]], ...]] = {}  # digest, created, parents, by model
        self._evidence: dict[bytes, Evidence] = {}
        self.changed = True

    # What the loop tells

    def resume(self, now: float) -> None:
        """After a start: bring back what was served, and go on."""
        for model, remembered in self._store.slots().items():
            slot = lifecycle.restarted(remembered)
            self._slots[model] = slot
            self._carry_out(slot, lifecycle.resume(slot), now)

    def wanted(self, release: Release, rollout: bytes, now: float) -> None:
        """A rollout wants this verified release here."""
        manifest = release.manifest
        self._keep_manifest(release)
        slot = self._slots.get(manifest.model) or ModelSlot(model=manifest.model)
        target = Target(version=manifest.version, digest=release.digest, rollout=rollout)
        self._apply(slot, lifecycle.wanted(slot, target, now=int(now)), now)
        self._fetcher.carry(manifest.model, self._carriage_of(manifest.model))  # another rollout of what is on its way already

    def halted(self, model: str, now: float) -> None:
        """The model's rollout was halted."""
        slot = self._slots.get(model)
        if slot is not None:
            self._apply(slot, lifecycle.halted(slot, now=int(now)), now)

    def fetched(self, model: str, target: Target, refusal: Refused | None, now: float) -> None:
        """A transfer ended."""
        slot = self._slots[model]
        if slot.target != target:
            return  # another release is wanted by now
        if refusal is None:
            self._apply(slot, lifecycle.fetched(slot, now=int(now)), now)
        else:
            self._apply(slot, lifecycle.failed(slot, refusal.code, refusal.reason, now=int(now)), now)

    def stalled(self, event: Stalled, now: float) -> None:
        """A transfer waits, or goes on."""
        slot = self._slots.get(event.model)
        if slot is not None and slot.target == event.target:
            self._apply(slot, lifecycle.waits(slot, str(event.code or ""), spent=event.code in BUDGET_CODES, now=int(now)), now)

    def ready(self, event: WorkerReady, now: float) -> None:
        """A worker is warm, or could not be."""
        slot, result = self._slots[event.model], event.result
        if event.target.digest in self._restoring:
            self._restored(slot, event, now)
        elif slot.target != event.target or slot.state != "staged":
            if isinstance(result, Prepared):
                self._server.retire(event.target.digest)  # overtaken while it was loading
        elif isinstance(result, Refused):
            self._apply(slot, lifecycle.failed(slot, result.code, result.reason, now=int(now)), now)
        else:
            self._evidence[event.target.digest] = result.evidence
            self._apply(slot, lifecycle.prepared(slot, now=int(now)), now)

    def worker_gone(self, event: WorkerGone, now: float) -> None:
        """A worker crashed: on probation that rolls back; later the server has started it again already."""
        slot = self._slots.get(event.model)
        if slot is None or slot.serving is None or slot.serving.digest != event.digest:
            return
        log.error("worker.gone", model=event.model, version=slot.serving.version, reason=event.reason)
        if slot.state == "probation":
            reason = f"the worker ended while on probation: {event.reason}"
            self._apply(slot, lifecycle.failed(slot, Code.WORKER_CRASHED, reason, now=int(now)), now)

    def tick(self, now: float) -> None:
        """End probations."""
        for slot in list(self._slots.values()):
            if slot.state == "probation" and slot.serving is not None and slot.serving.digest not in self._restoring:
                self._judge(slot, slot.serving, now)

    def report_of(self) -> tuple[Slot, ...]:
        """The slots, as the state document says them."""
        found = []
        for slot in self._slots.values():
            ledger = self._store.bytes_of(slot.target.digest) if slot.target else None
            found.append(
                Slot(
                    model=slot.model,
                    state=slot.state,
                    serving=slot.serving.digest if slot.serving else None,
                    serving_version=slot.serving.version if slot.serving else None,
                    target=slot.target.digest if slot.target else None,
                    target_version=slot.target.version if slot.target else None,
                    last_good=slot.last_good.digest if slot.last_good else None,
                    code=slot.code,
                    bytes_planned=ledger.planned if ledger else 0,
                    bytes_received=ledger.received if ledger else 0,
                    bytes_reused=ledger.reused if ledger else 0,
                    bytes_wasted=ledger.wasted if ledger else 0,
                )
            )
        return tuple(found)

    # How it is done

    def _apply(self, before: ModelSlot, step: lifecycle.Step, now: float) -> None:
        slot, commands = step
        if slot != before:
            self._store.put_slot(slot)
            self._slots[slot.model] = slot
            self.changed = True
            log.info("slot.moved", model=slot.model, before=before.state, state=slot.state, code=slot.code)
        self._carry_out(slot, commands, now)

    def _carry_out(self, slot: ModelSlot, commands: list[lifecycle.Command], now: float) -> None:
        for command in commands:
            match command:
                case lifecycle.Fetch(target):
                    self._fetch(slot.model, target, now)
                case lifecycle.CancelFetch():
                    self._fetcher.cancel(slot.model)
                case lifecycle.Prepare(target):
                    self._prepare(slot.model, target)
                case lifecycle.Restore(target):
                    self._restoring.add(target.digest)
                    self._prepare(slot.model, target)
                case lifecycle.Switch(target):
                    self._switch(self._slots[slot.model], target, now)
                case lifecycle.Retire(target):
                    self._server.retire(target.digest)
                case lifecycle.Report():
                    self._say(slot, command)
                case lifecycle.Tidy():
                    self.tidy()

    def _fetch(self, model: str, target: Target, now: float) -> None:
        try:
            manifest = self._manifest(target.digest)
            variant = choose(manifest, self._profile)
        except Refused as refusal:
            self.fetched(model, target, refusal, now)
            return
        slot = self._slots[model]
        follows = slot.serving is not None or slot.last_good is not None
        self._fetcher.start(model, target, manifest, variant.name, now, carriage=self._carriage_of(model), follows=follows)

    def _prepare(self, model: str, target: Target) -> None:
        try:
            staged = self._staged(model, target)
        except Refused as refusal:
            self._post(WorkerReady(model, target, refusal))
            return
        self._server.prepare(staged, lambda result: self._post(WorkerReady(model, target, result)))

    def _staged(self, model: str, target: Target) -> Staged:
        manifest = self._manifest(target.digest)
        variant = choose(manifest, self._profile)
        path = self._artifacts.path(self._artifacts.relative(target.digest, variant.name, variant.files[0]))
        golden: Path | None = None
        if manifest.golden is not None:
            golden = self._artifacts.path(self._artifacts.relative(target.digest, variant.name, manifest.golden.file))
        return Staged(
            model=model,
            version=target.version,
            digest=target.digest,
            manifest=manifest,
            model_path=path,
            golden_path=golden,
            threads=self._threads,
            runtime=variant.runtime,
        )

    def _switch(self, slot: ModelSlot, target: Target, now: float) -> None:
        self._tell_serving(slot.model, target)
        try:
            self._server.switch(slot.model, target.digest)
        except Refused as refusal:  # the worker died between its test and the switch
            self._apply(slot, lifecycle.failed(slot, refusal.code, refusal.reason, now=int(now)), now)
            return
        if slot.serving is not None and slot.serving.digest != target.digest:
            self._server.retire(slot.serving.digest)
        self._apply(slot, lifecycle.switched(slot, now=int(now)), now)

    def _tell_serving(self, model: str, target: Target) -> None:
        """Telemetry counts for this release from now on, and other programs find its files."""
        manifest = self._manifest(target.digest)
        self._serving_changed(target.digest, manifest)
        self._artifacts.point(model, target.digest, choose(manifest, self._profile).name)

    def _restored(self, slot: ModelSlot, event: WorkerReady, now: float) -> None:
        self._restoring.discard(event.target.digest)
        result = event.result
        if slot.serving is None or slot.serving.digest != event.target.digest:
            if isinstance(result, Prepared):
                self._server.retire(event.target.digest)
            return
        if isinstance(result, Prepared):
            self._evidence[event.target.digest] = result.evidence
            self._tell_serving(slot.model, event.target)
            self._server.switch(slot.model, event.target.digest)
            if slot.state == "rolled_back" and slot.target is not None:
                self._server.retire(slot.target.digest)
            self._say(slot, lifecycle.Report("serving", event.target))
        elif slot.state in {"probation", "active"}:
            self._apply(slot, lifecycle.failed(slot, result.code, result.reason, now=int(now)), now)
        else:
            log.error("slot.not_restored", model=slot.model, version=event.target.version, code=result.code, reason=result.reason)
            self._report("refused", code=result.code, reason=result.reason, model=slot.model, target=event.target)

    def _judge(self, slot: ModelSlot, serving: Target, now: float) -> None:
        limits = self._manifest(serving.digest).limits
        stats = self._server.stats(slot.model, serving.digest)
        if stats.requests >= PROBATION_REQUESTS_MIN and stats.errors > limits.probation_error_ratio_max * stats.requests:
            reason = f"{stats.errors} of {stats.requests} requests failed, at most {limits.probation_error_ratio_max:.0%} may"
            self._apply(slot, lifecycle.failed(slot, Code.PROBATION_ERRORS, reason, now=int(now)), now)
        elif now - slot.since >= limits.probation_seconds:
            self._apply(slot, lifecycle.settled(slot, now=int(now)), now)

    def _say(self, slot: ModelSlot, report: lifecycle.Report) -> None:
        serving = report.outcome == "serving"
        ledger = self._store.bytes_of(report.target.digest)
        evidence = self._evidence.get(report.target.digest, Evidence()).model_copy(
            update={
                "bytes_planned": ledger.planned,
                "bytes_received": ledger.received,
                "bytes_reused": ledger.reused,
                "bytes_wasted": ledger.wasted,
            }
        )
        self._report(
            report.outcome,
            code=report.code,
            reason=report.reason,
            model=slot.model,
            target=report.target,
            since=slot.serving_since if serving else None,
            evidence=evidence,
        )

    # Manifests of what stands on disk, so that a node without a broker knows its own models

    def _keep_manifest(self, release: Release) -> None:
        path = self._manifest_path(release.digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(codec.encode(release.manifest))
            partial.replace(path)
        self._manifests[release.digest] = release.manifest

    def _manifest(self, digest: bytes) -> Manifest:
        if digest not in self._manifests:
            path = self._manifest_path(digest)
            data = path.read_bytes()[: MANIFEST_BYTES_MAX + 1] if path.exists() else b""
            if sha256(data) != digest:  # the digest was believed when the slot was written; the disk may have changed since
                raise Refused(Code.ARTIFACT_DIGEST, f"the manifest of release {digest.hex()[:12]} is gone from the disk or was changed")
            self._manifests[digest] = codec.decode(Manifest, data)
        return self._manifests[digest]

    def _manifest_path(self, digest: bytes) -> Path:
        return self._artifacts.directory / digest.hex() / "manifest.msgpack"

    # The disk

    def announced(self, releases: Sequence[Release]) -> None:
        """A model's current releases: what the newer ones are deltas of must not be removed before they are here."""
        for model in {release.manifest.model for release in releases}:
            self._announced[model] = tuple((one.digest, one.manifest.created, one.manifest.parents or ()) for one in releases)

    def _needed(self, slot: ModelSlot) -> set[bytes]:
        settled = {target.digest for target in (slot.serving, slot.last_good) if target}
        since = self._manifest(slot.serving.digest).created if slot.serving else 0
        newer = [one for one in self._announced.get(slot.model, ()) if one[0] not in settled and one[1] >= since]
        return {parent for _, _, parents in newer for parent in parents}

    def tidy(self) -> None:
        """Remove whatever nobody needs, half-finished releases too; what is fetched now, served, last good or needed for a delta stays."""
        kept = {target.digest for slot in self._slots.values() for target in (slot.target, slot.serving, slot.last_good) if target}
        kept |= {parent for slot in self._slots.values() for parent in self._needed(slot)}
        for digest in set(self._artifacts.releases()) - kept:
            self._store.forget_held(digest.hex())
            self._artifacts.remove(digest)
            self._manifests.pop(digest, None)
            log.info("release.removed", release=digest.hex()[:12])

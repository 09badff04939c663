"""Carry out the lifecycle: durable first, then done. Everything that happens to a model slot passes through `_apply`."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import count

import structlog

from node.agent.activation.endpoint_check import Endpoint, is_not_served
from node.agent.activation.fetcher import Fetcher
from node.agent.activation.garbage_collection import GarbageCollection, held
from node.agent.activation.manifests import Manifests
from node.agent.activation.owed_commands import OwedCommands
from node.agent.activation.parameters import Parameters
from node.agent.activation.receipts import Receipts
from node.agent.activation.repairs import Repairs, damage_of
from node.agent.activation.rollout_traces import RolloutTraces
from node.agent.activation.slot_report import slot_report
from node.agent.activation.staging import coming, former_release, staged
from node.agent.activation.trials import CUT_SHORT, Trials
from node.agent.events import EndpointAnswered, TransferStalled, WorkerGone, WorkerReady
from node.core.activation import lifecycle, probation, recovery
from node.core.activation.effective_parameters import EffectiveParameters
from node.core.activation.lifecycle import ModelSlot, Target
from node.core.activation.shadow_comparison import Agreement
from node.core.delivery.byte_quota import BUDGET_CODES
from node.core.trust.clock import MonotonicClock, MonotonicSeconds, WallSeconds
from node.serving.activation import Prepared
from node.serving.loaded_model import Stats
from node.serving.server import Server
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from node.storage.store import NodeStore
from node.trust.tuf_client import Release
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.rollout import Carriage, ReleaseRef
from schemas.state import Slot

log = structlog.get_logger()

REPORTED_AT_ONCE = ("refused", "rolled_back")  # a receipt of what is true already; "serving" is true only after the switch


class Slots:
    """Run the model slots of a node."""

    def __init__(
        self,
        *,
        store: NodeStore,
        artifacts: Artifacts,
        fetcher: Fetcher,
        server: Server,
        manifests: Manifests,
        parameters: Parameters,
        settings: NodeSettings,
        post: Callable[[WorkerReady | WorkerGone | EndpointAnswered], None],
        report: Callable[..., None],
        refused: Callable[[Refused, str], None] = lambda refusal, model: None,
        serving_changed: Callable[[bytes, Manifest, EffectiveParameters], None],
        carriage_of: Callable[[str], Carriage | None],
        may_activate: Callable[[str, bytes, WallSeconds], bool],
        monotonic: MonotonicClock,
        traces: RolloutTraces | None = None,
    ) -> None:
        self._store, self._artifacts, self._fetcher, self._server = store, artifacts, fetcher, server
        self._manifests, self._parameters, self._traces = manifests, parameters, traces or RolloutTraces()
        self._staged = partial(staged, manifests=manifests, artifacts=artifacts, settings=settings, parameters=parameters)
        self._post, self._receipts, self._may_activate = post, Receipts(store, report, self._traces), may_activate
        self._serving_changed, self._carriage_of, self._monotonic, self._refusal = serving_changed, carriage_of, monotonic, refused
        server.watch_files(lambda model, digest, reason: post(WorkerGone(model, digest, reason, 1, is_damaged=True)))
        self._endpoint, self._trials = Endpoint(server, post=post, monotonic=monotonic), Trials(store)
        self._slots, self._numbers = dict[str, ModelSlot](), count(1)
        self._tickets = dict[bytes, int]()  # The newest start of each release's worker.
        self._restoring: set[bytes] = set()
        self._restore_again: dict[bytes, tuple[int, MonotonicSeconds | None]] = {}  # tries so far, and when the next begins, unless it runs
        self._repairs = Repairs(monotonic)
        self._owed = OwedCommands(self._carry_out, monotonic)
        self._garbage = GarbageCollection(store, artifacts, manifests, parameters)
        self._idle_reports: dict[str, Slot] = {}  # Cached reports of idle slots.
        self.changed = True

    # Events from the loop

    def resume(self, now: WallSeconds) -> None:
        """Bring back what was served after a start, and go on. An end without `left` is a mark against what is on probation."""
        was_cut = self._trials.began()
        self._slots = self._store.slots()
        for model, slot in list(self._slots.items()):
            self._apply(slot, lifecycle.interrupted(slot, now=int(now)), now)
            if was_cut and self._trials.is_cut_too_often(self._slots[model]):
                self._apply(slot := self._slots[model], lifecycle.misbehaved(slot, Code.PROBATION_CUT, CUT_SHORT, now=int(now)), now)

    def left(self) -> None:
        """Take in that this process ends as it should."""
        self._trials.left()

    def wanted(self, release: Release, rollout: bytes, now: WallSeconds) -> None:
        """Take in that a rollout wants this verified release here."""
        manifest = release.manifest
        self._manifests.keep(release)
        slot = self._slots.get(manifest.model) or ModelSlot(model=manifest.model)
        target = Target(version=manifest.version, digest=release.digest, rollout=rollout)
        self._apply(slot, lifecycle.wanted(slot, target, now=int(now)), now)
        self._fetcher.carry(manifest.model, self._carriage_of(manifest.model))  # another rollout of what is on its way already

    def serving(self, model: str) -> ReleaseRef | None:
        """Return the release that is served for a model, if any."""
        slot = self._slots.get(model)
        return ReleaseRef(slot.serving.version, slot.serving.digest) if slot is not None and slot.serving is not None else None

    def halted(self, model: str, now: WallSeconds) -> None:
        """Take in that the model's rollout moves this node no more: it was halted, or another one does not reach it."""
        slot = self._slots.get(model)
        if slot is not None:
            self._apply(slot, lifecycle.halted(slot, now=int(now)), now)

    def stopped(self, model: str, now: WallSeconds) -> None:
        """Take in that nothing of the model is to be served any more."""
        slot = self._slots.get(model)
        if slot is not None:
            self._apply(slot, lifecycle.stopped(slot, now=int(now)), now)

    def keep_models(self, models: Collection[str]) -> None:
        """Stop serving models that the fleet has removed, and free their disk; nothing of them comes back after a restart."""
        removed = [slot for model, slot in self._slots.items() if model not in models]
        for slot in removed:
            with self._store.transaction():
                self._store.drop_slot(slot.model)
                self._trials.removed(slot.model)
            del self._slots[slot.model]
            self._fetcher.cancel(slot.model)
            for digest in {one.digest for one in (slot.target, slot.serving, slot.last_good) if one is not None}:
                self._retire(digest)
            self._server.forget(slot.model)
            self._artifacts.unpoint(slot.model)
            self._garbage.removed(slot.model)
            self._endpoint.forget(slot.model)
            self._report_anew(slot.model)
            log.warning("model.removed", model=slot.model)
        if removed:
            self.tidy()

    def fetched(self, model: str, target: Target, refusal: Refused | None, now: WallSeconds) -> None:
        """Take in that a transfer ended."""
        slot = self._slots.get(model)
        if slot is None:
            return  # the model was removed meanwhile
        if slot.serving == target and slot.state not in lifecycle.FETCHING and self._needs_repair(slot):
            self._repaired(slot, target, refusal)
            return
        if slot.target != target:
            return  # another release is wanted by now
        if slot.state not in lifecycle.FETCHING:
            return  # It ended twice, or was a repair that is over: what runs is not judged by it.
        if refusal is not None and refusal.code is Code.DISK_DAMAGED:
            self._target_damaged(slot, target, refusal.reason, now)
        elif refusal is None:
            self._apply(slot, lifecycle.fetched(slot, now=int(now)), now)
        else:
            self._apply(slot, lifecycle.failed(slot, refusal.code, refusal.reason, now=int(now)), now)

    def stalled(self, event: TransferStalled, now: WallSeconds) -> None:
        """Take in that a transfer waits, or goes on."""
        slot = self._slots.get(event.model)
        if slot is not None and slot.target == event.target:
            self._apply(slot, lifecycle.waits(slot, str(event.code or ""), spent=event.code in BUDGET_CODES, now=int(now)), now)

    def ready(self, event: WorkerReady, now: WallSeconds) -> None:
        """Take in that a worker is warm, or could not be."""
        if self._tickets.get(event.target.digest) != event.ticket or event.model not in self._slots:
            return  # it was given up since, and perhaps asked for again
        slot, result = self._slots[event.model], event.result
        if restores := event.target.digest in self._restoring:
            self._restored(slot, event, now)  # before anything is written down: clients wait for it
        if isinstance(result, Prepared):
            self._store.put_evidence(event.target.digest, result.evidence, at=int(now))
        if restores:
            return
        if self._stands_in(slot, event.target):
            self._stand_in(slot, event)
        elif slot.serving == event.target and isinstance(result, Prepared):
            self._switch(slot, event.target, now)  # again: the first time, its disk took nothing while this was done
        elif slot.target != event.target or slot.state != "testing":
            if isinstance(result, Prepared):
                self._retire(event.target.digest)  # overtaken while it was loading
        elif isinstance(result, Refused):
            if result.code is Code.DISK_DAMAGED:
                self._target_damaged(slot, event.target, result.reason, now)
            else:
                self._apply(slot, lifecycle.failed(slot, result.code, result.reason, now=int(now)), now)
        else:
            self._repairs.mended(event.target.digest)
            self._receipts.measured(event.target, result.evidence)
            compare = self._manifests.get(event.target.digest).limits.shadow is not None
            self._apply(slot, lifecycle.prepared(slot, now=int(now), compare=compare), now)

    def endpoint_answered(self, event: EndpointAnswered) -> None:
        """Take in that the endpoint was asked: what answers there is reported as served, and what clients do not get is brought back."""
        found, slot = self._endpoint.heard(event), self._slots.get(event.model)
        serving = event.target if slot is not None and slot.serving == event.target else None
        if found and slot is not None and serving is not None:
            self._receipts.sign(slot, lifecycle.Report("serving", serving))
        if found:
            self._endpoint.forget(event.model)  # after what was proven is written down: on a full disk it is heard once more
        elif found is False and serving is not None and is_not_served(event) and serving.digest not in self._restoring:
            log.error("endpoint.not_serving", model=event.model, version=serving.version, reason=str(event.error))
            self._restore(event.model, serving)

    def worker_gone(self, event: WorkerGone, now: WallSeconds) -> None:
        """Take in that a worker ended by itself."""
        slot = self._slots.get(event.model)
        if slot is None:
            return
        if event.is_damaged:
            self._files_changed(slot, event, now)
            return
        log.error("worker.lost", model=event.model, digest=event.digest.hex()[:12], reason=event.reason, deaths=event.deaths)
        self._apply(slot, recovery.worker_ended(slot, event.digest, reason=event.reason, deaths=event.deaths, now=int(now)), now)

    def tick(self, now: WallSeconds) -> None:
        """Judge what is compared, and what is served without having proved itself."""
        for model in list(self._slots):
            slot = self._slots[model]
            again = self._restore_again.get(slot.serving.digest) if slot.serving else None
            if slot.serving is not None and again is not None and again[1] is not None and again[1] <= self._monotonic():
                self._restore_again[slot.serving.digest] = (again[0], None)
                self._prepare(model, slot.serving)
            self._repair_when_due(slot, now)
            if slot.state == "staged" and slot.target is not None:  # its window may be open by now
                self._begin(slot, slot.target, now)
            if slot.state == "shadow" and slot.target is not None:
                self._judge_shadow(slot, slot.target, now)
            slot = self._slots[model]
            if slot.serving is not None and not slot.proven:
                self._judge_probation(slot, slot.serving, now)
            elif slot.state == "probation" and slot.serving is not None and slot.serving.digest not in self._restoring:
                self._apply(slot, lifecycle.settled(slot, now=int(now)), now)  # it had proved itself here before
        self._owed.again(self._slots, self._restoring, now)
        self._endpoint.tick()

    def parameters_changed(self) -> None:
        """Take in what an operator or the site set: it holds from the next request on."""
        for slot in self._slots.values():
            for target in (slot.serving, slot.target):
                if target is not None:
                    self._set_parameters(target.digest)
        self._idle_reports.clear()
        self.changed = True

    def report_of(self) -> tuple[Slot, ...]:
        """Return the slots, the newest first. Asked every two seconds, and made anew only where something may have changed."""
        for model, slot in self._slots.items():
            if slot.target is not None or model not in self._idle_reports:
                self._idle_reports[model] = self._report_of(slot)
        return tuple(self._idle_reports[model] for model in lifecycle.newest_first(self._slots.values()))

    def _report_of(self, slot: ModelSlot) -> Slot:
        return slot_report(slot, self._store, self._manifests, self._parameters, is_damaged=self._needs_repair(slot))

    def _apply(self, before: ModelSlot, step: lifecycle.Step, now: WallSeconds) -> None:
        """Write down the slot, the move, and what they report, at once; then act. A kill after that is taken up by `resume`."""
        slot = step.slot
        reports_at_once = [one for one in step.commands if isinstance(one, lifecycle.Report) and one.outcome in REPORTED_AT_ONCE]
        if step.move is not None:
            with self._store.transaction():
                self._store.put_slot(slot, step.move)
                self._trials.moved(before, slot, step.move)
                for report in reports_at_once:
                    self._receipts.sign(slot, report)
            self._slots[slot.model] = slot
            self._idle_reports.pop(slot.model, None)
            self.changed = True
            self._traces.moved(before, slot, step.move)
        self._server.announce_coming(slot.model, coming(self._slots.get(slot.model, slot)))
        self._owed.carry_out(slot, [one for one in step.commands if one not in reports_at_once], now)

    def _carry_out(self, slot: ModelSlot, command: lifecycle.Command, now: WallSeconds) -> None:
        match command:
            case lifecycle.Fetch(target):
                self._fetch(slot.model, target, now)
            case lifecycle.CancelFetch():
                self._fetcher.cancel(slot.model)
            case lifecycle.Prepare(target):
                self._begin(self._slots[slot.model], target, now)
            case lifecycle.Restore(target):
                self._restore(slot.model, target)
            case lifecycle.Compare(target):
                self._compare(slot, target)
            case lifecycle.Switch(target):
                self._switch(self._slots[slot.model], target, now)
            case lifecycle.Retire(target):
                self._retire(target.digest)
            case lifecycle.Report(_, target):
                # The switch may have failed: then its roll back was reported, or it is on its way back.
                if self._slots[slot.model].serving == target and target.digest not in self._restoring:
                    self._endpoint.prove(slot.model, target)
            case lifecycle.Tidy():
                self.tidy()

    def _fetch(self, model: str, target: Target, now: WallSeconds) -> None:
        try:
            manifest, variant = self._manifests.get(target.digest), self._manifests.wanted_variant(target.digest)
        except Refused as refusal:
            self.fetched(model, target, refusal, now)
            return
        slot = self._slots[model]
        if slot.serving is not None:
            self._repairs.hurry(slot.serving.digest)  # This takes its place on the road, and it is begun again afterwards.
        follows = slot.serving is not None or slot.last_good is not None
        self._fetcher.start(model, target, manifest, variant.name, self._monotonic(), carriage=self._carriage_of(model), follows=follows)

    def _begin(self, slot: ModelSlot, target: Target, now: WallSeconds) -> None:
        """Start a worker for what is staged, once the rollout lets this node activate it."""
        if slot.state == "staged":
            if slot.serving is not None and not self._may_activate(slot.model, target.rollout, now):
                self._apply(slot, lifecycle.waits_for_window(slot, now=int(now)), now)
                return
            self._apply(slot, lifecycle.begun(slot, now=int(now)), now)
        self._prepare(slot.model, target)

    def _prepare(self, model: str, target: Target) -> None:
        ticket = self._tickets[target.digest] = next(self._numbers)
        try:
            release = self._staged(model, target, rollout=self._traces.id_of(model, target))
        except Refused as refusal:
            self._post(WorkerReady(model, target, refusal, ticket))
            return
        self._server.prepare(release, lambda result: self._post(WorkerReady(model, target, result, ticket)))

    def _restore(self, model: str, target: Target) -> None:
        self._restoring.add(target.digest)
        self._prepare(model, target)

    def _retire(self, digest: bytes) -> None:
        """End a worker, or its start; reports of it from now on are old."""
        self._tickets.pop(digest, None)
        self._restoring.discard(digest)
        self._restore_again.pop(digest, None)
        self._repairs.given_up(digest)
        self._server.retire(digest)

    def _switch(self, slot: ModelSlot, target: Target, now: WallSeconds) -> None:
        try:
            self._server.remember(target.digest, former_release(slot, self._manifests, self._parameters))
            self._server.switch(slot.model, target.digest)
        except Refused as refusal:  # the worker died between its test and the switch
            if slot.proven:
                self._restore(slot.model, target)
            else:
                self._apply(slot, lifecycle.failed(slot, refusal.code, refusal.reason, now=int(now)), now)
            return
        self._serving_begins(slot.model, target)
        makes_way = {one.digest for one in (slot.last_good,) if one is not None} | self._others(slot)
        for old in makes_way - {target.digest}:
            if old == getattr(slot.last_good, "digest", None) and self._manifests.get(target.digest).limits.shadow is not None:
                self._compare_old(slot.model, old)
            else:
                self._retire(old)
        self._owed.done(slot.model, lifecycle.Switch(target))

    def _compare(self, slot: ModelSlot, target: Target) -> None:
        if slot.serving is not None and slot.serving.digest not in self._restoring:  # else as soon as it is back
            self._server.compare_with(slot.model, target.digest)

    def _others(self, slot: ModelSlot) -> set[bytes]:
        """Return releases of this model that are held and neither served nor the last good: one was superseded while on probation."""
        loaded = self._server.loaded_of(slot.model)
        return loaded - {one.digest for one in (slot.serving, slot.last_good) if one is not None}

    def _compare_old(self, model: str, old: bytes) -> None:
        """Have the release that served before answer beside the one on probation: it is warm if it has to come back."""
        try:
            self._server.compare_with(model, old)
        except Refused:  # not held: it was not what answered until now
            self._retire(old)

    def _serving_begins(self, model: str, target: Target) -> None:
        """Have telemetry count for this release from now on, and other programs find its files."""
        manifest = self._manifests.get(target.digest)
        self._serving_changed(target.digest, manifest, self._parameters.effective_parameters(target.digest, manifest))
        try:
            self._artifacts.point(model, target.digest, self._manifests.variant_here(target.digest).name)
        except (Refused, OSError) as error:  # the release is served all the same; other programs find its files once there is room
            log.error("link.not_set", model=model, reason=str(error))

    def _set_parameters(self, digest: bytes) -> None:
        try:
            manifest = self._manifests.get(digest)
        except Refused:
            return
        found = self._parameters.effective_parameters(digest, manifest)
        self._server.set_parameters(digest, found)
        self._serving_changed(digest, manifest, found)

    def _restored(self, slot: ModelSlot, event: WorkerReady, now: WallSeconds) -> None:
        digest, result = event.target.digest, event.result
        self._restoring.discard(digest)
        if recovery.is_overtaken(slot, event.target):
            if isinstance(result, Prepared):
                self._retire(digest)
            return
        if isinstance(result, Prepared):
            try:
                self._server.remember(digest, former_release(slot, self._manifests, self._parameters))
                self._server.switch(slot.model, digest)
            except Refused as refusal:  # the worker died between its test and the switch
                result = refusal
        if isinstance(result, Prepared):
            self._back_in_service(slot, event.target, result)
        else:
            self._not_restored(slot, event.target, result, now)

    def _back_in_service(self, slot: ModelSlot, target: Target, prepared: Prepared) -> None:
        self._receipts.measured(target, prepared.evidence)
        self._serving_begins(slot.model, target)
        found = recovery.restored(slot, self._server.loaded_of(slot.model))
        if found.compare is not None:
            self._server.compare_with(slot.model, found.compare.digest)
        for other in found.retire:
            self._retire(other)
        self._endpoint.prove(slot.model, target)
        self._restore_again.pop(target.digest, None)
        if target.digest in self._repairs:
            self._whole_again(slot, target)

    def _not_restored(self, slot: ModelSlot, target: Target, refusal: Refused, now: WallSeconds) -> None:
        log.error("slot.not_restored", model=slot.model, version=target.version, code=refusal.code, reason=refusal.reason)
        if refusal.code is Code.DISK_DAMAGED:
            self._damaged(slot, target, refusal.reason)
            return
        tries, _ = self._restore_again.pop(target.digest, (0, None))
        match recovery.not_restored(slot, refusal.code, refusal.reason, tries=tries, now=int(now)):
            case recovery.RetryRestore(tries, pause_seconds):
                self._restoring.add(target.digest)
                self._restore_again[target.digest] = (tries, self._monotonic() + pause_seconds)
            case lifecycle.Step() as step:
                self._repairs.given_up(target.digest)
                self._apply(slot, step, now)

    # Files that were damaged on the disk, which is no fault of the release

    def _files_changed(self, slot: ModelSlot, event: WorkerGone, now: WallSeconds) -> None:
        """Take in that a worker that ended cannot start anew from its files."""
        if slot.serving is not None and slot.serving.digest == event.digest:
            if event.digest not in self._restoring:
                self._server.retire(event.digest)
                self._damaged(slot, slot.serving, event.reason)
        elif slot.state == "shadow" and slot.target is not None and slot.target.digest == event.digest:
            self._target_damaged(slot, slot.target, event.reason, now)
        else:
            self._retire(event.digest)

    def _damaged(self, slot: ModelSlot, serving: Target, reason: str) -> None:
        """Fetch what is served again, for it cannot be loaded from these files, and have the last good release answer meanwhile."""
        self._report_damage(slot, serving, reason)
        self._restoring.add(serving.digest)
        is_first = self._repairs.found(serving.digest)
        self._report_anew(slot.model)
        if is_first and slot.last_good is not None and self._stands_in(slot, slot.last_good):
            self._prepare(slot.model, slot.last_good)

    def _needs_repair(self, slot: ModelSlot) -> bool:
        return slot.serving is not None and slot.serving.digest in self._repairs

    def _report_damage(self, slot: ModelSlot, target: Target, reason: str) -> None:
        log.error("release.damaged", model=slot.model, version=target.version, code=Code.DISK_DAMAGED, reason=reason)
        self._refusal(damage_of(target.version, reason), slot.model)  # In a receipt that names no release: it says nothing against one.

    def _target_damaged(self, slot: ModelSlot, target: Target, reason: str, now: WallSeconds) -> None:
        """Fetch what is wanted again: its files are no more what they were when they came. The rollout hears of no failure."""
        self._report_damage(slot, target, reason)
        self._apply(slot, lifecycle.damaged(slot, now=int(now)), now)
        self._repairs.found(target.digest)

    def _repair_when_due(self, slot: ModelSlot, now: WallSeconds) -> None:
        """Fetch what is missing or differs, unless a newer release is on its way."""
        serving, target = slot.serving, slot.target
        if target is not None and slot.state in lifecycle.FETCHING:
            if self._repairs.is_due(target.digest):
                self._repairs.begun(target.digest)
                self._manifests.drop_unusable(target.digest)
                self._fetch(slot.model, target, now)
            return
        if serving is None or not self._repairs.is_due(serving.digest):
            return
        try:
            manifest, variant = self._manifests.get(serving.digest), self._manifests.variant_here(serving.digest)
        except Refused as refusal:  # the manifest comes again with the model's releases
            self._repaired(slot, serving, refusal)
            return
        self._manifests.drop_unusable(serving.digest)
        self._repairs.begun(serving.digest)
        self._fetcher.start(
            slot.model, serving, manifest, variant.name, self._monotonic(), carriage=self._carriage_of(slot.model), follows=True
        )

    def _repaired(self, slot: ModelSlot, serving: Target, refusal: Refused | None) -> None:
        if refusal is not None:
            log.error("release.not_repaired", model=slot.model, version=serving.version, code=refusal.code, reason=refusal.reason)
            self._repairs.failed(serving.digest)
            return
        log.info("release.repaired", model=slot.model, version=serving.version)
        self._restore(slot.model, serving)

    def _stands_in(self, slot: ModelSlot, other: Target) -> bool:
        """Return whether this is the last good release, which answers while what is to be served is fetched again."""
        good = slot.last_good is not None and slot.last_good.digest == other.digest
        tested = slot.state in lifecycle.IN_WORKER and slot.target is not None and slot.target.digest == other.digest
        return good and not tested and self._needs_repair(slot) and slot.serving is not None and slot.serving.digest != other.digest

    def _stand_in(self, slot: ModelSlot, event: WorkerReady) -> None:
        try:
            if isinstance(event.result, Refused):
                raise event.result
            self._server.switch(slot.model, event.target.digest)
        except Refused as refusal:
            log.error("stand_in.failed", model=slot.model, version=event.target.version, code=refusal.code, reason=refusal.reason)
            return
        log.warning("stand_in.served", model=slot.model, version=event.target.version)
        self._serving_begins(slot.model, event.target)

    def _whole_again(self, slot: ModelSlot, serving: Target) -> None:
        self._repairs.mended(serving.digest)
        self._report_anew(slot.model)
        good, under_way = slot.last_good, slot.target if slot.state in lifecycle.IN_WORKER else None
        if good is not None and good.digest not in {serving.digest, under_way.digest if under_way is not None else None}:
            self._retire(good.digest)

    def _report_anew(self, model: str) -> None:
        self._idle_reports.pop(model, None)
        self.changed = True

    def _judge_shadow(self, slot: ModelSlot, target: Target, now: WallSeconds) -> None:
        trial, limits = self._trials.comparison(slot.model), self._manifests.get(target.digest).limits
        agreement = trial.before.plus(self._server.agreement(slot.model))
        old, new = self._stats(slot.model, slot.serving), self._stats(slot.model, target)
        trial.look(running=old is not None and old.serves and new is not None and new.live, now=self._monotonic())
        verdict = probation.on_shadow(limits, agreement, seconds=trial.seconds)
        if verdict.found == "waits":
            self._trials.keep_comparison(slot.model, agreement, terms_seconds=limits.shadow.seconds if limits.shadow else 0.0)
            return
        self._receipts.judged(target, verdict, compared=True)
        if verdict.found == "good":
            self._apply(slot, lifecycle.agreed(slot, now=int(now)), now)
        else:
            self._apply(slot, lifecycle.failed(slot, verdict.code, verdict.reason, now=int(now)), now)

    def _judge_probation(self, slot: ModelSlot, serving: Target, now: WallSeconds) -> None:
        trial, stats = self._trials.probation(slot.model), self._stats(slot.model, serving)
        trial.look(running=stats is not None and stats.serves, now=self._monotonic())
        if stats is None:
            return  # Its manifest may be damaged, too.
        limits = self._manifests.get(serving.digest).limits
        # While something newer is compared, the agreement is that one's.
        agreement = self._server.agreement(slot.model) if slot.state in lifecycle.SERVING else Agreement()
        verdict = probation.on_probation(
            limits,
            requests=stats.requests,
            errors=stats.errors,
            turned_away=stats.turned_away,
            latency_ms=stats.latency_ms_p50,
            agreement=agreement,
            seconds=trial.seconds,
        )
        if verdict.found == "waits":
            self._trials.keep_probation(slot.model, terms_seconds=limits.probation_seconds)
        elif verdict.found == "good":
            self._server.remember(serving.digest, None)
            self._apply(slot, lifecycle.settled(slot, now=int(now)), now)
        else:
            self._receipts.judged(serving, verdict, compared=verdict.code == Code.SHADOW_DISAGREES)
            self._apply(slot, lifecycle.misbehaved(slot, verdict.code, verdict.reason, now=int(now)), now)

    def _stats(self, model: str, target: Target | None) -> Stats | None:
        """Return what a release has done; None while it is being loaded."""
        if target is None or target.digest in self._restoring:
            return None
        try:
            return self._server.stats(model, target.digest)
        except Refused:
            return None

    def announced(self, releases: Sequence[Release]) -> None:
        """Take in a model's current releases: what the newer ones are deltas of is kept."""
        self._garbage.announced(releases)
        for release in self._manifests.repaired(releases, of=held(self._slots.values())):
            self._repairs.hurry(release.digest)

    def sign_again(self) -> None:
        """Sign once more what is served, and what was not taken: the hub has asked."""
        if self._receipts.may_sign_again(self._monotonic()):
            self._endpoint.prove_again(self._slots.values())
            self._receipts.sign_failures(self._slots.values())

    def tidy(self) -> None:
        """Remove whatever nobody needs."""
        self._garbage.tidy(self._slots.values())

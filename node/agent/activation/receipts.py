"""Fill in a slot's receipts: the outcome, with what was measured on this device and what it cost to bring here."""

from collections.abc import Callable, Iterable
from typing import Literal

import structlog

from node.agent.activation.rollout_traces import RolloutTraces
from node.core.activation.lifecycle import ModelSlot, Report, Target
from node.core.activation.probation import Verdict
from node.core.trust.clock import NEVER, MonotonicSeconds
from node.storage.store import NodeStore
from schemas.receipt import Evidence

log = structlog.get_logger()

PASSED = "passed"
FAILED = frozenset({"refused", "rolled_back"})
AGAIN_SECONDS = 600.0  # Between two times that receipts are signed on request: a hostile broker must not spend our bytes.


class Receipts:
    """Collect evidence by release, until a receipt carries it."""

    def __init__(self, store: NodeStore, report: Callable[..., None], traces: RolloutTraces) -> None:
        self._store, self._report, self._traces = store, report, traces
        self._evidence: dict[bytes, Evidence] = {}
        self._again_at = NEVER

    def measured(self, target: Target, evidence: Evidence) -> None:
        """Take in that a release has proved itself."""
        self._evidence[target.digest] = evidence

    def judged(self, target: Target, verdict: Verdict, *, compared: bool) -> None:
        """Keep how a trial ended. What was counted in it is logged here and leaves in nothing that names this device."""
        log.info("release.judged", version=target.version, found=verdict.found, code=verdict.code, counted=verdict.counted)
        if compared:
            known = self._evidence.get(target.digest, Evidence())
            self._evidence[target.digest] = known.model_copy(update={"shadow": verdict.code or PASSED})

    def may_sign_again(self, now: MonotonicSeconds) -> bool:
        """Return whether a request for receipts may be obeyed now, and count it if so."""
        if now - self._again_at < AGAIN_SECONDS:
            return False
        self._again_at = now
        return True

    def sign_failures(self, slots: Iterable[ModelSlot]) -> None:
        """Sign once more which releases this node did not take."""
        for slot in slots:
            if slot.target is not None and slot.state in FAILED:
                outcome: Literal["refused", "rolled_back"] = "refused" if slot.state == "refused" else "rolled_back"
                self.sign(slot, Report(outcome, slot.target, slot.code, "signed again, for the hub has asked"))

    def sign(self, slot: ModelSlot, report: Report) -> None:
        """Sign a receipt and keep it until the broker has it."""
        serving = report.outcome == "serving"
        usage = self._store.usage_of(report.target.digest)
        counted = {f"bytes_{what}": getattr(usage, what) for what in ("planned", "received", "reused", "wasted")}
        self._report(
            report.outcome,
            code=report.code,
            reason=report.reason,
            model=slot.model,
            target=report.target,
            rollout=self._traces.id_of(slot.model, report.target),
            since=slot.serving_since if serving else None,
            evidence=self._evidence.get(report.target.digest, Evidence()).model_copy(update=counted),
        )

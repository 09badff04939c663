"""Log what a rollout does on this node under its id, and record it as spans of the rollout's trace where `traces_url` is set.

A span says which release moved here, how many blocks and bytes came, and what failed. It says nothing about what was asked here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from fleetcast.rollout_spans import NoSpans, Span, Spans, is_sampled, node_span_id, root_id, spans_of
from node.core.activation.lifecycle import FETCHING, IN_WORKER, SERVING, ModelSlot, Move, Target
from node.core.trust.clock import MonotonicClock, WallClock
from node.settings import NodeSettings
from schemas.deployments import Deployment, rollout_of

log = structlog.get_logger()

FAILED = ("refused", "rolled_back")


@dataclass(slots=True)
class RolloutTraces:
    """Follow the rollouts of a node. Without an exporter it only knows their ids."""

    spans: Spans = field(default_factory=NoSpans)
    node: str = ""
    share: float = 1.0
    deployments: Callable[[str], Iterable[Deployment]] = lambda model: ()
    wall: Callable[[], float] = lambda: 0.0
    monotonic: Callable[[], float] = lambda: 0.0
    ids: dict[str, str] = field(default_factory=dict)  # Rollouts that each model has followed last.
    _began: dict[tuple[str, str], float] = field(default_factory=dict)  # by model and what: when a span began, on the monotonic clock

    @classmethod
    def of(
        cls, settings: NodeSettings, deployments: Callable[[str], Iterable[Deployment]], wall: WallClock, monotonic: MonotonicClock
    ) -> "RolloutTraces":
        """Return the traces of a node with these settings.

        Raises:
            Refused: SETTINGS_INVALID: OpenTelemetry is not installed.
        """
        spans = spans_of(settings.traces_url, service="fleetcast-node", instance=settings.id, fleet=settings.fleet)
        return cls(spans, settings.id, settings.traces_share, deployments, lambda: float(wall()), lambda: float(monotonic()))

    def id_of(self, model: str, target: Target | None) -> str:
        """Return the id of the rollout that wants a release here, as logs and traces have it; "" where none is known."""
        if target is None or not target.rollout:
            return ""
        found = self.ids[model] = self._rollout(model, target).hex()
        return found

    def moved(self, before: ModelSlot, slot: ModelSlot, move: Move) -> None:
        """Log a move of a slot, and record what ends with it."""
        target = move.target or slot.target or before.target
        rollout = self.id_of(slot.model, target)
        log.info("slot.moved", model=slot.model, rollout=rollout, by=move.event, before=move.before, state=slot.state, code=slot.code)
        if not self.spans.on or target is None:
            return
        if slot.state in FETCHING and before.state not in FETCHING:
            self._begin(slot.model, "fetch")
        if slot.state in IN_WORKER and before.state not in IN_WORKER:
            self._begin(slot.model, "activate")
            self._begin(slot.model, "prepare")
        if before.state == "testing" and slot.state != "testing":
            self._end(slot.model, target, "prepare", "worker.prepared", code=slot.code if slot.state in FAILED else "")
        if before.state in FETCHING and slot.state == "staged":
            self._end(slot.model, target, "fetch", "release.fetched")
        if before.state in IN_WORKER and slot.state in SERVING:
            self._end(slot.model, target, "activate", "release.activated")
        if slot.state in FAILED:
            for what, name in (("fetch", "release.fetched"), ("activate", "release.activated")):
                self._end(slot.model, target, what, name, code=slot.code)
        if slot.state in SERVING or slot.state == "idle":  # What was given up has no span: it may begin again.
            for what in ("fetch", "activate", "prepare"):
                self._began.pop((slot.model, what), None)

    def fetching(self, model: str) -> None:
        """Take in that a transfer has begun, perhaps after a restart in its midst."""
        if self.spans.on:
            self._began.setdefault((model, "fetch"), self.monotonic())

    def want_sent(self, model: str, target: Target, *, blocks: int, again: bool) -> None:
        """Record a request for blocks."""
        self._instant(model, target, "want.sent", {"blocks": blocks, "again": again})

    def blocks_taken(self, model: str, target: Target, *, blocks: int, received: int, wasted: int) -> None:
        """Record blocks that came, were verified and written."""
        self._instant(model, target, "blocks.taken", {"blocks": blocks, "bytes": received, "wasted_bytes": wasted})

    def stop(self) -> None:
        """Send what waits, for a moment."""
        self.spans.stop()

    def _rollout(self, model: str, target: Target) -> bytes:
        return rollout_of(self.deployments(model), target.rollout)

    def _begin(self, model: str, what: str) -> None:
        self._began[model, what] = self.monotonic()

    def _instant(self, model: str, target: Target, name: str, attributes: dict[str, str | int | bool]) -> None:
        if self.spans.on:
            now = self.wall()
            parent = node_span_id(target.rollout, self.node, "fetch")
            self._record(model, target, name, began=now, ended=now, parent=parent, attributes=attributes)

    def _end(self, model: str, target: Target, what: str, name: str, *, code: str = "") -> None:
        """Record a span that has begun. Its length is the monotonic clock's: the wall clock may have been set meanwhile."""
        began = self._began.pop((model, what), None)
        if began is None:
            return
        ended = self.wall()
        attempt = target.rollout
        if what == "prepare":
            own, parent = None, node_span_id(attempt, self.node, "activate")
        else:
            own, parent = node_span_id(attempt, self.node, "fetch" if what == "fetch" else "activate"), None
        self._record(model, target, name, began=ended - (self.monotonic() - began), ended=ended, id=own, parent=parent, code=code)

    def _record(
        self,
        model: str,
        target: Target,
        name: str,
        *,
        began: float,
        ended: float,
        parent: bytes | None,
        id: bytes | None = None,
        code: str = "",
        attributes: dict[str, str | int | bool] | None = None,
    ) -> None:
        rollout = self._rollout(model, target)
        if not is_sampled(rollout, self.node, self.share):
            return
        about = {"node": self.node, "model": model, "version": target.version, "rollout": rollout.hex(), **(attributes or {})}
        self.spans.record(
            Span(
                name=name,
                rollout=rollout,
                id=id,
                parent=parent or root_id(rollout),
                began=began,
                ended=ended,
                attributes=about,
                code=code,
            )
        )

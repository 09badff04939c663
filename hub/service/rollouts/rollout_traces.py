"""Log rollouts under their ids, and record what the hub does for them as spans of their traces, where `traces_url` is set."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from fleetcast.rollout_spans import NoSpans, Span, Spans, is_sampled, node_span_id, root_id, spans_of
from hub.core.rollouts.deployments import Model
from hub.settings import HubSettings
from schemas.block_request import Want
from schemas.deployments import Deployment, attempt_id, back_id
from schemas.manifest import Payload

log = structlog.get_logger()

BLOCKS_KEPT = 65_536  # Wanted blocks whose rollout is known: as many as may wait to be sent (fleetcast/block_server.py).


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Hold the rollout for which a release is wanted, and the attempt of it."""

    model: str
    deployment: Deployment
    attempt: bytes


@dataclass(slots=True)
class RolloutTraces:
    """Follow the rollouts of a hub. Without an exporter it only logs."""

    spans: Spans = field(default_factory=NoSpans)
    share: float = 1.0
    wall: Callable[[], float] = lambda: 0.0
    models: Callable[[], Iterable[Model]] = lambda: ()
    _announcing: dict[str, tuple[float, list[Deployment]]] = field(default_factory=dict)
    _blocks: OrderedDict[bytes, _Wanted] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, settings: HubSettings, *, wall: Callable[[], float], models: Callable[[], Iterable[Model]]) -> "RolloutTraces":
        """Return the traces of a hub with these settings.

        Raises:
            Refused: SETTINGS_INVALID: OpenTelemetry is not installed.
        """
        spans = spans_of(settings.traces_url, service="fleetcast-hub", instance="hub", fleet=settings.fleet)
        return cls(spans, settings.traces_share, wall, models)

    def signed(self, before: Model, after: Model, *, began: float) -> None:
        """Log which rollouts a new statement begins or moves, and record each."""
        known = {one.rollout: one for one in before.deployments}
        moved = [one for one in after.deployments if known.get(one.rollout) != one]
        for one in moved:
            log.info(
                "rollout.signed",
                rollout=one.rollout.hex(),
                model=after.name,
                deployment=one.name,
                version=one.release.version,
                state=one.state,
                percent=one.percent,
            )
        if not self.spans.on:
            return
        now = self.wall()
        for one in moved:
            is_new = one.rollout not in known
            name, own, parent = ("rollout.started", root_id(one.rollout), None) if is_new else ("rollout.moved", None, root_id(one.rollout))
            self._record(after.name, one, name, began=began, ended=now, id=own, parent=parent)
        if moved:
            waiting = self._announcing.get(after.name, (now, []))[1]
            self._announcing[after.name] = (now, [*(one for one in waiting if one.rollout not in {new.rollout for new in moved}), *moved])

    def announced(self, model: str) -> None:
        """Record that the broker was given a model's deployments."""
        began, moved = self._announcing.pop(model, (0.0, []))
        for one in moved:
            self._record(model, one, "deployments.announced", began=began, ended=self.wall(), parent=root_id(one.rollout))

    def wanted(self, node: str, want: Want, payloads: Sequence[Payload], *, began: float) -> None:
        """Record a node's request for blocks, beneath the transfer that it belongs to."""
        if not self.spans.on or (found := self._rollout_of(want.release)) is None:
            return
        for payload in payloads:
            self._blocks[payload.digest] = found
            self._blocks.move_to_end(payload.digest)
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        if is_sampled(found.deployment.rollout, node, self.share):
            self._record(
                found.model,
                found.deployment,
                "want.taken",
                began=began,
                ended=self.wall(),
                parent=node_span_id(found.attempt, node, "fetch"),
                attributes={"node": node, "blocks": len(payloads), "again": want.again},
            )

    def published(self, blocks: Mapping[bytes, int], *, began: float) -> None:
        """Record blocks that were published in one turn, with their bytes: one span a rollout, however many nodes wait for them."""
        if not self.spans.on:
            return
        counts, sizes, wanted = Counter[bytes](), Counter[bytes](), dict[bytes, _Wanted]()
        for digest, size_bytes in blocks.items():
            if (found := self._blocks.get(digest)) is not None:
                rollout = found.deployment.rollout
                wanted[rollout] = found
                counts[rollout] += 1
                sizes[rollout] += size_bytes
        for rollout, found in wanted.items():
            self._record(
                found.model,
                found.deployment,
                "blocks.published",
                began=began,
                ended=self.wall(),
                parent=root_id(rollout),
                attributes={"blocks": counts[rollout], "bytes": sizes[rollout]},
            )

    def stop(self) -> None:
        """Send what waits, for a moment."""
        self.spans.stop()

    def _rollout_of(self, release: bytes) -> _Wanted | None:
        """Return for which rollout a release is wanted: one that brings it, the newest first, else one whose nodes go back to it."""
        bringing, returning = list[_Wanted](), list[_Wanted]()
        for model in self.models():
            for one in model.deployments:
                if one.release.digest == release:
                    bringing.append(_Wanted(model.name, one, attempt_id(one)))
                elif one.fallback is not None and one.fallback.digest == release:
                    returning.append(_Wanted(model.name, one, back_id(one.rollout)))
        found = bringing or returning
        return max(found, key=lambda one: (one.deployment.state == "running", one.deployment.started)) if found else None

    def _record(
        self,
        model: str,
        one: Deployment,
        name: str,
        *,
        began: float,
        ended: float,
        parent: bytes | None,
        id: bytes | None = None,
        attributes: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        about: dict[str, str | int | bool] = {
            "model": model,
            "deployment": one.name,
            "version": one.release.version,
            "rollout": one.rollout.hex(),
            "state": one.state,
            "percent": one.percent,
        }
        span = Span(
            name=name, rollout=one.rollout, id=id, parent=parent, began=began, ended=ended, attributes={**about, **(attributes or {})}
        )
        self.spans.record(span)

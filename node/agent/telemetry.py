"""Turns served requests into windows: counts in memory, checkpoints on disk, noise and the privacy ledger before anything leaves.

A window is charged, noised and put in the outbox in one transaction, so that after any crash it was either never noised or is exactly the
one that will be sent: the same interval is never released twice with different noise.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from node.core import privacy
from node.core.sketch import Sketch, noised
from node.serving import Observation
from node.store import NodeStore
from schemas import codec
from schemas.manifest import Manifest
from schemas.signals import Baseline, Privacy
from schemas.state import TelemetryBudget

log = structlog.get_logger()

CHECKPOINT_SECONDS = 2.0


@dataclass(slots=True)
class _Watched:
    """What is counted for one release."""

    manifest: Manifest
    baseline: Baseline
    privacy: Privacy
    sketch: Sketch
    dirty: bool = False


class Telemetry:
    """The windows of every model on this node. `observe` is called by the serving thread, everything else by the loop."""

    def __init__(
        self,
        *,
        store: NodeStore,
        topic: Callable[[str, str], str],
        cohort: str,
        rho_day_max: float,
        grace_seconds: float,
        idle_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._topic, self._cohort = store, topic, cohort
        self._rho_day_max, self._grace_seconds, self._idle_seconds = rho_day_max, grace_seconds, idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[bytes, _Watched] = {}
        self._bits = privacy.BitSource(os.urandom)
        self._checkpointed = 0.0

    def watch(self, digest: bytes, manifest: Manifest) -> None:
        """Count this release's requests from now on, going on from the last checkpoint."""
        if manifest.baseline is None or manifest.privacy is None:
            return
        with self._lock:
            if digest not in self._watched:
                sketch = Sketch(manifest.baseline, manifest.privacy.window_seconds)
                sketch.restore(self._store.sketches(manifest.model, digest))
                self._watched[digest] = _Watched(manifest, manifest.baseline, manifest.privacy, sketch)

    def observe(self, seen: Observation) -> None:
        """Count one served request."""
        at = self._clock() if seen.event_time is None else seen.event_time
        with self._lock:
            watched = self._watched.get(seen.digest)
            if watched is not None:
                watched.sketch.observe(seen.inputs, seen.outputs, seen.rows, at)
                watched.dirty = True

    def tick(self, now: float) -> bool:
        """Close what is due, checkpoint the rest; True when something was put in the outbox."""
        sent = False
        for digest, watched in list(self._watched.items()):
            with self._lock:
                due = watched.sketch.due(now, grace_seconds=self._grace_seconds, idle_seconds=self._idle_seconds)
                closed = [(start, watched.sketch.take(start).tolist()) for start in due]
            for start, counts in closed:
                sent = self._close(digest, watched, start, counts, int(now)) or sent
        if now - self._checkpointed >= CHECKPOINT_SECONDS:
            self._checkpointed = now
            self.checkpoint()
        return sent

    def checkpoint(self) -> None:
        """Write open windows to disk; they stay on the device."""
        for digest, watched in self._watched.items():
            with self._lock:
                counts, dirty = watched.sketch.snapshot(), watched.dirty
                watched.dirty = False
            if dirty:
                with self._store.transaction():
                    self._store.put_sketch(watched.manifest.model, digest, counts)

    def budget(self, now: float) -> TelemetryBudget:
        """What today has spent."""
        return TelemetryBudget(
            rho_spent=self._store.spent([privacy.day_of(int(now))]),
            rho_day_max=self._rho_day_max,
            windows_waiting=self._store.count_waiting("window"),
            windows_withheld=self._store.count_withheld(),
        )

    def _close(self, digest: bytes, watched: _Watched, start: int, counts: list[int], now: int) -> bool:
        model, noise = watched.manifest.model, watched.privacy
        if self._store.window_closed(model, digest, start):
            log.warning("window.late_rows_dropped", model=model, start=start)  # the interval has been released: never twice
            return False
        sigma2 = (noise.sigma2_numerator, noise.sigma2_denominator)
        rho = privacy.rho_of(len(watched.baseline.signals), sigma2)
        days = list(privacy.days_of(start, noise.window_seconds))
        affordable = self._store.spent(days) + rho <= self._rho_day_max
        with self._store.transaction():
            if affordable:
                self._store.charge(days, rho)
                window = noised(
                    counts,
                    baseline=watched.baseline,
                    sigma2=sigma2,
                    bits=self._bits,
                    window_id=os.urandom(16),
                    release=digest[:8],
                    start=start,
                    seconds=noise.window_seconds,
                )
                self._store.enqueue("window", self._topic(model, self._cohort), codec.encode(window))
            self._store.close_window(
                model, digest, start, at=now, rows=window.rows if affordable else 0, rho=rho if affordable else 0.0, sent=affordable
            )
        log.info("window.closed" if affordable else "window.withheld", model=model, start=start, rho=round(rho, 4))
        return affordable

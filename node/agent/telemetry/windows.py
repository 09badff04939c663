"""Turn served requests into windows: counts in memory, checkpoints on disk, noise and the privacy ledger before anything leaves.

A window is charged, noised and put in the outbox in one transaction, so that after any crash it was either never noised or is exactly the
one that will be sent: the same interval is never released twice with different noise.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from node.agent.telemetry.accuracy import Labels
from node.agent.telemetry.calibration import Calibration
from node.agent.telemetry.cohort_changes import CohortChanges
from node.agent.telemetry.privacy_accountant import PrivacyAccountant
from node.core.telemetry import privacy
from node.core.telemetry.privatise import added, bins_of_rows, crowded, noised, of_rows_many, rows_in
from node.core.telemetry.sketch import Sketch
from node.core.trust.clock import WallClock, WallSeconds
from node.serving.loaded_model import Observation
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Code
from schemas.limits import SLOTS_MAX
from schemas.manifest import Manifest
from schemas.signals import Baseline, Privacy
from schemas.state import TelemetryBudget
from schemas.window import Window

log = structlog.get_logger()

CHECKPOINT_SECONDS = 2.0
FUTURE_SECONDS = 3600  # A program's clock error that is forgiven; later rows would spend the budget of days to come
MIB_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Watched:
    """Describe what is counted for one release."""

    manifest: Manifest
    baseline: Baseline
    privacy: Privacy
    sketch: Sketch
    calibration: Calibration
    cohort: str  # In which its own baseline is made.
    dirty: bool = False

    @property
    def rho(self) -> float:
        """Return what a window costs."""
        return self.privacy.rho(len(self.baseline.signals))


@dataclass(frozen=True, slots=True)
class _Kind:
    """Hold windows that may become one: those of one topic, release and subject."""

    key: tuple[str, bytes, str | None]
    baseline: Baseline
    privacy: Privacy


class Telemetry:
    """Make the windows of every model on this node. `observe` is called by the serving thread, everything else by the loop.

    One that does not send leaves what an earlier one counted and took where it is: nothing is charged or noised until another one sends.
    """

    def __init__(
        self,
        *,
        store: NodeStore,
        topic: Callable[[str, str], str],
        cohort: str,
        rho_day_max: float,
        grace_seconds: float,
        idle_seconds: float,
        witness: Path,
        waiting_max: int,
        waiting_bytes_max: int,
        labels_wait_seconds: float = 86_400.0,
        sends: bool = True,
        clock: WallClock,
    ) -> None:
        self.sends = sends
        self._labels_wait_seconds = labels_wait_seconds
        self._served: dict[bytes, Manifest] = {}
        self.cohorts = CohortChanges(cohort)
        self._store, self._topic = store, topic
        self._rho_day_max, self._grace_seconds, self._idle_seconds = rho_day_max, grace_seconds, idle_seconds
        self._waiting_max, self._waiting_bytes_max = waiting_max, waiting_bytes_max
        self._clock = clock
        self._accountant = PrivacyAccountant(store, witness, rho_day_max=rho_day_max, clock=clock)
        self._lock = threading.Lock()
        self._watched: dict[bytes, _Watched] = {}
        self._bits = privacy.BitSource(os.urandom)
        self.labels = Labels(
            store,
            self._accountant,
            topic=topic,
            cohorts=self.cohorts,
            wait_seconds=labels_wait_seconds if sends else None,
            bits=self._bits,
            clock=clock,
        )
        self._is_full = False  # the last turn could not be made durable
        self._checkpointed = WallSeconds(0.0)

    def watch(self, digest: bytes, manifest: Manifest) -> None:
        """Count this release's requests from now on, going on from the last checkpoint."""
        self._served[digest] = manifest
        if not self.sends:
            return
        self.labels.watch(digest, manifest)
        if manifest.baseline is None or manifest.privacy is None:
            return
        with self._lock:
            if digest not in self._watched:
                sketch = Sketch(manifest.baseline, manifest.privacy.window_seconds)
                sketch.restore(self._store.sketches(manifest.model, digest))
                calibration, cohort = self._calibration(digest, manifest), self.cohorts.now
                self._watched[digest] = _Watched(manifest, manifest.baseline, manifest.privacy, sketch, calibration, cohort)

    def _calibration(self, digest: bytes, manifest: Manifest) -> Calibration:
        return Calibration(self._store, self._accountant, digest, manifest, cohort=self.cohorts.now, bits=self._bits)

    def put_sends(self, *, sends: bool) -> None:
        """Count and send, or leave what was counted and taken where it is."""
        if sends == self.sends:
            return
        log.info("telemetry.changed", sends=sends)
        if not sends:
            self.checkpoint()
            self.labels.pause()
            self.sends = False
            with self._lock:
                self._watched.clear()
            return
        self.sends = True
        self.labels.resume(self._labels_wait_seconds)
        for digest, manifest in self._served.items():
            self.watch(digest, manifest)

    def observe(self, seen: Observation) -> None:
        """Count one served request."""
        now = float(self._clock())
        at = now if seen.event_time is None else seen.event_time
        with self._lock:
            watched = self._watched.get(seen.digest)
            if watched is None:
                return
            watched.dirty = True
            if at > now + FUTURE_SECONDS:
                watched.sketch.odd[Code.ROWS_FUTURE] += seen.rows
                return
            service = {
                "latency_ms": seen.latency_ms,
                "error": "failed" if seen.failed else "answered",
                "memory_mib": None if seen.memory_bytes is None else seen.memory_bytes / MIB_BYTES,
                "stop": seen.stop_reason,
                "prompt_tokens": seen.prompt_tokens,
                "answer_tokens": seen.answer_tokens,
            }
            watched.sketch.observe(seen.inputs, seen.outputs, seen.rows, at, service)

    def tick(self, now: WallSeconds) -> bool:
        """Close what is due, checkpoint the rest; True when something was put in the outbox.

        Raises:
            Refused: DISK_FULL: what was counted is still counted, and what is due closes once there is room.
        """
        self._is_full = True
        if not self._accountant.is_sealed:
            self._accountant.seal()
        sent = False
        for digest, watched in list(self._watched.items()):
            with self._lock:
                due = watched.sketch.due(float(now), grace_seconds=self._grace_seconds, idle_seconds=self._idle_seconds)
            for start in due:
                sent = self._take(digest, watched, start, int(now)) or sent
        if self.labels.tick(int(now)) or sent:
            sent = True
            self._accountant.seal()
            self._make_room()
        self._is_full = False
        if abs(now - self._checkpointed) >= CHECKPOINT_SECONDS:  # also after the clock was set back
            self._checkpointed = now
            self.checkpoint()
        return sent

    def _take(self, digest: bytes, watched: _Watched, start: int, now: int) -> bool:
        """Close a window; it is open again where that could not be made durable."""
        with self._lock:
            counts = watched.sketch.take(start)
        try:
            return self._close(digest, watched, start, counts.tolist(), now)
        except BaseException:
            with self._lock:
                watched.sketch.put_back(start, counts)
            raise

    @property
    def may_leave(self) -> bool:
        """Return whether windows in the outbox may be sent: not before the ledger's witness has seen what they cost."""
        return self._accountant.is_sealed

    def open_windows(self) -> int:
        """Return how many windows are counted in, of every release."""
        with self._lock:
            return sum(len(watched.sketch.snapshot()) for watched in self._watched.values())

    def checkpoint(self) -> None:
        """Write open windows to disk; they stay on the device."""
        self.labels.checkpoint()
        day = privacy.day_of(int(self._clock()))
        for digest, watched in self._watched.items():
            with self._lock:
                counts, odd, dirty = watched.sketch.snapshot(), watched.sketch.odd.copy(), watched.dirty
                watched.dirty = False
                watched.sketch.odd.clear()
            if not dirty:
                continue
            try:
                with self._store.transaction():
                    self._store.put_sketch(watched.manifest.model, digest, counts)
                    self._store.add_odd(day, watched.manifest.model, {str(code): rows for code, rows in odd.items()})
            except BaseException:
                with self._lock:
                    watched.dirty = True
                    watched.sketch.odd.update(odd)
                raise

    def budget(self, now: WallSeconds) -> TelemetryBudget:
        """Return what today has spent, what waits, and why nothing leaves where nothing does."""
        today = privacy.day_of(int(now))
        spent = self._store.spent([today])
        calibrating = {one.manifest.model for one in self._watched.values() if one.calibration.gathers}
        dearest = max((one.rho for one in self._watched.values()), default=0.0)
        code = self._accountant.quiet(int(now)) or (Code.LEDGER_SPENT if spent + dearest > self._rho_day_max else None)
        if self._is_full or self._store.stuck:
            code = Code.DISK_FULL
        return TelemetryBudget(
            rho_spent=spent,
            rho_day_max=self._rho_day_max,
            windows_waiting=self._store.count_waiting("window"),
            windows_withheld=self._store.count_withheld() + sum(self._store.withheld_labels().values()),
            windows_merged=self._store.fact("windows_merged") or None,
            windows_dropped=self._store.fact("windows_dropped") or None,
            intervals_late=self._store.count_late() or None,
            calibrating=tuple(sorted(calibrating))[:SLOTS_MAX] or None,
            ledger_entries=self._accountant.entries or None,
            code=None if code is None else str(code),
        )

    def _close(self, digest: bytes, watched: _Watched, start: int, counts: list[int], now: int) -> bool:
        model, seconds = watched.manifest.model, watched.privacy.window_seconds
        if self._store.window_closed(model, digest, start):  # the interval has been released: never twice
            signals = watched.baseline.signals
            rows = rows_in(np.array(counts)[bins_of_rows(signals)], of_rows_many(signals))
            with self._store.transaction():
                self._store.mark_late(model, digest, start)
                self._store.add_odd(privacy.day_of(now), model, {str(Code.ROWS_LATE): rows})
            log.warning("window.late_rows_dropped", model=model, start=start, code=str(Code.ROWS_LATE))
            return False
        days, cohort = list(privacy.days_of(start, seconds)), self.cohorts.at(start)
        withheld = self._accountant.refusal(start, days, watched.rho)
        rows, rho = 0, 0.0
        with self._store.transaction():
            if cohort == self.cohorts.now != watched.cohort:  # Its first window: its own baseline is gathered anew.
                watched.calibration, watched.cohort = self._calibration(digest, watched.manifest), cohort
                self._store.put_gathering(model, digest, None)
            if withheld is None:
                rho = watched.rho
                self._accountant.charge(days, rho, f"window {model} {digest[:8].hex()} {start}")
                window = noised(
                    counts,
                    baseline=watched.baseline,
                    privacy=watched.privacy,
                    bits=self._bits,
                    window_id=os.urandom(16),
                    release=digest[:8],
                    start=start,
                    own=watched.calibration.own() if cohort == watched.cohort else None,
                )
                rows = window.rows
                if cohort == watched.cohort:
                    watched.calibration.gather(counts, rows, days, start)
                self._store.enqueue("window", self._topic(model, cohort), codec.encode(window))
            self._store.close_window(model, digest, start, at=now, rows=rows, rho=rho, code="" if withheld is None else str(withheld))
        if withheld is None:
            log.info("window.closed", model=model, start=start, rho=round(rho, 4))
        else:
            log.warning("window.withheld", model=model, start=start, code=str(withheld))
        return withheld is None

    # What waits

    def _make_room(self) -> None:
        """Have windows that wait be fewer: the oldest become one, and only what can become part of no other is let go, and counted."""
        while (
            self._store.count_waiting("window") > self._waiting_max or self._store.waiting_bytes("window") > self._waiting_bytes_max
        ) and self._merge_or_drop():
            pass

    def _merge_or_drop(self) -> bool:
        waiting = [
            (number, topic, codec.decode(Window, payload)) for number, topic, payload, tried in self._store.waiting_windows() if not tried
        ]
        for kind in self._kinds():
            mine = {number: window for number, where, window in waiting if (where, window.release, window.about) == kind.key}
            numbers = crowded(mine, baseline=kind.baseline, privacy=kind.privacy)
            if numbers:
                self._merge([mine[number] for number in numbers], numbers, kind)
                return True
        if waiting:
            number, _, window = waiting[0]
            with self._store.transaction():
                self._store.drop_waiting([number])
                self._store.next("windows_dropped")
            log.warning("window.dropped", release=window.release.hex(), start=window.start, waiting_max=self._waiting_max)
        return bool(waiting)

    def _kinds(self) -> list[_Kind]:
        """Return what the windows that wait may be of."""
        signals = [(digest, one.manifest.model, None, one.baseline, one.privacy) for digest, one in self._watched.items()]
        answers = [(one.release, one.model, "accuracy", one.accuracy.baseline, one.accuracy.privacy) for one in self.labels.declared]
        return [
            _Kind((self._topic(model, cohort), digest[:8], about), baseline, noise)
            for cohort in self.cohorts.all()
            for digest, model, about, baseline, noise in [*signals, *answers]
        ]

    def _merge(self, windows: Sequence[Window], numbers: Sequence[int], kind: _Kind) -> None:
        merged = added(windows, baseline=kind.baseline, privacy=kind.privacy, window_id=os.urandom(16))
        with self._store.transaction():
            self._store.drop_waiting(numbers)
            self._store.enqueue("window", kind.key[0], codec.encode(merged))
            for _ in windows[1:]:
                self._store.next("windows_merged")
        log.info("window.merged", topic=kind.key[0], start=merged.start, seconds=merged.seconds, windows=merged.noises)

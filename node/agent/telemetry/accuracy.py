"""Turn counts of right and wrong answers into windows: noise and the privacy accountant before anything leaves, once an interval.

The store holds declarations, answers by time and the sites' reports, so that a crash does not lose them and a command can add to them
beside the agent; only answers of the last seconds are in memory. Where those were lost, it does not claim to know their number.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable

import structlog

from node.agent.telemetry.privacy_accountant import PrivacyAccountant
from node.core.telemetry import privacy
from node.core.telemetry.accuracy import KEPT_SECONDS, Declared, LabelCounts
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import noised
from node.core.trust.clock import WallClock
from node.serving.accuracy_route import LabelsReported
from node.serving.loaded_model import Observation
from node.storage.accuracy_counts import Taken, take
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Code, Refused, Unreachable
from schemas.manifest import Manifest

log = structlog.get_logger()

RUNS_SINCE = "answers_counted"  # the moment since which answers may be in memory only; 0: the last agent ended as it should
OTHER_TIMES = "answers_of_other_times"  # programs here give times of their own: what was lost may be of any interval
FUTURE_SECONDS = 3600  # A program's clock error that is forgiven, as for windows.


class Labels:
    """Count right and wrong answers of every release on this node. `answered` is called by the serving thread, everything else by the
    loop.
    """

    def __init__(
        self,
        store: NodeStore,
        accountant: PrivacyAccountant,
        *,
        topic: Callable[[str, str], str],
        cohort: str,
        wait_seconds: float | None,
        bits: BitSource,
        clock: WallClock,
    ) -> None:
        self._store, self._accountant, self._topic, self._cohort = store, accountant, topic, cohort
        self._wait_seconds, self._bits, self._clock = wait_seconds, bits, clock
        self._declared: dict[bytes, Declared] = {one.release: one for one in store.declared()}
        self._seconds: dict[bytes, int] = {}  # An interval's length, by served release.
        self._lock = threading.Lock()
        self._answered: Counter[tuple[bytes, int]] = Counter()
        self._other_times = False
        now = int(clock())
        with store.transaction():
            if since := store.fact(RUNS_SINCE):
                store.add_unsure(0 if store.fact(OTHER_TIMES) else min(since, now), now)
            store.set_fact(RUNS_SINCE, now)

    @property
    def declared(self) -> list[Declared]:
        """Return every release that was served here and has a reference of right and wrong answers."""
        return list(self._declared.values())

    def watch(self, digest: bytes, manifest: Manifest) -> None:
        """Take in that a release serves from now on."""
        if manifest.accuracy is None:
            return
        declared = Declared(manifest.model, manifest.version, digest, manifest.accuracy)
        with self._store.transaction():
            self._store.declare(declared, at=int(self._clock()))
        self._declared[digest] = declared
        self._seconds[digest] = declared.seconds

    def answered(self, seen: Observation) -> None:
        """Take in that a request was answered: its rows may turn out right or wrong."""
        seconds = self._seconds.get(seen.digest)
        if seconds is None or seen.failed:
            return
        now = float(self._clock())
        at = now if seen.event_time is None else seen.event_time
        if now - KEPT_SECONDS <= at <= now + FUTURE_SECONDS:  # what lies outside is never labelled, and takes no room
            start = int(at) // seconds * seconds
            with self._lock:
                self._answered[seen.digest, start] += seen.rows
                self._other_times |= not start <= now < start + seconds

    def reported(self, event: LabelsReported) -> None:
        """Take counts from a program of the site: it hears when they are durable, or why they are not taken."""
        if not event.done.set_running_or_notify_cancel():
            return  # it has given up waiting, and will say them again
        try:
            if self._store.stuck:
                raise Refused(Code.DISK_FULL, self._store.stuck)
            event.done.set_result(self.take(event.model, event.version, event.counts).as_json(event.counts))
        except Refused as refusal:
            if refusal.code is Code.DISK_FULL:
                event.done.set_exception(Unreachable(f"the node's disk takes nothing ({refusal.reason}); say it again, with the same id"))
                return
            log.info("labels.refused", model=event.model, code=str(refusal.code))
            event.done.set_exception(refusal)
        except BaseException as error:
            event.done.set_exception(error)
            raise

    def take(self, model: str, version: str | None, counts: LabelCounts) -> Taken:
        """Add counts to their interval.

        Raises:
            Refused: as node.storage.accuracy_counts.take, and where no telemetry leaves at all.
        """
        if self._wait_seconds is None:
            raise Refused(Code.LABELS_RELEASE, "this node sends no telemetry (`telemetry = false` in its settings)")
        self.checkpoint()  # what was answered a moment ago can be labelled
        taken = take(self._store, model, version, counts, now=int(self._clock()), wait_seconds=self._wait_seconds)
        log.info("labels.taken", model=model, version=taken.declared.version, start=taken.start, leaves_at=taken.leaves_at)
        return taken

    def checkpoint(self) -> None:
        """Write to disk how many answers were given."""
        with self._lock:
            rows, self._answered = self._answered, Counter()
        if not rows:
            return
        now = int(self._clock())
        try:
            with self._store.transaction():
                if self._other_times:
                    self._store.raise_fact(OTHER_TIMES, 1)
                self._store.add_answered(rows, at=now)
                self._store.set_fact(RUNS_SINCE, now)
        except BaseException:
            with self._lock:
                self._answered.update(rows)
            raise

    def leave(self) -> None:
        """Write down at the end all that was answered."""
        self.checkpoint()
        self._store.set_fact(RUNS_SINCE, 0)

    def tick(self, now: int) -> bool:
        """Have leave what is due; True when something was put in the outbox. The accountant is to be sealed then."""
        if self._wait_seconds is None:  # what was taken earlier stays until telemetry is on again
            return False
        sent = False
        for release, start in self._store.due_labels(now):
            declared = self._declared.get(release)
            if declared is None:
                raise ValueError("labels are taken of declared releases only")
            sent = self._close(declared, start, now) or sent
        return sent

    def _close(self, declared: Declared, start: int, now: int) -> bool:
        noise, model, release = declared.accuracy.privacy, declared.model, declared.release
        rho = noise.rho(1)
        days = list(privacy.days_of(start, declared.seconds))
        withheld = self._accountant.refusal(start, days, rho)
        with self._store.transaction():
            known = self._store.interval(declared, start)  # read here: a command beside us may have added more a moment ago
            if known.closed:
                return False
            if withheld is None:
                self._accountant.charge(days, rho, f"labels {model} {release[:8].hex()} {start}")
                window = noised(
                    (known.wrong, known.right, 0),
                    baseline=declared.accuracy.baseline,
                    privacy=noise,
                    bits=self._bits,
                    window_id=os.urandom(16),
                    release=release[:8],
                    start=start,
                    about="accuracy",
                )
                self._store.enqueue("window", self._topic(model, self._cohort), codec.encode(window))
            code = "" if withheld is None else str(withheld)
            self._store.close_labels(release, start, at=now, rho=0.0 if withheld else rho, code=code)
        if withheld is None:
            log.info("labels.closed", model=model, start=start, rho=round(rho, 4))
        else:
            log.warning("labels.withheld", model=model, start=start, code=code)
        return withheld is None

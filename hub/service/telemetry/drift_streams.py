"""Every release in every cohort over time: counts what is new of an interval, judges all streams together, follows episodes.

What a stream has learnt is made durable by whoever marks its interval tested, in the same transaction; until then it stands only here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from hub.core.drift import detector, episodes, interval_significance, multiple_testing
from hub.core.drift.detector import Detector, SignalEvidence
from hub.core.drift.e_values import Part
from hub.core.drift.episodes import Episode, Event
from hub.core.drift.reference_model import Ordinary
from hub.core.drift.windows import Interval
from hub.database.rows import CountedRow, StreamRow
from hub.database.store import IntervalRow, Store
from schemas import codec
from schemas.analytics_messages import SignalDrift
from schemas.errors import Refused

log = structlog.get_logger()

LOG_EVIDENCE_NONE = -1e9  # of a stream without any: not every database keeps an infinity
Key = tuple[bytes, str]  # release, cohort


@dataclass(frozen=True, slots=True)
class Seen:
    """An interval that was looked at, and its stream if it is taken."""

    interval: Interval
    whole: Part
    signals: tuple[SignalDrift, ...]  # of the interval alone
    after: Detector
    log_evidence: float
    ordinary: Ordinary


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided of it."""

    signals: tuple[SignalDrift, ...]  # with what the stream says of each
    alarm_kind: Literal["interval", "time", "both"] | None
    evidence: float | None  # log10
    evidence_needed: float  # log10
    streams: int
    event: Event | None
    since: int | None
    named: tuple[SignalDrift, ...]  # the signals that the alarm is about, the surest first
    learnt: tuple[StreamRow, CountedRow]


class Streams:
    """What is known of every stream."""

    def __init__(self, store: Store, *, run_length: float, clock: Callable[[], float]) -> None:
        self._store, self._run_length, self._clock = store, run_length, clock
        self._kept: dict[Key, StreamRow] = {(row.release, row.cohort): row for row in store.streams()}
        self._standing: dict[Key, float] = {key: row.log_evidence for key, row in self._kept.items()}

    def look(self, row: IntervalRow, interval: Interval, ordinary: Ordinary) -> Seen:
        """Test an interval, as it is believed, alone and as one more of its stream.

        Raises:
            ValueError: its counts are not the reference's.
        """
        whole = part_of(interval, ordinary)
        signals = interval_significance.test_interval(whole, ordinary)
        before = self._state(row, ordinary)
        known = self._store.counted(row.release, row.cohort, row.start, row.seconds, calibrated=whole.calibrated)
        new = whole if known is None else whole.less(Part.model_validate_json(known))
        if new is None:
            return Seen(interval, whole, signals, before, detector.standing(before, ordinary), ordinary)
        after, evidence = detector.step(before, new, ordinary)
        return Seen(interval, whole, signals, after, evidence, ordinary)

    def expect(self, together: Sequence[tuple[IntervalRow, Seen]]) -> None:
        """Intervals of one moment are about to be judged: each counts for the others."""
        for row, seen in together:
            key = (row.release, row.cohort)
            self._standing[key] = max(seen.log_evidence, self._alarm_of(key))

    def judge(self, row: IntervalRow, seen: Seen, *, alpha: float) -> Judged:
        """Whether it is an alarm, and of which kind; the interval alone is one at `alpha`."""
        key = (row.release, row.cohort)
        needed = multiple_testing.needed((value for other, value in self._standing.items() if other != key), self._run_length)
        alone = {one.name for one in interval_significance.alarmed(seen.signals, alpha)}
        crossed = seen.log_evidence >= needed
        details = detector.signals(seen.after, seen.ordinary)
        over_time = detector.named(details, self._run_length) if crossed else ()
        since = min((one.since for one in over_time), default=row.start) if crossed or alone else None
        about = alone | {one.name for one in over_time}
        signals = tuple(_with(one, more, alarm=one.name in about) for one, more in zip(seen.signals, details, strict=True))
        kept = self._kept.get(key)
        old = None if kept is None or kept.episode is None else Episode.model_validate_json(kept.episode)
        told = since if not row.alarmed else None  # an interval is told once, however often it is tested again
        episode, event = episodes.follow(old, start=row.start, seconds=row.seconds, since=told)
        state = detector.restarted(seen.after) if crossed else seen.after
        standing = max(seen.log_evidence if crossed else -math.inf, self._alarm_of(key)) if episode else seen.log_evidence
        stream = StreamRow(
            row.release,
            row.cohort,
            row.model,
            codec.encode(state),
            _finite(standing),
            None if episode is None else episode.model_dump_json(),
            int(self._clock()),
        )
        self._standing[key] = stream.log_evidence
        kinds: dict[tuple[bool, bool], Literal["interval", "time", "both"] | None] = {
            (False, False): None,
            (True, False): "interval",
            (False, True): "time",
            (True, True): "both",
        }
        return Judged(
            signals=signals,
            alarm_kind=kinds[bool(alone), crossed],
            evidence=_log10(seen.log_evidence),
            evidence_needed=round(needed / math.log(10), 3),
            streams=len(self._standing),
            event=event,
            since=episode.since if episode is not None else None,
            named=tuple(sorted((one for one in signals if one.alarm), key=lambda one: (one.p_value, -(one.evidence or 0.0)))),
            learnt=(
                stream,
                CountedRow(row.release, row.cohort, row.start, row.seconds, seen.whole.calibrated, seen.whole.model_dump_json()),
            ),
        )

    def keep(self, stream: StreamRow) -> None:
        """What a stream has learnt is durable now."""
        self._kept[stream.release, stream.cohort] = stream

    def _alarm_of(self, key: Key) -> float:
        """The evidence with which a stream became an alarm, while that lasts: it still counts among the alarms of the others."""
        kept = self._kept.get(key)
        return -math.inf if kept is None or kept.episode is None else kept.log_evidence

    def _state(self, row: IntervalRow, ordinary: Ordinary) -> Detector:
        kept = self._kept.get((row.release, row.cohort))
        if kept is not None:
            try:
                state = codec.decode(Detector, kept.state)
            except Refused as refusal:
                log.error("stream.unreadable", model=row.model, cohort=row.cohort, code=str(refusal.code), reason=refusal.reason)
            else:
                if state.fits(ordinary):
                    return state
                log.warning("stream.begun_anew", model=row.model, cohort=row.cohort)  # another program's lambdas, or scores
        return detector.fresh(ordinary)


def part_of(interval: Interval, ordinary: Ordinary) -> Part:
    """An interval as the detectors take it; differences do not say how many rows they are of, so calibrated ones bring that along."""
    return Part(
        start=interval.start,
        seconds=interval.seconds,
        windows=interval.windows,
        rows=float(interval.rows) if interval.calibrated else sum(interval.counts) / len(ordinary.names),
        counts=interval.counts,
        calibrated=interval.calibrated,
        reference_rows=interval.reference_rows if interval.calibrated else 0.0,
        noise_units=interval.noise_units,
    )


def _with(one: SignalDrift, more: SignalEvidence, *, alarm: bool) -> SignalDrift:
    """A signal's test of one interval, what the past says of it, and whether it is in the alarm."""
    if not math.isfinite(more.log_evidence):
        return one.model_copy(update={"alarm": alarm})
    return one.model_copy(
        update={
            "alarm": alarm,
            "evidence": _log10(more.log_evidence),
            "since": more.since,
            "effect_since": more.effect,
            "size_since": more.moved.value,
            "size_since_low": more.moved.low,
            "size_since_high": more.moved.high,
            "size_since_unit": more.moved.unit,
            "direction_since": more.direction,
        }
    )


def _log10(log_evidence: float) -> float | None:
    return round(log_evidence / math.log(10), 3) if math.isfinite(log_evidence) else None


def _finite(log_evidence: float) -> float:
    """As a database keeps it."""
    return log_evidence if math.isfinite(log_evidence) else LOG_EVIDENCE_NONE

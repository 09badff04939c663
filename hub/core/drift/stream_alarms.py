"""Judges the intervals of streams: a stream is one release in one cohort over time. Decides what is an alarm, of which kind and since when.

An interval is tested alone, and as one more of its stream. All streams are judged together (hub/core/drift/multiple_testing.py), so that a
thousand cohorts do not make a thousand times the false alarms. Knows no database: what was learnt is returned, to be made durable.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hub.core.drift import detector, episodes, interval_significance, multiple_testing
from hub.core.drift.detector import Detector, SignalEvidence
from hub.core.drift.e_values import Part
from hub.core.drift.episodes import Episode, Event
from hub.core.drift.reference_model import Ordinary
from hub.core.drift.windows import Interval
from schemas.analytics_messages import SignalDrift

AlarmKind = Literal["interval", "time", "both"]
_KINDS: dict[tuple[bool, bool], AlarmKind | None] = {
    (False, False): None,
    (True, False): "interval",
    (False, True): "time",
    (True, True): "both",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Hold an interval that was looked at, and its stream if it is taken."""

    interval: Interval
    whole: Part
    signals: tuple[SignalDrift, ...]  # the test of the interval alone
    after: Detector
    log_evidence: float
    ordinary: Ordinary


@dataclass(frozen=True, slots=True)
class Known:
    """Hold the durable state of a stream beside its detector: its evidence when it was last judged, and the drift that lasts."""

    log_evidence: float
    episode: Episode | None

    @property
    def alarm_evidence(self) -> float:
        """Return the evidence with which the stream became an alarm, while that lasts: it still counts among the alarms of the others."""
        return -math.inf if self.episode is None else self.log_evidence


NOTHING = Known(-math.inf, None)  # a stream that was never judged


@dataclass(frozen=True, slots=True)
class Judged:
    """Hold the decision on an interval, and the new state of its stream."""

    signals: tuple[SignalDrift, ...]  # with what the stream says of each
    alarm_kind: AlarmKind | None
    evidence: float | None  # log10
    evidence_needed: float  # log10
    streams: int
    event: Event | None
    since: int | None
    named: tuple[SignalDrift, ...]  # the signals that the alarm is about, the surest first
    state: Detector
    known: Known


def look(interval: Interval, ordinary: Ordinary, *, before: Detector, counted: Part | None) -> Seen:
    """Test an interval, as it is believed, alone and as one more of its stream; `counted` is what the stream has of it already.

    Raises:
        ValueError: its counts are not the reference's.
    """
    whole = part_of(interval, ordinary)
    signals = interval_significance.test_interval(whole, ordinary)
    new = whole if counted is None else whole.less(counted)
    if new is None:
        return Seen(interval, whole, signals, before, detector.standing(before, ordinary), ordinary)
    after, evidence = detector.step(before, new, ordinary)
    return Seen(interval, whole, signals, after, evidence, ordinary)


def judge(seen: Seen, known: Known, *, others: Iterable[float], alarmed_before: bool, alpha: float, run_length: float) -> Judged:
    """Decide whether an interval is an alarm, and of which kind; the interval alone is one at `alpha`.

    `others` are the logarithms of all other streams' evidence. An interval that was an alarm before raises none again, however often it is
    tested.
    """
    interval, others = seen.interval, tuple(others)
    needed = multiple_testing.needed(others, run_length)
    alone = {one.name for one in interval_significance.alarmed(seen.signals, alpha)}
    crossed = seen.log_evidence >= needed
    details = detector.signals(seen.after, seen.ordinary)
    over_time = detector.named(details, run_length) if crossed else ()
    since = min((one.since for one in over_time), default=interval.start) if crossed or alone else None
    about = alone | {one.name for one in over_time}
    signals = tuple(_with(one, more, alarm=one.name in about) for one, more in zip(seen.signals, details, strict=True))
    new_since = since if not alarmed_before else None
    episode, event = episodes.follow(known.episode, start=interval.start, seconds=interval.seconds, since=new_since)
    at_alarm = max(seen.log_evidence if crossed else -math.inf, known.alarm_evidence)
    return Judged(
        signals=signals,
        alarm_kind=_KINDS[bool(alone), crossed],
        evidence=_log10(seen.log_evidence),
        evidence_needed=round(needed / math.log(10), 3),
        streams=len(others) + 1,
        event=event,
        since=episode.since if episode is not None else None,
        named=tuple(sorted((one for one in signals if one.alarm), key=lambda one: (one.p_value, -(one.evidence or 0.0)))),
        state=detector.restarted(seen.after) if crossed else seen.after,
        known=Known(at_alarm if episode else seen.log_evidence, episode),
    )


def part_of(interval: Interval, ordinary: Ordinary) -> Part:
    """Return an interval as the detectors take it; differences do not say their number of rows, so calibrated ones bring it along."""
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
    """Return a signal's test of one interval with what the past says of it, and whether it is in the alarm."""
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

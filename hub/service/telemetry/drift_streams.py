"""Keeps every release in every cohort over time: hands the core what is known of a stream, and takes what it has learnt.

What a stream has learnt is made durable with the mark that its interval was tested, in the same transaction; until then it is only here.
"""

import math
from collections.abc import Callable, Sequence

import structlog

from hub.core.drift import detector, stream_alarms
from hub.core.drift.detector import Detector
from hub.core.drift.e_values import Part
from hub.core.drift.episodes import Episode
from hub.core.drift.reference_model import Ordinary
from hub.core.drift.stream_alarms import Judged, Known, Seen
from hub.core.drift.windows import Interval
from hub.database.rows import CountedRow, IntervalRow, Learnt, StreamRow
from hub.database.store import Store
from schemas import codec
from schemas.errors import Refused

log = structlog.get_logger()

LOG_EVIDENCE_NONE = -1e9  # for a stream without any: not every database keeps an infinity
Key = tuple[bytes, str]  # release, cohort


class Streams:
    """Hold the state of every stream."""

    def __init__(self, store: Store, *, run_length: float, clock: Callable[[], float]) -> None:
        self._store, self._run_length, self._clock = store, run_length, clock
        self._kept: dict[Key, StreamRow] = {(row.release, row.cohort): row for row in store.streams()}
        self._evidence: dict[Key, float] = {key: row.log_evidence for key, row in self._kept.items()}

    def look(self, row: IntervalRow, interval: Interval, ordinary: Ordinary) -> Seen:
        """Test an interval, as it is believed, alone and as one more of its stream.

        Raises:
            ValueError: its counts are not the reference's.
        """
        before = self._state(row, ordinary)
        part = self._store.counted(row.release, row.cohort, row.start, row.seconds, calibrated=interval.calibrated)
        counted = None if part is None else Part.model_validate_json(part)
        return stream_alarms.look(interval, ordinary, before=before, counted=counted)

    def expect(self, together: Sequence[tuple[IntervalRow, Seen]]) -> None:
        """Count intervals of one moment, which are about to be judged, for each other."""
        for row, seen in together:
            key = (row.release, row.cohort)
            self._evidence[key] = max(seen.log_evidence, self._known(key).alarm_evidence)

    def judge(self, row: IntervalRow, seen: Seen, *, alpha: float) -> tuple[Judged, Learnt]:
        """Have an interval judged beside all other streams; return what was decided, and what has to become durable with it."""
        key = (row.release, row.cohort)
        judged = stream_alarms.judge(
            seen,
            self._known(key),
            others=[value for other, value in self._evidence.items() if other != key],
            alarmed_before=row.alarmed,
            alpha=alpha,
            run_length=self._run_length,
        )
        evidence, episode = judged.known.log_evidence, judged.known.episode
        stream = StreamRow(
            row.release,
            row.cohort,
            row.model,
            codec.encode(judged.state),
            evidence if math.isfinite(evidence) else LOG_EVIDENCE_NONE,
            None if episode is None else episode.model_dump_json(),
            int(self._clock()),
        )
        self._evidence[key] = stream.log_evidence
        whole = seen.whole
        return judged, (stream, CountedRow(row.release, row.cohort, row.start, row.seconds, whole.calibrated, whole.model_dump_json()))

    def keep(self, stream: StreamRow) -> None:
        """Take what a stream has learnt for known, since it is durable now."""
        self._kept[stream.release, stream.cohort] = stream

    def _known(self, key: Key) -> Known:
        kept = self._kept.get(key)
        if kept is None:
            return stream_alarms.NOTHING
        return Known(kept.log_evidence, None if kept.episode is None else Episode.model_validate_json(kept.episode))

    def _state(self, row: IntervalRow, ordinary: Ordinary) -> Detector:
        kept = self._kept.get((row.release, row.cohort))
        if kept is not None:
            try:
                state = codec.decode(Detector, kept.state)
            except Refused as refusal:
                log.error("stream.read_failed", model=row.model, cohort=row.cohort, code=str(refusal.code), reason=refusal.reason)
            else:
                if state.fits(ordinary):
                    return state
                log.warning("stream.restarted", model=row.model, cohort=row.cohort)  # another program's lambdas, or scores
        return detector.fresh(ordinary)

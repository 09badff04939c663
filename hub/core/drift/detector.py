"""Detects drift that began at some time: at most one false alarm in a thousand intervals, whatever their size and their dependence.

An e-detector in Shiryaev-Roberts form (Shin, Ramdas, Rinaldo 2024): for every component and lambda R <- (1 + R) e, with e-values of mean
at most one given the past (hub/core/drift/e_values.py). Then R - t is a supermartingale, so is any fixed mean of such R, under any
dependence between them; and the first time at which that mean reaches A has an expectation of at least A.

- Intervals hang together by their block effects. Those follow a first-order autoregression, which is filtered (Kalman): an e-value is of
  what the past did not foretell. An interval that is missing lets the foreknowledge fade by one step more.
- What comes late for an interval multiplies R at its arrival, given the interval's evidence so far, in any order. No alarm is
  withdrawn.
- Since when: the beginning of the climb (CUSUM, Page 1954) of the component and lambda with the most evidence.

The state is a document: the hub stores it with what it found, and a restart loses nothing. Knows no other stream, no store and no clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hub.core.drift.e_values import LAMBDAS, Part, effect_variance, log_evidence, plan, rounded
from hub.core.drift.reference_model import Ordinary
from hub.core.drift.shift_size import NOTHING, Counted, Size, estimate
from schemas.document import Document
from schemas.limits import MIB

Floats = NDArray[np.float64]

RUN_LENGTH = 1000.0  # A: intervals between two false alarms, on average and at least
RECENT = 32  # intervals that late windows may add to where block effects are in play; and over which effects are measured
SURPRISE_MAX = 3.0  # standard deviations: one mad day is not to foretell the next
RATE_MEMORY = 0.1  # weight of the newest interval in the rows of a window
MEAN, VARIANCE, RESPONSE, TOTAL = range(4)  # what is kept of a recent interval, [4, J]
CHANCES = 3  # what is kept of its noise


class Detector(Document):
    """Hold the evidence of a stream's past; arrays are little-endian bytes. J components, L lambdas, R recent intervals."""

    schema_name: ClassVar[str] = "detector"
    bytes_max: ClassVar[int] = 4 * MIB

    components: Annotated[int, Field(ge=1, le=2**20)]
    evidence: bytes  # log R, float64 [J, L]
    climb: bytes  # logarithm of the e-values since the climb began, float64 [J, L]
    began: bytes  # when it did, int64 [J, L]
    starts: Annotated[tuple[int, ...], Field(max_length=RECENT)] = ()  # when the recent intervals began, rising
    rows: Annotated[tuple[float, ...], Field(max_length=RECENT)] = ()
    recent: bytes = b""  # float32 [R, 4, J]
    # For the sizes of shifts: fresh noise, the noise of own baselines and the rows of those, float64 [R, 3]; of an earlier hub empty.
    chance: bytes = b""
    rows_per_window: Annotated[float, Field(ge=0)] = 0.0
    intervals: Annotated[int, Field(ge=0)] = 0

    def fits(self, ordinary: Ordinary) -> bool:
        """Return whether it is a state of this reference's components and of this program's lambdas."""
        cells = 8 * ordinary.components * len(LAMBDAS)
        sizes = {len(self.evidence), len(self.climb), len(self.began)}
        recent = 16 * ordinary.components * len(self.starts)
        return (
            self.components == ordinary.components
            and sizes == {cells}
            and (len(self.recent), len(self.rows)) == (recent, len(self.starts))
            and len(self.chance) in {0, 8 * CHANCES * len(self.starts)}
        )


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """Hold the evidence of the past for one signal."""

    name: str
    log_evidence: float  # from its own components: the signal alone would be an alarm at log A
    since: int  # start of the first interval of the change, as far as it is known
    moved: Size  # over the intervals since then

    @property
    def effect(self) -> float:
        """Return the shift of a number, with its sign."""
        return self.moved.effect

    @property
    def direction(self) -> str:
        """Return which way it went."""
        return self.moved.direction


def named(signals: Sequence[SignalEvidence], run_length: float = RUN_LENGTH) -> tuple[SignalEvidence, ...]:
    """Return the signals that an alarm is about, the surest first: those that e-BH takes at its level, and the leading one at the least."""
    ranked = sorted(signals, key=lambda one: -one.log_evidence)
    count = len(ranked)
    taken = max((k for k in range(1, count + 1) if ranked[k - 1].log_evidence >= math.log(count * run_length / k)), default=1)
    return tuple(ranked[:taken])


def fresh(ordinary: Ordinary) -> Detector:
    """Return a stream of which nothing is known yet."""
    shape = (ordinary.components, len(LAMBDAS))
    return Detector(
        components=ordinary.components,
        evidence=np.full(shape, -np.inf).tobytes(),
        climb=np.zeros(shape).tobytes(),
        began=np.zeros(shape, "<i8").tobytes(),
    )


def restarted(state: Detector) -> Detector:
    """Return the state after an alarm: what it knows of ordinary days stays, evidence begins again."""
    shape = (state.components, len(LAMBDAS))
    return state.model_copy(update={"evidence": np.full(shape, -np.inf).tobytes(), "climb": np.zeros(shape).tobytes()})


def step(state: Detector, part: Part, ordinary: Ordinary) -> tuple[Detector, float]:
    """Take one more interval, or what came late of one; return the logarithm of the stream's evidence then, to be compared with log A.

    Raises:
        ValueError: the counts or the state are not this reference's.
    """
    _check(state, ordinary)
    memory = _Memory.of(state)
    seen = memory.find(part.start)
    late = seen is not None
    if not late and memory.forgotten(part.start) and bool(ordinary.between.any()):
        return state, _log_mean(_cells(state)[0], ordinary)  # what it shares with what was counted of its interval is not known any more
    mean, variance, response = memory.foretold(part, ordinary, seen)
    rate = state.rows_per_window or max(part.rows, 0.0) / part.windows
    chosen = plan(ordinary, windows=rounded(part.noises), rows=rounded(rate * part.windows), calibrated=part.calibrated)
    logs = log_evidence(part, ordinary, chosen, mean=mean, variance=variance, response=response)
    evidence, climb, began = _cells(state)
    if late or memory.forgotten(part.start):
        evidence, climb = evidence + logs, climb + logs
    else:
        evidence = np.logaddexp(0.0, evidence) + logs
        began = np.where(climb <= 0, part.start, began)
        climb = np.maximum(climb, 0.0) + logs
    memory = memory.learn(part, ordinary, seen, (mean, variance, response))
    new_rate = max(part.rows, 0.0) / part.windows
    after = Detector(
        components=state.components,
        evidence=evidence.tobytes(),
        climb=climb.tobytes(),
        began=began.astype("<i8").tobytes(),
        starts=tuple(memory.starts),
        rows=tuple(memory.rows),
        recent=memory.kept.astype("<f4").tobytes(),
        chance=np.array(memory.chances, "<f8").tobytes(),
        rows_per_window=new_rate if not state.intervals else (1 - RATE_MEMORY) * state.rows_per_window + RATE_MEMORY * new_rate,
        intervals=state.intervals + (not late),
    )
    return after, _log_mean(evidence, ordinary)


@dataclass(slots=True)
class _Memory:
    """Hold the recent intervals, by start."""

    starts: list[int]
    rows: list[float]
    kept: Floats  # [R, 4, J]
    chances: list[Floats]  # [3] each

    @classmethod
    def of(cls, state: Detector) -> "_Memory":
        kept = np.frombuffer(state.recent, "<f4").astype(np.float64).reshape(len(state.starts), 4, state.components)
        if len(state.chance) or not state.starts:
            chances = list(np.frombuffer(state.chance, "<f8").reshape(len(state.starts), CHANCES))
        else:  # an earlier hub's: about as many windows as its rows speak of
            chances = [np.array([rows / max(state.rows_per_window, 1.0), 0.0, 0.0]) for rows in state.rows]
        return cls(list(state.starts), list(state.rows), kept, chances)

    def find(self, start: int) -> int | None:
        return self.starts.index(start) if start in self.starts else None

    def forgotten(self, start: int) -> bool:
        """Return whether this interval may have been counted and is not remembered."""
        return len(self.starts) == RECENT and start < self.starts[0]

    def foretold(self, part: Part, ordinary: Ordinary, seen: int | None) -> tuple[Floats, Floats, Floats]:
        """Return the mean and variance of the block effect as the past has it, and the part of a constant shift that is still news."""
        nothing = np.zeros(ordinary.components)
        full = effect_variance(ordinary)
        if seen is not None:
            before, fading = self.kept[seen], 1.0
        else:
            earlier = [at for at, start in enumerate(self.starts) if start < part.start]
            if not earlier:
                return nothing, full, nothing + 1.0
            gap = max(1.0, (part.start - self.starts[earlier[-1]]) / part.seconds)
            before, fading = self.kept[earlier[-1]], float(ordinary.rho**gap)
        variance = fading**2 * before[VARIANCE] + (1 - fading**2) * full
        return fading * before[MEAN], variance, 1 - fading * before[RESPONSE]

    def learn(self, part: Part, ordinary: Ordinary, seen: int | None, foretold: tuple[Floats, Floats, Floats]) -> "_Memory":
        """Take the Kalman step, with the surprise bounded, and add to the sums from which effects are read."""
        mean, variance, response = foretold
        rows = max(part.rows, 1.0)
        totals = ordinary.totals(part.counts)
        own = rows + part.reference_rows + part.noises * ordinary.sigma2 * ordinary.noise_gain
        whole = variance + own / rows**2
        surprise = totals / rows - mean
        reach = SURPRISE_MAX * np.sqrt(whole)
        gain = variance / whole
        entry = np.stack([mean + gain * np.clip(surprise, -reach, reach), (1 - gain) * variance, (1 - response) + gain * response, totals])
        kept, starts, counted, chances = self.kept, list(self.starts), list(self.rows), list(self.chances)
        chance = np.array([part.noises - part.own_noises, part.own_noises, part.reference_rows])
        if seen is not None:
            chances[seen] = chances[seen] + chance
            entry[TOTAL] += kept[seen, TOTAL]
            counted[seen] += max(part.rows, 0.0)
            kept = kept.copy()
            kept[seen] = entry
        else:
            at = int(np.searchsorted(starts, part.start))
            starts.insert(at, part.start)
            counted.insert(at, max(part.rows, 0.0))
            chances.insert(at, chance)
            kept = np.insert(kept, at, entry, axis=0)
        return _Memory(starts[-RECENT:], counted[-RECENT:], kept[-RECENT:], chances[-RECENT:])

    def since(self, moments: Sequence[int], ordinary: Ordinary) -> Counted:
        """Add up what was counted of every signal since its own moment, as far as it is remembered."""
        inside = np.array([[start >= moment for start in self.starts] for moment in moments], np.float64)  # [S, R]
        rows, chances = np.array(self.rows), np.array(self.chances).reshape(-1, CHANCES)
        totals = np.zeros((len(moments), ordinary.noise_matrix.shape[1]))
        totals[ordinary.owner, ordinary.rank] = np.einsum("jr,rj->j", inside[ordinary.owner], self.kept[:, TOTAL])
        return Counted(
            totals=totals,
            rows=inside @ rows,
            squares=inside @ rows**2,
            noises=inside @ chances[:, 0],
            own_noise_roots=inside @ np.sqrt(chances[:, 1]),
            reference_roots=inside @ np.sqrt(chances[:, 2]),
        )


def _cells(state: Detector) -> tuple[Floats, Floats, NDArray[np.int64]]:
    shape = (state.components, len(LAMBDAS))
    return (
        np.frombuffer(state.evidence, "<f8").reshape(shape),
        np.frombuffer(state.climb, "<f8").reshape(shape),
        np.frombuffer(state.began, "<i8").reshape(shape),
    )


def _log_mean(evidence: Floats, ordinary: Ordinary) -> float:
    """Return the logarithm of the weighted mean of R over all components and lambdas."""
    weighted = evidence + ordinary.log_weights[:, None]
    peak = float(weighted.max())
    if not math.isfinite(peak):
        return -math.inf
    return peak + math.log(float(np.exp(weighted - peak).sum()) / len(LAMBDAS))


def standing(state: Detector, ordinary: Ordinary) -> float:
    """Return the logarithm of a stream's evidence as it stands.

    Raises:
        ValueError: the state is not this reference's.
    """
    _check(state, ordinary)
    return _log_mean(_cells(state)[0], ordinary)


def signals(state: Detector, ordinary: Ordinary) -> tuple[SignalEvidence, ...]:
    """Return what the state says of each signal, in the reference's order.

    Raises:
        ValueError: the state is not this reference's.
    """
    _check(state, ordinary)
    evidence, _, began = _cells(state)
    found: list[tuple[float, int]] = []  # evidence, since
    for number in range(len(ordinary.names)):
        mine = ordinary.owner == number
        own = evidence[mine] + (ordinary.log_weights[mine] + math.log(len(ordinary.names) / len(LAMBDAS)))[:, None]
        peak = float(own.max())
        if not math.isfinite(peak):
            found.append((-math.inf, 0))
            continue
        leader, column = np.unravel_index(int(np.argmax(own)), own.shape)
        found.append((peak + math.log(float(np.exp(own - peak).sum())), int(began[mine][leader, column])))
    moved = estimate(_Memory.of(state).since([since for _, since in found], ordinary), ordinary)
    return tuple(
        SignalEvidence(name, log_evidence, since, size if math.isfinite(log_evidence) else NOTHING)
        for name, (log_evidence, since), size in zip(ordinary.names, found, moved, strict=True)
    )


def _check(state: Detector, ordinary: Ordinary) -> None:
    if not state.fits(ordinary):
        raise ValueError(f"expected a state of {ordinary.components} components, found one of {state.components}")

"""Which windows are believed, and how a cohort's are added up. Knows who sent none of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from schemas.errors import Code, Refused, mismatch
from schemas.insight import MergedWindow, SignalCounts
from schemas.manifest import Manifest
from schemas.signals import Baseline, Privacy
from schemas.window import Expectation, Window, read_counts

NODE_ROWS_MAX = 1_000_000  # of one window: the most that one node can weigh in its cohort
FUTURE_SECONDS = 3600  # of clock error that is forgiven
SIGMAS_MAX = 8.0  # noise beyond this does not happen (1e-15 a count)


@dataclass(frozen=True, slots=True)
class Interval:
    """The windows of one release and cohort over the same interval, added up."""

    release: bytes
    model: str
    cohort: str
    start: int
    seconds: int
    windows: int
    counts: tuple[int, ...]


def accept(window: Window, *, manifest: Manifest, now: int) -> tuple[int, ...]:
    """The window's counts, flat over the manifest's signals.

    Raises:
        Refused: another shape, from the future, or counts that neither rows nor noise can have made.
    """
    baseline, privacy = _watched(manifest)
    if window.seconds != privacy.window_seconds or window.start % window.seconds:
        raise mismatch(
            Code.WINDOW_SHAPE, "interval", expected=f"{privacy.window_seconds} s", actual=f"{window.seconds} s at {window.start}"
        )
    if window.start > now + FUTURE_SECONDS:
        raise mismatch(Code.WINDOW_FUTURE, "start of the interval", expected=f"at most {now + FUTURE_SECONDS}", actual=window.start)
    counts = tuple(read_counts(window, expectation=Expectation(baseline), privacy=privacy, bins=baseline.bins).tolist())
    if window.rows > NODE_ROWS_MAX:
        raise mismatch(Code.WINDOW_ABSURD, "rows", expected=f"at most {NODE_ROWS_MAX}", actual=window.rows)
    _plausible(counts, window.rows, baseline, math.sqrt(privacy.sigma2))
    return counts


def _plausible(counts: Sequence[int], rows: int, baseline: Baseline, sigma: float) -> None:
    """Every row falls into exactly one bin of every signal, so all totals are the rows, give or take the noise."""
    slack, at = SIGMAS_MAX * sigma, 0
    # `rows` is itself a mean of noisy totals, so its own error is allowed for.
    rows_slack = slack * math.sqrt(max(signal.bins for signal in baseline.signals)) + 1
    for signal in baseline.signals:
        mine = counts[at : at + signal.bins]
        at += signal.bins
        total_slack = slack * math.sqrt(signal.bins) + rows_slack
        if abs(sum(mine) - rows) > total_slack:
            raise mismatch(Code.WINDOW_ABSURD, f"total of signal {signal.name}", expected=f"{rows} ± {total_slack:.0f}", actual=sum(mine))
        if min(mine) < -slack or max(mine) > rows + rows_slack + slack:
            raise mismatch(
                Code.WINDOW_ABSURD,
                f"counts of signal {signal.name}",
                expected=f"{-slack:.0f} to {rows + rows_slack + slack:.0f}",
                actual=f"{min(mine)} to {max(mine)}",
            )


def merge(interval: Interval, counts: Sequence[int]) -> Interval:
    """One more window of the interval."""
    added = tuple(a + b for a, b in zip(interval.counts, counts, strict=True))
    return replace(interval, windows=interval.windows + 1, counts=added)


def rows_of(counts: Sequence[int], baseline: Baseline) -> float:
    """How many rows noisy counts speak of: the mean of the signals' totals."""
    return sum(counts) / len(baseline.signals)


def merged_window(interval: Interval, manifest: Manifest) -> MergedWindow:
    """What analytics consumers read of an interval."""
    baseline, privacy = _watched(manifest)
    rows = max(0.0, rows_of(interval.counts, baseline))
    signals, at = [], 0
    for signal in baseline.signals:
        total = sum(signal.counts) or 1
        signals.append(
            SignalCounts(
                name=signal.name,
                kind=signal.kind,
                edges=signal.edges,
                categories=signal.categories,
                counts=tuple(interval.counts[at : at + signal.bins]),
                expected=tuple(round(rows * count / total, 2) for count in signal.counts),
            )
        )
        at += signal.bins
    return MergedWindow(
        model=interval.model,
        version=manifest.version,
        cohort=interval.cohort,
        start=interval.start,
        seconds=interval.seconds,
        windows=interval.windows,
        rows=round(rows),
        noise_sd=math.sqrt(interval.windows * privacy.sigma2),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        signals=tuple(signals),
    )


def _watched(manifest: Manifest) -> tuple[Baseline, Privacy]:
    if manifest.baseline is None or manifest.privacy is None:
        raise Refused(Code.WINDOW_RELEASE, f"{manifest.model} {manifest.version} declares no signals")
    return manifest.baseline, manifest.privacy

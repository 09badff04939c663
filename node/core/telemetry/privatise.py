"""Make what leaves the device: a window's counts under noise, or how they differ from the node's own baseline, and many that wait as one.

Pure but for the random bits that are given. Nothing here sees a row; it knows no budget.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from node.core.telemetry.privacy import BitSource, noise
from schemas.accuracy import About
from schemas.limits import WINDOW_ROWS_MAX, WINDOW_UNITS_MAX
from schemas.signals import Baseline, Privacy, Signal
from schemas.window import Expectation, Window, read_counts, write_counts

Counts = NDArray[np.int64]
REQUESTS_SDS_MIN = 4.0  # An own baseline of fewer requests than so many standard deviations of their noisy number says nothing of them.


@dataclass(frozen=True, slots=True)
class Own:
    """Hold a node's own baseline under noise, made once and kept: counts flat over the signals, and how many rows each signal's are of.

    Where hours of the week have references of their own, `usual` is what the reference expects of as many rows at the hours in which the
    baseline was gathered: the node is then known by how it differs from the reference, and takes that to any other hour.
    """

    counts: Counts  # [bins of all signals]
    rows: Counts  # the same length: of each bin's signal, or its requests where it has one value a request
    usual: Counts | None = None  # the same length

    def rows_log2(self, of_rows: NDArray[np.bool_]) -> int:
        """Return the logarithm of the fewest rows among the signals, rounded down: few values tell no node from another."""
        return max(0, int(self.rows[of_rows].min()).bit_length() - 1)

    def center(self, rows: Counts, expected: Counts) -> Counts:
        """Return what the baseline expects of numbers of rows, of which the reference expects `expected` at their hour."""
        if self.usual is None:
            return self._share(self.counts, rows)
        return self._share(self.counts - self.usual, rows) + expected

    def _share(self, counts: Counts, rows: Counts) -> Counts:
        rows_counts_of = zip(rows.tolist(), counts.tolist(), self.rows.tolist(), strict=True)
        return np.array([(2 * many * count + of) // (2 * of) for many, count, of in rows_counts_of], np.int64)


def noisy(counts: Sequence[int], privacy: Privacy, bits: BitSource) -> Counts:
    """Put noise on every count, as the manifest says."""
    sigma2 = (privacy.sigma2_numerator, privacy.sigma2_denominator)
    return np.array(counts, np.int64) + np.array(noise(len(counts), sigma2, privacy.laplace, bits), np.int64)


def rows_in(counts: Counts, signals: int) -> int:
    """Return how many rows noisy counts speak of: the mean of the signals' totals, at least none."""
    return min(WINDOW_ROWS_MAX, max(0, (2 * int(counts.sum()) + signals) // (2 * signals)))


def noised(
    counts: Sequence[int],
    *,
    baseline: Baseline,
    privacy: Privacy,
    bits: BitSource,
    window_id: bytes,
    release: bytes,
    start: int,
    own: Own | None = None,
    about: About | None = None,
) -> Window:
    """Return the window that leaves the device: noise on every count; the number of rows is read off the noisy counts."""
    found = noisy(counts, privacy, bits)
    of_rows = bins_of_rows(baseline.signals)
    rows = rows_in(found[of_rows], of_rows_many(baseline.signals))
    requests = rows if of_rows.all() else rows_in(found[~of_rows], len(baseline.signals) - of_rows_many(baseline.signals))
    expected = Expectation(baseline).of(rows, start)
    if own is None:
        packed = write_counts(_filled(found, rows, baseline.signals), center=expected, privacy=privacy)
    else:
        center = own.center(np.where(of_rows, rows, requests), expected)
        share = 1.0 if of_rows.all() else _share_of_requests(own, of_rows, rows, requests, baseline, privacy)
        differences = np.where(of_rows, found - center, np.rint(share * (found - center))).astype(np.int64)
        packed = write_counts(differences, center=None, privacy=privacy)
    return Window(
        id=window_id,
        release=release,
        start=start,
        seconds=privacy.window_seconds,
        rows=rows,
        packed=packed,
        own_rows_log2=None if own is None else own.rows_log2(of_rows),
        about=about,
    )


# What belongs to a request is one draw, however many rows the request has. A window says only its rows, so what it says of requests is made
# such that a test which takes rows for draws is never surer than the requests allow. All of it is post-processing of noisy counts.


def bins_of_rows(signals: Sequence[Signal]) -> NDArray[np.bool_]:
    """Return which bins are of signals that are counted by row; all, where every signal is of requests, which are then the rows."""
    found = np.repeat([not one.is_of_request for one in signals], [one.bins for one in signals])
    return found if found.any() else np.ones_like(found)


def of_rows_many(signals: Sequence[Signal]) -> int:
    """Return how many signals `bins_of_rows` are of."""
    return sum(not one.is_of_request for one in signals) or len(signals)


def _filled(counts: Counts, rows: int, signals: Sequence[Signal]) -> Counts:
    """Return counts whose signals of requests have as many rows as the others: the rows after a request's first are "other"."""
    if of_rows_many(signals) == len(signals):
        return counts
    filled, at = counts.copy(), 0
    for signal in signals:
        if signal.is_of_request:
            filled[at + signal.bins - 1] += rows - int(counts[at : at + signal.bins].sum())
        at += signal.bins
    return filled


def _share_of_requests(own: Own, of_rows: NDArray[np.bool_], rows: int, requests: int, baseline: Baseline, privacy: Privacy) -> float:
    """Return by what share differences of requests are made smaller, so that their variance is at most what the hub takes rows to have.

    The hub expects n + n^2/M of sampling, and 1 + (n/M)^2 times the noise, of n rows beside a baseline of M. Nothing is said beside a
    baseline of so few requests that noise hides their number.
    """
    of_requests = int(own.rows[~of_rows].min())
    signals = len(baseline.signals) - of_rows_many(baseline.signals)
    if of_requests < REQUESTS_SDS_MIN * math.sqrt(int((~of_rows).sum()) * privacy.sigma2) / signals:
        return 0.0
    of = 1 << own.rows_log2(of_rows)
    sampling = (rows + rows**2 / of) / max(1.0, requests + requests**2 / of_requests)
    noise_share = (1 + (rows / of) ** 2) / (1 + (requests / of_requests) ** 2)
    return math.sqrt(min(1.0, sampling, noise_share))


# What waits


def crowded(windows: Mapping[int, Window], *, baseline: Baseline, privacy: Privacy) -> tuple[int, ...]:
    """Return the oldest windows that can be one, by the number that each waits under: () when there are none.

    They are of one release and lie in one interval of 2, 4, 8 ... ordinary ones that begins at a multiple of its length, as every node's
    do, so that nodes that were offline together are still counted together. Of several such, the shortest; no two seasons are mixed.
    """
    times = 2
    while times <= WINDOW_UNITS_MAX:
        seconds = times * privacy.window_seconds
        buckets: dict[tuple[object, ...], list[int]] = {}
        for number, window in windows.items():
            start = window.start // seconds * seconds
            keys = {baseline.key_of(at) for at in range(start, start + seconds, privacy.window_seconds)}
            if window.seconds < seconds and len(keys) == 1:
                buckets.setdefault((start, window.release, window.own_rows_log2), []).append(number)
        several = [numbers for numbers in buckets.values() if len(numbers) > 1]
        if several:
            return tuple(min(several, key=lambda numbers: min(windows[number].start for number in numbers)))
        times *= 2
    return ()


def added(windows: Sequence[Window], *, baseline: Baseline, privacy: Privacy, window_id: bytes) -> Window:
    """Return windows as one: noisy counts add up, and no more is revealed of any record than before (post-processing)."""
    expectation = Expectation(baseline)
    counts = np.sum([read_counts(one, expectation=expectation, privacy=privacy, bins=baseline.bins) for one in windows], axis=0)
    rows = sum(one.rows for one in windows)
    first, last = min(one.start for one in windows), max(one.start + one.seconds for one in windows)
    seconds = privacy.window_seconds
    while first // seconds * seconds + seconds < last:
        seconds *= 2
    start = first // seconds * seconds
    calibrated = windows[0].own_rows_log2 is not None
    center = None if calibrated else expectation.of(rows, start)
    return Window(
        id=window_id,
        release=windows[0].release,
        start=start,
        seconds=seconds,
        rows=min(WINDOW_ROWS_MAX, rows),
        packed=write_counts(counts, center=center, privacy=privacy),
        own_rows_log2=windows[0].own_rows_log2,
        units=sum(one.noises for one in windows),
        about=windows[0].about,
    )


# The own baseline


@dataclass(frozen=True, slots=True)
class Gathering:
    """Hold counts for an own baseline that is not made yet: exact, and on this device only.

    `rows` is what noisy windows say, so that the moment when it is made tells nothing of any record; `days` have paid for it, and `hours`
    are the rows by hour of the week, as the release tells hours apart; () where it does not.
    """

    counts: tuple[int, ...]
    rows: int = 0
    days: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    once: bool = True  # What belongs to a request was counted once; an earlier program counted it with each row.

    def plus(self, counts: Sequence[int], rows: int, days: Sequence[int], hour: int | None = None) -> "Gathering":
        """Return the sum with one more window, of an hour of the week."""
        summed = tuple(a + b for a, b in zip(self.counts, counts, strict=True))
        hours = tuple(before + (rows if at == hour else 0) for at, before in enumerate(self.hours))
        return replace(self, counts=summed, rows=self.rows + rows, days=tuple(sorted({*self.days, *days})), hours=hours)


def usual_of(signal: Signal, rows: int, hours: Sequence[int]) -> list[int]:
    """Return what the reference expects of a number of rows, spread over the hours of the week as these are; shape [bins]."""
    by_hour = [(sum(signal.reference(key)) or 1, signal.reference(key), share) for key, share in enumerate(hours)]
    whole = sum(hours) or 1
    return [round(rows * sum(share * counts[at] / total for total, counts, share in by_hour) / whole) for at in range(signal.bins)]

"""Decides which windows are believed, and shows intervals to analytics consumers. Does not know which node sent a window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hub.core.drift.scores import reference_shares, scores_of
from schemas import rice
from schemas.accuracy import About
from schemas.analytics_messages import MergedWindow, SignalCounts
from schemas.errors import Code, Refused, mismatch
from schemas.limits import WINDOW_AGE_DAYS_MAX, WINDOW_FUTURE_SECONDS_MAX, WINDOW_UNITS_MAX
from schemas.manifest import Manifest
from schemas.signals import Baseline, Privacy
from schemas.window import Expectation, Window, read_counts

NODE_ROWS_MAX = 1_000_000  # a window's rows: the most that one node can weigh in its cohort
DAY_SECONDS = 86_400
SIGMAS_MAX = 8.0  # noise beyond this does not happen (1e-15 a count)
# Noise in one direction of one signal, in its standard deviations, that does not happen: 2e-9 a direction where it is normal. A window
# whose counts go further than rows and noise can have taken them is refused: else what looks like noise in each bin would move a cohort.
DIRECTION_SDS_MAX, DIRECTION_SDS_MAX_LAPLACE = 6.0, 16.0
OWN_ROWS_SHARE_MIN = 0.25  # the share of the calibration's rows: noise and rounding to a power of two take no more
# A window of n rows takes off n/M of its node's baseline of M rows, which adds n^2/M to the variance n of its own sampling
# (hub/core/drift/interval_significance.py). So the shift that it can show is known to 1/n + 1/M: rows beyond a few M say nothing more, and
# only add variance to
# everybody else's rows. Up to OWN_ROWS_TIMES they count as they are, beyond that the window weighs as one of so many rows; 1/n + 1/M is
# then at most a quarter above what any number of rows comes to. Beyond OWN_ROWS_TIMES_MAX the baseline is of another time, or it is a lie.
OWN_ROWS_TIMES, OWN_ROWS_TIMES_MAX = 4, 64

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Taken:
    """Hold a believed window; `counts` [bins of all signals] are differences from the node's own baseline where it has `own_rows`."""

    start: int
    seconds: int
    rows: int
    noises: int
    own_rows: int | None
    counts: Counts

    @property
    def calibrated(self) -> bool:
        """Return whether its counts are differences."""
        return self.own_rows is not None

    @property
    def reference_rows(self) -> float:
        """Return n^2/M: what sampling the own baseline of M rows adds to the variance of n rows."""
        return 0.0 if self.own_rows is None else self.rows * self.rows / self.own_rows

    @property
    def noise_units(self) -> float:
        """Return how often the variance of one window's noise is in it: the own baseline's counts in the square of its share."""
        return self.noises + (0.0 if self.own_rows is None else (self.rows / self.own_rows) ** 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold the windows of one release and cohort over the same interval, added up; calibrated ones and others apart.

    Under no drift the scores of calibrated counts have the variance `(rows + reference_rows) I + noise_units sigma^2 H'H` beside what
    ordinary days add. `late` of the windows came after the interval had been tested; `left_out` more are not in the counts.
    """

    release: bytes
    model: str
    cohort: str
    start: int
    seconds: int
    windows: int
    counts: tuple[int, ...]
    rows: int
    calibrated: bool
    reference_rows: float
    noise_units: float
    late: int = 0
    left_out: int = 0


class Reader:
    """Read the windows of one release; work out once whatever is the same for all of them."""

    def __init__(self, manifest: Manifest, *, rows_max: int = NODE_ROWS_MAX, age_days_max: int = WINDOW_AGE_DAYS_MAX) -> None:
        self.manifest = manifest
        self._baseline, self._privacy = watched(manifest)
        self._rows_max, self._age_seconds_max = rows_max, age_days_max * DAY_SECONDS
        self._expectation = Expectation(self._baseline)
        widths = [signal.bins for signal in self._baseline.signals]
        self._roots = np.sqrt(widths)
        self._begins = np.cumsum([0, *widths[:-1]])
        self._bins = sum(widths)
        self._directions = _directions(self._baseline)
        self._rows_sd = math.sqrt(self._bins * self._privacy.sigma2) / len(
            widths
        )  # Error of a window's rows, which are read off noisy counts.
        self._sds_max = DIRECTION_SDS_MAX_LAPLACE if self._privacy.laplace else DIRECTION_SDS_MAX

    def read(self, window: Window, *, now: int) -> Taken:
        """Decode a window.

        Raises:
            Refused: another shape, from the future, too heavy (also beside its own baseline), or counts that neither rows nor noise
                can have made.
        """
        self._check_interval(window, now)
        self._check_weight(window)
        taken = self._taken(window, read_counts(window, expectation=self._expectation, privacy=self._privacy, bins=self._bins))
        self._check_counts(taken)
        if self._far([taken])[0] >= 0:
            raise self._too_far(taken)
        return supported(taken)

    def read_many(self, windows: Sequence[Window], *, now: int) -> list[Taken | Refused]:
        """Decode many windows at once, in their order; what is wrong with one is returned in its place."""
        try:
            packed = rice.unpack_many([one.packed or b"" for one in windows], self._bins, what="windows")
        except Refused:
            return [self._read_or_refuse(one, now) for one in windows]
        counts = self._privacy.step * packed
        plain = [number for number, one in enumerate(windows) if one.own_rows_log2 is None]
        if plain:
            those = [windows[number] for number in plain]
            counts[plain] += self._expectation.of_many([one.rows for one in those], [one.start for one in those])
        found: list[Taken | Refused] = []
        for window, mine in zip(windows, counts, strict=True):
            try:
                self._check_interval(window, now)
                found.append(self._taken(window, mine))
            except Refused as refusal:
                found.append(refusal)
        self._check_many(found)
        return [one if isinstance(one, Refused) else supported(one) for one in found]

    def _read_or_refuse(self, window: Window, now: int) -> Taken | Refused:
        try:
            return self.read(window, now=now)
        except Refused as refusal:
            return refusal

    def _taken(self, window: Window, counts: Counts) -> Taken:
        """Return a window with its counts, which are not looked at yet."""
        self._check_weight(window)
        own_rows = None if window.own_rows_log2 is None else 1 << window.own_rows_log2
        taken = Taken(window.start, window.seconds, window.rows, window.noises, own_rows, counts)
        self._check_own(taken)
        return taken

    def _check_many(self, found: list[Taken | Refused]) -> None:
        """Put a refusal in the place of each whose counts cannot be; `_check_counts` says the same of one."""
        numbers = [number for number, one in enumerate(found) if isinstance(one, Taken) and not one.calibrated]
        those = [one for one in found if isinstance(one, Taken) and not one.calibrated]
        doubtful = [number for number, one in enumerate(found) if isinstance(one, Taken) and one.calibrated]
        if those:
            counts = np.stack([one.counts for one in those])
            rows = np.array([one.rows for one in those])
            slack = SIGMAS_MAX * np.sqrt(np.array([one.noises for one in those]) * self._privacy.sigma2)
            rows_slack = slack * self._roots.max() + 1
            totals = np.add.reduceat(counts, self._begins, axis=1)
            good = (np.abs(totals - rows[:, None]) <= slack[:, None] * self._roots + rows_slack[:, None]).all(axis=1)
            good &= (counts.min(axis=1) >= -slack) & (counts.max(axis=1) <= rows + rows_slack + slack)
            doubtful += [numbers[at] for at in np.flatnonzero(~good)]
        for number in doubtful:
            try:
                self._check_counts(found[number])  # type: ignore[arg-type]  # those are taken
            except Refused as refusal:
                found[number] = refusal
        left = [(number, one) for number, one in enumerate(found) if isinstance(one, Taken)]
        for (number, one), far in zip(left, self._far([one for _, one in left]), strict=True):
            if far >= 0:
                found[number] = self._too_far(one)

    def _far(self, those: Sequence[Taken]) -> list[int]:
        """Return for each window a direction in which its counts go further than rows and noise can; -1 where there is none."""
        if not those:
            return []
        least, most, lengths = self._directions.least, self._directions.most, self._directions.lengths
        rows = np.array([one.rows for one in those], np.float64)[:, None]
        noise = self._sds_max * np.sqrt(np.array([one.noise_units for one in those]))[:, None]
        own = np.array([one.calibrated for one in those])[:, None]
        slack = noise * (math.sqrt(self._privacy.sigma2) * lengths + self._rows_sd * np.maximum(most, -least)) + 1
        slack = slack + np.where(own, 0.02 * rows * (most - least), 0.0)  # The own baseline's rows are rounded.
        reach = rows * (most - least)
        moved = np.stack([one.counts for one in those]) @ self._directions.scores
        far = (moved < np.where(own, -reach, rows * least) - slack) | (moved > np.where(own, reach, rows * most) + slack)
        found: list[int] = np.where(far.any(axis=1), far.argmax(axis=1), -1).tolist()
        return found

    def _too_far(self, taken: Taken) -> Refused:
        signal = self._baseline.signals[self._directions.owner[self._far([taken])[0]]].name
        return mismatch(
            Code.WINDOW_ABSURD, f"shape of signal {signal}", expected=f"what {taken.rows} rows and noise can make", actual="more"
        )

    def _check_weight(self, window: Window) -> None:
        most = self._rows_max * window.noises
        if window.rows > most:
            raise mismatch(Code.WINDOW_OVERWEIGHT, "rows of a window", expected=f"at most {most}", actual=window.rows)

    def _check_interval(self, window: Window, now: int) -> None:
        ordinary = self._privacy.window_seconds
        times = window.seconds // ordinary
        grown = window.seconds % ordinary == 0 and times & (times - 1) == 0 and 1 <= times <= WINDOW_UNITS_MAX
        if not grown or window.start % window.seconds or window.noises > times:
            expected = f"{ordinary} s, or 2 to {WINDOW_UNITS_MAX} windows added up, that begin at a multiple of it"
            actual = f"{window.noises} window(s) in {window.seconds} s at {window.start}"
            raise mismatch(Code.WINDOW_SHAPE, "interval", expected=expected, actual=actual)
        if window.start > now + WINDOW_FUTURE_SECONDS_MAX:
            raise mismatch(
                Code.WINDOW_FUTURE, "start of the interval", expected=f"at most {now + WINDOW_FUTURE_SECONDS_MAX}", actual=window.start
            )
        oldest = now - self._age_seconds_max
        if window.start + window.seconds < oldest:
            what = "end of the interval (window_age_days_max in fleet.toml bounds it)"
            raise mismatch(Code.WINDOW_PAST, what, expected=f"at least {oldest}", actual=window.start + window.seconds)

    def _check_own(self, taken: Taken) -> None:
        """Refuse a window whose own baseline has few rows: it would add so much variance that its cohort could see no drift."""
        wanted = self._baseline.calibration_rows
        if taken.own_rows is None:
            return
        if wanted is None:
            raise mismatch(Code.WINDOW_SHAPE, "own baseline", expected="none: the release declares no calibration", actual=taken.own_rows)
        if taken.own_rows < OWN_ROWS_SHARE_MIN * wanted:
            raise mismatch(Code.WINDOW_ABSURD, "rows of an own baseline", expected=f"about {wanted}", actual=taken.own_rows)
        most = OWN_ROWS_TIMES_MAX * taken.own_rows * taken.noises
        if taken.rows > most:
            what = (
                f"rows of a window whose own baseline is of {taken.own_rows} rows (`fleetcast-node telemetry recalibrate` makes a new one)"
            )
            raise mismatch(Code.WINDOW_OVERWEIGHT, what, expected=f"at most {most}", actual=taken.rows)

    def _check_counts(self, taken: Taken) -> None:
        """Check the totals: every row falls into one bin of every signal, so all totals are the rows (or zero) but for noise."""
        slack = SIGMAS_MAX * math.sqrt(taken.noise_units * self._privacy.sigma2)
        # `rows` is itself a mean of noisy totals, so its own error is allowed for; differences are scaled by it.
        rows_slack = slack * float(self._roots.max()) + 1
        target = 0 if taken.calibrated else taken.rows
        least, most = (-taken.rows - rows_slack if taken.calibrated else 0) - slack, taken.rows + rows_slack + slack
        totals = np.add.reduceat(taken.counts, self._begins)
        total_slacks = slack * self._roots + rows_slack + (0.01 * taken.rows if taken.calibrated else 0)
        wrong = np.abs(totals - target) > total_slacks
        if wrong.any():
            at = int(wrong.argmax())
            raise mismatch(
                Code.WINDOW_ABSURD,
                f"total of signal {self._baseline.signals[at].name}",
                expected=f"{target} ± {total_slacks[at]:.0f}",
                actual=int(totals[at]),
            )
        if int(taken.counts.min()) < least or int(taken.counts.max()) > most:
            odd = int(np.flatnonzero((taken.counts < least) | (taken.counts > most))[0])
            name = self._baseline.signals[int(np.searchsorted(self._begins, odd, side="right")) - 1].name
            expected = f"{least:.0f} to {most:.0f}"
            raise mismatch(Code.WINDOW_ABSURD, f"counts of signal {name}", expected=expected, actual=int(taken.counts[odd]))


@dataclass(frozen=True, slots=True)
class _Directions:
    """Hold the directions in which each signal is tested: [bins of all signals, directions], and their least and largest value of a row."""

    scores: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    lengths: NDArray[np.float64]
    owner: list[int]  # number of the signal


def _directions(baseline: Baseline) -> _Directions:
    by_signal = [scores_of(one.kind, reference_shares(np.array(one.counts, np.float64))) for one in baseline.signals]
    scores = np.zeros((baseline.bins, sum(one.shape[1] for one in by_signal)))
    row = column = 0
    for one in by_signal:
        scores[row : row + one.shape[0], column : column + one.shape[1]] = one
        row, column = row + one.shape[0], column + one.shape[1]
    return _Directions(
        scores,
        np.concatenate([one.min(axis=0) for one in by_signal]),
        np.concatenate([one.max(axis=0) for one in by_signal]),
        np.sqrt((scores**2).sum(axis=0)),
        [number for number, one in enumerate(by_signal) for _ in range(one.shape[1])],
    )


def supported(taken: Taken) -> Taken:
    """Return the window with no more weight than its own baseline supports: counts and rows are made smaller by the same share.

    Its variance is made smaller by the square of that share, and is still taken for that of all its rows: for more than it is.
    """
    if taken.own_rows is None or taken.rows <= (most := OWN_ROWS_TIMES * taken.own_rows * taken.noises):
        return taken
    counts = np.rint(taken.counts * (most / taken.rows)).astype(np.int64)
    return replace(taken, rows=most, counts=counts)


def rows_of(counts: Sequence[int], baseline: Baseline) -> float:
    """Return how many rows noisy counts speak of: the mean of the signals' totals."""
    return sum(counts) / len(baseline.signals)


def merged_window(interval: Interval, manifest: Manifest, about: About | None = None) -> MergedWindow:
    """Return what analytics consumers read of an interval. Differences are expected to be zero."""
    baseline, privacy = watched(manifest)
    rows = 0.0 if interval.calibrated else max(0.0, rows_of(interval.counts, baseline))
    key = baseline.key_of(interval.start)
    signals, at = [], 0
    for signal in baseline.signals:
        reference = signal.reference(key)
        whole = sum(reference) or 1
        signals.append(
            SignalCounts(
                name=signal.name,
                kind=signal.kind,
                edges=signal.edges,
                categories=signal.categories,
                counts=tuple(interval.counts[at : at + signal.bins]),
                expected=tuple(round(rows * count / whole, 2) for count in reference),
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
        rows=interval.rows if interval.calibrated else round(rows),
        noise_sd=math.sqrt(interval.noise_units * privacy.sigma2),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        signals=tuple(signals),
        calibrated=True if interval.calibrated else None,
        late=interval.late or None,
        left_out=interval.left_out or None,
        reference_rows=interval.reference_rows if interval.calibrated else None,
        about=about,
    )


def watched(manifest: Manifest) -> tuple[Baseline, Privacy]:
    """Return what a release declares.

    Raises:
        Refused: it declares no signals.
    """
    if manifest.baseline is None or manifest.privacy is None:
        raise Refused(Code.WINDOW_RELEASE, f"{manifest.model} {manifest.version} declares no signals")
    return manifest.baseline, manifest.privacy

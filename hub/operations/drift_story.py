"""Tell what a stream shows: its counts beside its reference, and its tests over time. Prints and draws nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fleetcast.counted import counted
from hub.core.drift import accuracy, interval_significance, periods, shift_size
from hub.core.drift.compare import Comparison, compare
from hub.core.drift.episodes import Episode
from hub.core.drift.reference_model import ordinary
from hub.core.drift.shift_size import Size, Unit
from hub.core.drift.stream_alarms import part_of
from hub.core.rollouts import active_alarms
from hub.database.drift_queries import Asked, Findings, Key
from hub.database.rows import IntervalRow, StreamRow
from hub.operations.drift_rows import known_streams
from hub.operations.moments import iso, written
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry import redaction
from schemas.analytics_messages import Drift, MergedWindow, SignalDrift
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

SIGNALS_DEFAULT = 3  # Signals shown where none is named and none alarmed.
INTERVALS_MAX = 5000  # Intervals of one picture: a longer period is shown by its newest ones.
HISTORY_MAX = 120  # intervals of which the size is drawn
OF_A_TEST: Final = ("size", "size_low", "size_high", "size_unit", "effect", "direction")  # What is shown of each interval.


@dataclass(frozen=True, slots=True)
class Explained:
    """Hold a signal's counts over the period, its tests over time, and its newest test."""

    comparison: Comparison
    history: tuple[tuple[int, SignalDrift, bool], ...]  # start, test, and whether this interval alone is an alarm of this signal
    newest: SignalDrift
    since: int | None

    @property
    def moved(self) -> tuple[tuple[int, float, bool], ...]:
        """Return how far it moved in each interval: a number's shift with its sign, and the size of everything else.

        What an earlier hub tested of anything else is left out: its sizes are in another unit.
        """
        if self.comparison.kind == "numeric":
            return tuple((start, test.effect, alarm) for start, test, alarm in self.history)
        return tuple((start, test.size, alarm) for start, test, alarm in self.history if test.size_unit is not None)

    @property
    def unit(self) -> Unit:
        """Return the unit of `moved`."""
        return "sd" if self.comparison.kind == "numeric" else "share"


@dataclass(frozen=True, slots=True)
class Story:
    """Hold everything that is shown of a stream."""

    model: str
    version: str
    cohort: str
    since: int
    until: int
    intervals: int
    window: MergedWindow
    alarm: bool
    own_baselines: bool
    alpha: float
    signals: tuple[Explained, ...]

    @property
    def summary(self) -> str:
        """Return the period, and how much was counted in it."""
        intervals = counted(self.intervals, "interval")
        rows = f"{counted(self.window.windows, 'window')} of nodes, about {self.window.rows:,} rows"
        left_out = self.window.left_out
        were, are = ("was", "is") if left_out == 1 else ("were", "are")
        unlike = f"; {counted(left_out or 0, 'window')} unlike the others {were} left out of the tests, and {are} not shown"
        return f"{written(self.since)} to {written(self.until)} UTC: {intervals}, {rows}{unlike if left_out else ''}"


@dataclass(frozen=True, slots=True)
class Question:
    """Hold what an operator asks for; an empty version, no cohort, no names and no moment leave the choice to `tell`."""

    model: str
    version: str
    cohort: str | None
    names: tuple[str, ...]
    moment: int | None


def story_of(findings: Findings, releases: Releases, question: Question, *, cohort_nodes_min: int) -> Story:
    """Return what there is to show.

    Raises:
        Refused: nothing was tested there, or there is no such signal.
    """
    stream, manifest, episode = _stream(findings, releases, question)
    moment, name = question.moment, f"{question.model}@{manifest.version}"
    key = (question.model, manifest.version, stream.cohort, accuracy.about(manifest))
    tests = findings.drifts(key, until=None if moment is None else moment + 1, limit=HISTORY_MAX)
    test = _shown_of(findings, tests, moment, key)
    tests = [one for one in tests if one.gathering == test.gathering]
    asked = Asked(
        question.model,
        stream.cohort,
        since=_begin(test, moment, episode),
        until=test.start + 1,
        release=stream.release,
        windows_min=cohort_nodes_min,
    )
    rows = _rows(findings, asked, calibrated=test.calibrated is True)
    without = findings.trimmed(asked)
    window = _counts(rows, manifest, without, name=f"{name} in cohort {stream.cohort}")
    _check_names(question.names, window, name)
    moved_since = _moved_since(findings, test) if episode is not None else {}
    compared = {one.name: one for one in compare(window, _sizes(rows, manifest, without, moved_since if moment is None else {}))}
    chosen = [name for name in question.names or list(moved_since) or _likeliest(test) if name in compared]
    return Story(
        model=question.model,
        version=manifest.version,
        cohort=stream.cohort,
        since=window.start,
        until=window.start + window.seconds,
        intervals=len(rows),
        window=window,
        alarm=episode is not None,
        own_baselines=test.calibrated is True,
        alpha=test.alpha,
        signals=tuple(
            _explained(compared[name], tests, test, episode.since if episode is not None and name in moved_since else None)
            for name in chosen
        ),
    )


def _begin(test: Drift, moment: int | None, episode: Episode | None) -> int:
    """Return the start of the period: of the alarm that lasts, where no moment was asked for."""
    return test.start if moment is not None or episode is None else min(episode.since, test.start)


def _rows(findings: Findings, asked: Asked, *, calibrated: bool) -> list[IntervalRow]:
    """Return the newest intervals, of those with or without own baselines where there are any such."""
    rows = list(findings.intervals(asked))[-INTERVALS_MAX:]
    return [row for row in rows if row.calibrated is calibrated] or rows


def _counts(rows: Sequence[IntervalRow], manifest: Manifest, without: Collection[Key], *, name: str) -> MergedWindow:
    """Return the counts of all intervals together.

    Raises:
        Refused: none are kept.
    """
    window = periods.together([periods.on_reference(redaction.merged(row, manifest, without), manifest) for row in rows])
    if window is None:
        raise Refused(Code.REFERENCE_INVALID, f"the counts of {name} are not kept any more")
    return window


def _check_names(names: Sequence[str], window: MergedWindow, release: str) -> None:
    """Check that a release has these signals.

    Raises:
        Refused: it lacks one.
    """
    known = [signal.name for signal in window.signals]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise Refused(Code.SETTINGS_INVALID, f"{release} has no signal {unknown[0]!r}; it has {', '.join(known)}")


def _stream(findings: Findings, releases: Releases, question: Question) -> tuple[StreamRow, Manifest, Episode | None]:
    """Choose the stream to show: one whose alarm lasts, otherwise the one with the most evidence.

    Signals that are named are looked for where they are: `accuracy` is a stream of its own.
    """
    model, version, cohort = question.model, question.version, question.cohort
    streams = list(known_streams(findings, releases, model, cohort))
    newest = findings.newest((model, manifest.version, stream.cohort, accuracy.about(manifest)) for stream, manifest in streams)
    cohorts = active_alarms.cohort_newest(newest)
    found = []
    for stream, manifest in streams:
        last = newest.get((model, manifest.version, stream.cohort, accuracy.about(manifest)))
        if last is None or version not in {"", manifest.version} or not (stream.state or last.gathering):
            continue
        episode = None if stream.episode is None else Episode.model_validate_json(stream.episode)
        cohort_newest = cohorts[model, manifest.version, stream.cohort, last.about]
        lasts = active_alarms.lasts(episode, newest=last.start, seconds=last.seconds, cohort_newest=cohort_newest)
        known = {signal.name for signal in last.signals}
        found.append(((known.issuperset(question.names), lasts, last.alarm, stream.log_evidence, last.start), stream, manifest, episode))
    if not found:
        where = f" in cohort {cohort}" if cohort else ""
        raise Refused(Code.RELEASE_UNKNOWN, f"no interval of {model}{'@' + version if version else ''} was tested{where} yet")
    return max(found, key=lambda one: one[0])[1:]


def _shown_of(findings: Findings, tests: Sequence[Drift], moment: int | None, key: active_alarms.StreamName) -> Drift:
    """Return the newest test, or that of this moment's interval; a test with a result goes before one without.

    Raises:
        Refused: there is none; the sentence says what there is.
    """
    here = [one for one in tests if moment is None or one.start + one.seconds > moment]
    if moment is not None and not here:
        newest = findings.newest([key])[key]
        raise Refused(
            Code.REFERENCE_INVALID, f"no interval at {written(moment)} UTC was tested; the newest began at {written(newest.start)} UTC"
        )
    return ([one for one in here if not one.gathering] or here)[-1]


def _moved_since(findings: Findings, test: Drift) -> dict[str, int]:
    """Return the signals of the stream's newest alarm, and since when each has moved, as the alert has it."""
    reported_alarms = [one.raised for one in active_alarms.reported_alarms(findings.alerts(test.model))]
    mine = [one for one in reported_alarms if (one.version, one.cohort, one.about) == (test.version, test.cohort, test.about)]
    if not mine:
        return {}
    found = {one.name: interval_significance.moved(one, mine[-1].alarm_kind).since for one in mine[-1].signals}
    return {name: 0 if since is None else since for name, since in found.items()}


def _sizes(rows: Sequence[IntervalRow], manifest: Manifest, without: Collection[Key], since: Mapping[str, int]) -> tuple[Size, ...]:
    """Estimate how far every signal has moved in these intervals, or in those since its own moment."""
    if manifest.baseline is None or manifest.privacy is None:
        raise ValueError("a release without signals is not tested")
    baseline, sigma2 = manifest.baseline, manifest.privacy.sigma2
    references = {key: ordinary(baseline, sigma2, hour=key) for key in {baseline.key_of(row.start) for row in rows}}
    counted = []
    for row in rows:
        reference = references[baseline.key_of(row.start)]
        counted.append((row.start, shift_size.counted(part_of(redaction.believed(row, manifest, without), reference), reference)))
    newest = references[baseline.key_of(rows[-1].start)]
    moments = {at for at in since.values() if at <= rows[-1].start} | {0}
    found = {at: shift_size.estimate(shift_size.together([one for start, one in counted if start >= at]), newest) for at in moments}
    return tuple(found.get(since.get(name, 0), found[0])[number] for number, name in enumerate(newest.names))


def _likeliest(test: Drift) -> list[str]:
    """Choose the signals to show where none is named and no alarm lasts."""
    ranked = sorted(test.signals, key=lambda one: (one.p_adjusted, -(one.evidence or 0.0)))
    alone = _alone(test)
    return [one.name for one in ranked if one.name in alone] or [one.name for one in ranked[:SIGNALS_DEFAULT]]


def _alone(test: Drift) -> set[str]:
    """Return the signals for which this interval alone is an alarm; none where the interval was not tested."""
    return set() if test.gathering else {one.name for one in interval_significance.alarmed(test.signals, test.alpha)}


def _explained(comparison: Comparison, tests: Sequence[Drift], test: Drift, since: int | None) -> Explained:
    history = []
    for one in tests:
        alone = _alone(one)
        for signal in one.signals:
            if signal.name == comparison.name:
                history.append((one.start, signal, signal.name in alone))
    newest = next(one for one in test.signals if one.name == comparison.name)
    return Explained(comparison, tuple(history), newest, since)


def story_row(story: Story) -> dict[str, Any]:
    """Return a story for a script, with all that the same picture can be drawn from elsewhere."""
    return {
        "model": story.model,
        "version": story.version,
        "cohort": story.cohort,
        "alarm": story.alarm,
        "since": iso(story.since),
        "until": iso(story.until),
        "intervals": story.intervals,
        "windows": story.window.windows,
        "rows": story.window.rows,
        "noise_sd": story.window.noise_sd,
        "windows_left_out": story.window.left_out or 0,
        "own_baselines": story.own_baselines,
        "alpha": story.alpha,
        "summary": story.summary,
        "signals": [_signal_row(one) for one in story.signals],
    }


def _signal_row(one: Explained) -> dict[str, Any]:
    moved, found = one.comparison.moved, asdict(one.comparison)
    del found["moved"]
    sizes = {"size": moved.value, "size_low": moved.low, "size_high": moved.high, "size_unit": moved.unit, "direction": moved.direction}
    history = [
        {"start": iso(start), "alarm": alarm, **{name: getattr(test, name) for name in OF_A_TEST}} for start, test, alarm in one.history
    ]
    tests = {"p_adjusted": one.newest.p_adjusted, "evidence": one.newest.evidence, "since": iso(one.since), "history": history}
    return {**found, "effect": moved.effect, **sizes, **tests}

"""Decides which alarms last, and which of them a rollout has to answer for. Knows findings, and neither their tests nor a clock.

An episode ends when its stream is quiet for long enough (hub/core/drift/episodes.py). A release that nobody serves any more has no
intervals, so its episode would last for ever: it counts as left when the cohort has gone on with another release for as long as it may be
quiet, or has had no interval of its own for `GONE_INTERVALS` of them. When it serves again, so does its alarm.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hub.core.drift.episodes import Episode
from schemas.accuracy import About
from schemas.analytics_messages import Alert, Drift

StreamName = tuple[str, str, str, About | None]  # model, version, cohort, and what of the release is followed: its signals, or accuracy


GONE_INTERVALS = 3  # as few as an alarm is quiet for before it is over (hub/core/drift/episodes.py); one may be late, or of too few nodes


def lasts(episode: Episode | None, *, newest: int, seconds: int, cohort_newest: int) -> bool:
    """Return whether an alarm lasts.

    `newest` is the start of the newest interval of its release in its cohort, and `seconds` the length; `cohort_newest` is that of the
    function of this name.
    """
    if episode is None or cohort_newest - episode.last > episode.quiet_seconds:
        return False
    return cohort_newest - newest <= GONE_INTERVALS * seconds


@dataclass(frozen=True, slots=True)
class ReportedAlarm:
    """Hold one episode, as alerts reported it."""

    raised: Alert
    over_at: int | None


def reported_alarms(alerts: Sequence[Alert]) -> list[ReportedAlarm]:
    """Return episodes from a model's alerts, which come oldest first."""
    found: list[ReportedAlarm] = []
    running: dict[tuple[str | None, ...], int] = {}
    for alert in alerts:
        key = (alert.model, alert.version, alert.cohort, alert.about)
        if alert.kind == "drift":
            running[key] = len(found)
            found.append(ReportedAlarm(alert, None))
        elif alert.kind == "drift_over" and key in running:
            at = running.pop(key)
            found[at] = ReportedAlarm(found[at].raised, alert.at)
    return found


def speaks_against(alerts: Sequence[Alert], *, version: str, cohorts: Collection[str] | None, judged_from: int) -> str:
    """Return why drift halts a rollout of `version` that is judged since `judged_from`, in words; empty where it does not.

    What halts is drift that was raised since then, by the release that is rolled out, in a cohort of the nodes that are addressed, and of a
    signal that did not drift there already under another release when judging began: what the world did before is not the release's
    fault, and a release that answers it must be able to get out. `cohorts` is None where a node does not say its own: then all count.
    """
    episodes = reported_alarms(alerts)
    before: dict[str | None, set[str]] = {}
    for one in episodes:
        lasted = one.raised.at < judged_from and (one.over_at is None or one.over_at >= judged_from)
        if lasted and one.raised.version != version:
            before.setdefault(one.raised.cohort, set()).update(signal.name for signal in one.raised.signals)
    for one in episodes:
        alert = one.raised
        if alert.version != version or alert.at < judged_from or (cohorts is not None and alert.cohort not in cohorts):
            continue
        new = [signal.name for signal in alert.signals if signal.name not in before.get(alert.cohort, ())]
        if new or not alert.signals:
            return f"{version} raised a drift alarm in cohort {alert.cohort}: {', '.join(new) or alert.text}"
    return ""


def cohort_newest(newest: Mapping[StreamName, Drift]) -> dict[StreamName, int]:
    """Return for each stream the start of the newest interval with which its cohort may have gone on; labels come weeks after signals.

    Whatever release it is of, but for nodes of the stream's own release that gather their baselines anew: they serve it, and tell nothing
    of its drift.
    """
    by_cohort: dict[tuple[str, str, About | None], dict[str, int]] = {}
    for (model, version, cohort, about), test in newest.items():
        by_cohort.setdefault((model, cohort, about), {})[version] = test.start
    found = {}
    for (model, version, cohort, about), test in newest.items():
        starts = by_cohort[model, cohort, about]
        found[model, version, cohort, about] = max((at for one, at in starts.items() if one != version or not test.gathering), default=0)
    return found

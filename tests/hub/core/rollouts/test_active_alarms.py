"""Which alarms last, and which a rollout has to answer for."""

import pytest

from hub.core.drift.episodes import Episode
from hub.core.rollouts.active_alarms import StreamName, cohort_newest, lasts, reported_alarms, speaks_against
from schemas.analytics_messages import Alert, Drift, SignalDrift

EPISODE = Episode(since=0, raised=100, last=500, quiet_seconds=300)


def alert(kind: str, at: int, version: str = "1.1.0", cohort: str = "nyc", signals: str = "hour") -> Alert:
    found = tuple(
        SignalDrift(name=name, p_value=0.0, p_adjusted=0.0, effect=1.0, size=1.0, direction="higher") for name in signals.split() if name
    )
    fields = {"kind": kind, "at": at, "model": "delay", "version": version, "cohort": cohort, "text": "it drifts"}
    return Alert.model_validate({**fields, "signals": found if kind == "drift" else ()})


@pytest.mark.parametrize(
    ("episode", "newest", "cohort_newest", "expected"),
    [
        (None, 500, 500, False),
        (EPISODE, 500, 500, True),
        (EPISODE, 800, 800, True),
        (EPISODE, 801, 801, False),
        (EPISODE, 520, 550, True),
        (EPISODE, 520, 551, False),  # nobody serves the release any more, though its alarm may be quiet for 300
    ],
)
def test_an_alarm_lasts_until_its_cohort_has_gone_on_without_it(
    episode: Episode | None, newest: int, cohort_newest: int, expected: bool
) -> None:
    assert lasts(episode, newest=newest, seconds=10, cohort_newest=cohort_newest) is expected


def test_episodes_are_told_from_alerts_each_by_its_release_and_cohort() -> None:
    alerts = [
        alert("drift", 1),
        alert("drift", 2, cohort="bos"),
        alert("drift_over", 3),
        alert("drift", 4),
        alert("drift_over", 5, version="1.0.0"),
        alert("drift_over", 6, cohort="bos"),
    ]

    assert [(one.raised.at, one.over_at) for one in reported_alarms(alerts)] == [(1, 3), (2, 6), (4, None)]


def test_accuracy_and_signals_of_one_release_are_episodes_of_their_own() -> None:
    accuracy = alert("drift", 2, signals="accuracy").model_copy(update={"about": "accuracy"})
    over = alert("drift_over", 3).model_copy(update={"about": "accuracy"})

    assert [(one.raised.about, one.over_at) for one in reported_alarms([alert("drift", 1), accuracy, over])] == [
        (None, None),
        ("accuracy", 3),
    ]


NEW = alert("drift", 1100)


@pytest.mark.parametrize(
    ("case", "alerts", "halts"),
    [
        ("nothing", [], False),
        ("drift of the new release", [NEW], True),
        ("of another release only", [alert("drift", 1100, "1.0.0")], False),
        ("in a cohort of no node of the stage", [alert("drift", 1100, cohort="bos")], False),
        ("raised before judging began", [alert("drift", 900)], False),
        ("the world drifted so already", [alert("drift", 900, "1.0.0"), NEW], False),
        ("the world drifted so until later", [alert("drift", 900, "1.0.0"), alert("drift_over", 1050, "1.0.0"), NEW], False),
        ("the world had come back before", [alert("drift", 900, "1.0.0"), alert("drift_over", 950, "1.0.0"), NEW], True),
        ("the world drifted so elsewhere", [alert("drift", 900, "1.0.0", cohort="bos"), NEW], True),
        ("the world drifted otherwise", [alert("drift", 900, "1.0.0", signals="wind"), NEW], True),
        ("one signal more than the world's", [alert("drift", 900, "1.0.0"), alert("drift", 1100, signals="hour wind")], True),
        ("the world began to drift since", [alert("drift", 1050, "1.0.0"), NEW], True),
        ("an alert that names nothing", [alert("drift", 1100, signals="")], True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_new_drift_of_the_release_where_it_is_halts_its_rollout(case: str, alerts: list[Alert], halts: bool) -> None:
    reason = speaks_against(alerts, version="1.1.0", cohorts={"nyc"}, judged_from=1000)

    assert bool(reason) is halts


def test_the_reason_names_the_cohort_and_what_is_new() -> None:
    alerts = [alert("drift", 900, "1.0.0"), alert("drift", 1100, signals="hour wind")]

    assert speaks_against(alerts, version="1.1.0", cohorts=None, judged_from=1000) == "1.1.0 raised a drift alarm in cohort nyc: wind"


def test_where_nodes_do_not_say_their_cohort_every_cohort_counts() -> None:
    assert speaks_against([alert("drift", 1100, cohort="bos")], version="1.1.0", cohorts=None, judged_from=1000)


def interval(start: int, *, gathering: bool | None = None) -> Drift:
    fields = {"model": "delay", "version": "1.0.0", "cohort": "nyc", "start": start, "seconds": 10, "windows": 3, "alarm": False}
    return Drift(**fields, alpha=0.01, signals=(), gathering=gathering)  # type: ignore[arg-type]


def test_a_cohort_goes_on_with_intervals_of_any_release_and_of_accuracy_its_own() -> None:
    newest: dict[StreamName, Drift] = {
        ("delay", "1.0.0", "nyc", None): interval(5),
        ("delay", "1.1.0", "nyc", None): interval(9, gathering=True),
        ("delay", "1.0.0", "bos", None): interval(7),
        ("delay", "1.0.0", "nyc", "accuracy"): interval(2),  # labels come weeks later
    }

    assert list(cohort_newest(newest).values()) == [9, 5, 7, 2]


def test_an_alarm_lasts_while_the_nodes_of_its_own_release_gather_baselines_anew() -> None:
    name: StreamName = ("delay", "1.0.0", "nyc", None)
    again = interval(900, gathering=True)  # 400 after the alarm was last found; it may be quiet for 300

    assert lasts(EPISODE, newest=again.start, seconds=again.seconds, cohort_newest=cohort_newest({name: again})[name])

"""Nodes that have yet to gather a baseline of their own: shown beside the reference, told once where they are unlike it, never an alarm."""

from pathlib import Path

import pytest

from hub.database.drift_queries import Findings
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_evidence import Evidence
from schemas import codec
from schemas.names import sha256
from tests.hub.hubs import START, WINDOW_SECONDS
from tests.hub.service.telemetry.test_drift_job import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "fleet")
    made.manifest = made.fleet.publish("1.1.0", calibration_rows=1024)
    made.digest = sha256(codec.encode(made.manifest))
    return made


def test_a_cohort_that_is_unlike_the_reference_is_told_once_and_is_no_drift(hub: Hub) -> None:
    for hour in range(3):
        hub.hear(hour, shift=1.0)
        hub.settle()
        hub.start()

    (alert,) = hub.alerts()
    found = [hub.drift(hour) for hour in range(3)]
    assert alert.kind == "unlike_reference"
    assert "hour is higher" in alert.text
    assert [(one.alarm, one.gathering, one.signals[0].p_adjusted < 1e-6) for one in found] == [(False, True, True)] * 3
    assert hub.store.streams() == []
    assert [one.cohort for one in Findings(hub.store.database).begun("delay")] == ["nyc"]
    assert hub.settling.newest() == [found[2]]


def test_uncalibrated_newcomers_raise_and_end_nothing_and_stay_off_the_topic(hub: Hub) -> None:
    for hour in range(4):
        hub.hear_calibrated(hour, shift=1.0 if hour >= 2 else 0.0)
        hub.hear(hour, shift=0.0 if hour >= 2 else 1.0)
        hub.settle()

    judged = [one for one in hub.store.drifts("delay") if not one.gathering]
    assert [one.alarm for one in judged][::-1] == [False, False, True, True]
    assert [[signal.alarm for signal in one.signals] for one in judged][::-1] == [[False], [False], [True], [True]]
    assert [signal.alarm for alert in hub.alerts() for signal in alert.signals] == [None, True]  # of the first nothing was judged
    assert [one.episode for one in judged][::-1] == [None, None, "raised", "lasting"]
    assert [one.kind for one in hub.alerts()] == ["unlike_reference", "drift"]
    assert hub.settling.newest()[0].calibrated
    assert hub.store.streams() != []
    assert Findings(hub.store.database).begun("delay") == []


def test_the_evidence_of_a_drift_is_of_the_nodes_that_were_judged_though_newcomers_are_more(hub: Hub) -> None:
    for hour in range(4):
        hub.hear_calibrated(hour, shift=1.0 if hour >= 2 else 0.0, windows=6)
        hub.hear(hour, windows=12)
        hub.settle()
    releases = Releases(hub.fleet.repository, BlockStore(hub.fleet.directory / "blocks"))
    (alert,) = [one for one in hub.alerts() if one.kind == "drift"]

    (found,) = Evidence(Findings(hub.store.database), releases, cohort_nodes_min=3).of([alert], number="1", fleet="f", now=0).findings

    assert found.window is not None
    assert found.window.calibrated
    assert found.window.windows % 6 == 0


def test_a_retested_interval_counts_for_no_stage_that_began_after_it(hub: Hub) -> None:
    findings, version = Findings(hub.store.database), hub.manifest.version
    hub.hear_calibrated(0)
    hub.settle()
    entered = int(hub.now) + 1
    hub.hear_calibrated(0)
    hub.settle()
    before = findings.tested_since("delay", version, entered)
    hub.hear_calibrated(1)
    hub.settle()

    assert (before, findings.tested_since("delay", version, entered)) == ({}, {"nyc": 1})


def test_a_release_whose_nodes_have_no_baselines_is_judged_by_its_reference(hub: Hub) -> None:
    hub.manifest = hub.fleet.publish("1.2.0")
    hub.digest = sha256(codec.encode(hub.manifest))
    hub.hear(0, shift=1.0)
    hub.settle()

    assert (hub.drift(0).alarm, hub.drift(0).gathering) == (True, None)


def test_a_cohort_that_is_judged_by_nobody_any_more_is_told_once_and_not_every_night(hub: Hub) -> None:
    for hour in (*range(12), *range(174, 180)):
        hub.now = float(START + hour * WINDOW_SECONDS)
        hub.hear_calibrated(hour, windows=20 if hour in (0, 5, 174) else 2)
        hub.hear(hour, windows=2)
        hub.settle()
        hub.start()

    first, second = hub.alerts()
    assert [(one.kind, one.code, one.since) for one in (first, second)] == [
        ("not_judged", "drift.too_few", START + hour * WINDOW_SECONDS) for hour in (0, 174)
    ]
    assert "2 with baselines, 2 without, 3 of a kind needed" in first.text


def test_a_release_that_a_cohort_has_left_for_another_is_not_missed(hub: Hub) -> None:
    hub.hear_calibrated(0)
    hub.settle()
    left, hub.manifest = hub.digest, hub.fleet.publish("1.2.0")
    for hour in range(1, 6):
        hub.digest = sha256(codec.encode(hub.manifest))
        hub.hear(hour)
        hub.digest = left
        hub.hear(hour, windows=1)
        hub.settle()

    assert hub.alerts() == []


def test_a_cohort_that_only_gathers_for_weeks_is_told_once(hub: Hub) -> None:
    for hour in (0, 14 * 24 - 1, 14 * 24, 14 * 24 + 1):
        hub.hear(hour)
        hub.settle()
        hub.start()

    (alert,) = hub.alerts()
    assert (alert.kind, alert.code, alert.since) == ("not_judged", "drift.gathers", START)
    assert hub.drift(14 * 24).gathering
